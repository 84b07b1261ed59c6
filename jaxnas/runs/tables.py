"""Tables for reading: cells as text with sensible digits, columns aligned for a terminal."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

_SHORTEST = 24  # characters that no text is cut below
# What a terminal would obey instead of showing it: control characters but for the line feed, and
# those that turn the direction of writing.
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Svg(NamedTuple):
    """A drawing as a cell of a table; a page shows it, a terminal leaves it out.

    Attributes:
        markup: an `<svg>` element, put into the page as it is.
    """

    markup: str


class Column(NamedTuple):
    """One column of a table, as it is shown.

    Attributes:
        label: its heading.
        cells: texts and drawings, from top to bottom.
        is_numeric: whether it is aligned at the right.
    """

    label: str
    cells: Sequence[str | Svg]
    is_numeric: bool


def columns_of(frame: pd.DataFrame) -> list[Column]:
    """Return the columns of `frame`, without its index, as they are shown.

    Real numbers of a column share the decimals that give the largest 4 significant digits, unless
    that would hide the smallest; then each has 4 significant digits of its own. Integers from
    10,000 are grouped, and what is missing is a dash.
    """
    columns = []
    for place, label in enumerate(frame.columns):
        values = frame.iloc[:, place].tolist()
        decimals = _decimals(
            [
                float(value)
                for value in values
                if _is_number(value) and not isinstance(value, Integral)
            ]
        )
        columns.append(
            Column(
                label=_in_one_line(str(label)),
                cells=[_cell(value, decimals) for value in values],
                is_numeric=all(_is_missing(value) or _is_number(value) for value in values),
            )
        )
    return columns


def printable(text: str) -> str:
    """Return `text` with a sign in the place of each character that a terminal would obey."""
    return _OBEYED.sub(lambda match: " " if match[0] in "\t\r" else "\ufffd", text)


def aligned(frame: pd.DataFrame, width: int) -> str:
    """Return `frame` as lines of at most `width` characters where its columns allow it.

    Columns with drawings are left out. The keys, the columns that say what a row is, are never cut:
    the texts before the first numbers, or the first column where those are none or all of them.
    Other long texts are cut; what then does not fit goes into further blocks, led by the keys.
    """
    columns = [
        column
        for column in columns_of(frame)
        if not any(isinstance(cell, Svg) for cell in column.cells)
    ]
    if frame.empty or not columns:
        return "(nothing to show)"
    num_keys = _num_keys(columns)
    fitted = _fitted(columns, num_keys, width)
    blocks = _blocks([_laid_out(column) for column in fitted], num_keys, width)
    return "\n\n".join(
        "\n".join("  ".join(line).rstrip() for line in zip(*block, strict=True)) for block in blocks
    )


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, Real) and math.isnan(value)
    return is_nan or any(value is missing for missing in (None, pd.NA, pd.NaT))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _decimals(numbers: Sequence[float]) -> int | None:
    """Return the decimals that suit all of `numbers`, or None if no number of decimals does."""
    sizes = [abs(number) for number in numbers if math.isfinite(number) and number != 0.0]
    if not sizes:
        return 0
    decimals = int(np.clip(3 - math.floor(math.log10(max(sizes))), 0, 3))
    return decimals if max(sizes) < 1e6 and min(sizes) >= 10.0**-decimals else None


def _cell(value: Any, decimals: int | None) -> str | Svg:
    if isinstance(value, Svg):
        return value
    if isinstance(value, str):
        return _in_one_line(value)
    if _is_missing(value):
        return "-"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        integer = int(value)
        return f"{integer:,}" if abs(integer) >= 10_000 else f"{integer}"
    if isinstance(value, Real):
        number = float(value)
        return f"{number:.4g}" if decimals is None else f"{number:.{decimals}f}"
    return _in_one_line(str(value))


def _in_one_line(text: str) -> str:
    return printable(text).replace("\n", " ")


def _num_keys(columns: Sequence[Column]) -> int:
    """Return how many of the first columns say what a row is."""
    texts = len(list(itertools.takewhile(lambda column: not column.is_numeric, columns)))
    return texts if 0 < texts < len(columns) else 1


def _fitted(columns: Sequence[Column], num_keys: int, width: int) -> list[Column]:
    """Return `columns` with long texts after the keys cut, the longest first, until all fit."""
    limits = [max(len(text) for text in _texts(column)) for column in columns]
    while sum(limits) + 2 * (len(limits) - 1) > width:
        free = [
            (limit, place)
            for place, limit in enumerate(limits)
            if place >= num_keys and limit > _SHORTEST and not columns[place].is_numeric
        ]
        if not free:
            break
        limits[max(free)[1]] -= 1
    return [
        Column(label, cells, column.is_numeric)
        for column, limit in zip(columns, limits, strict=True)
        for label, *cells in [[_cut(text, limit) for text in _texts(column)]]
    ]


def _texts(column: Column) -> list[str]:
    return [column.label, *(cell for cell in column.cells if isinstance(cell, str))]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _laid_out(column: Column) -> list[str]:
    """Return the lines of a column, padded to one width: label, rule, cells."""
    texts = _texts(column)
    width = max(len(text) for text in texts)
    label, *cells = (
        f"{text:>{width}}" if column.is_numeric else f"{text:<{width}}" for text in texts
    )
    return [label, "-" * width, *cells]


def _blocks(columns: Sequence[list[str]], num_keys: int, width: int) -> Iterator[list[list[str]]]:
    """Yield runs of columns that fit side by side, each led by the keys."""
    keys = list(columns[:num_keys])
    block = keys
    for column in columns[num_keys:]:
        fits = sum(len(side[0]) + 2 for side in [*block, column]) - 2 <= width
        if not fits and len(block) > num_keys:
            yield block
            block = keys
        block = [*block, column]
    yield block
