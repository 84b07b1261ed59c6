"""A report, described once: one self-contained HTML page, and plain text for the terminal."""

import base64
import functools
import io
import itertools
import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from html import escape, unescape
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from jaxnas.runs.files import output_folder, write_whole
from jaxnas.runs.tables import Column, Svg, aligned, columns_of, printable

_DOTS_PER_INCH = 160
_SAVED_FIGURE = re.compile(
    r'<h2>([^<]*)</h2>\n<figure>\n<img src="data:image/png;base64,([^"]*)"'
)  # its title and image, as `_page` writes them
_LONG = 30  # characters from which a column breaks its lines instead of stretching the table


class Text(NamedTuple):
    """A section of prose; blank lines part its paragraphs."""

    title: str
    text: str


class Table(NamedTuple):
    """A section with a table.

    Attributes:
        title: its heading.
        frame: its columns, under their labels, without the index; cells may be `Svg`.
        note: what to know when reading it.
    """

    title: str
    frame: pd.DataFrame
    note: str = ""


class Plot(NamedTuple):
    """A section with a figure.

    Attributes:
        title: its heading.
        figure: a matplotlib figure.
        description: what there is to see, for those who cannot: the alternative text of the page,
            and all that the terminal gets.
        note: what to know when reading it.
    """

    title: str
    figure: Figure
    description: str
    note: str = ""


class Report(NamedTuple):
    """A title and a subtitle, then sections in their order."""

    title: str
    subtitle: str
    parts: Sequence[Text | Table | Plot]


def to_html(report: Report) -> str:
    """Return the report as one page that asks nothing of a network.

    Everything is escaped but the drawings in the cells of tables.

    Raises:
        ValueError: a plot has no description.
    """
    return _page(report, [_png(plot) for plot in _plots(report)])


def to_text(report: Report, width: int | None = None) -> str:
    """Return the report as plain text.

    Args:
        report: what to show.
        width: in characters; None takes that of the terminal.

    Raises:
        ValueError: a plot has no description.
    """
    width = shutil.get_terminal_size().columns if width is None else width
    blocks = [_headline(report.title, "="), _wrapped(report.subtitle, width)]
    for part in report.parts:
        blocks.append(_headline(part.title, "-"))
        match part:
            case Text(text=text):
                blocks.append(_wrapped(text, width))
            case Table(frame=frame, note=note):
                blocks += [aligned(frame, width), _wrapped(note, width)]
            case Plot(note=note):
                blocks += [_wrapped(_description(part), width), _wrapped(note, width)]
    return printable("\n\n".join(block for block in blocks if block) + "\n")


def save(report: Report, output_dir: str | os.PathLike[str]) -> Path:
    """Write the page, and every figure as a PNG beside it; return the path of `report.html`.

    The figures are named after their titles. Those of the report that was saved there before are
    replaced or removed; no other file is touched.

    Raises:
        ValueError: a plot has no description.
        OSError: the folder cannot be written.
    """
    folder = output_folder(output_dir)
    page = folder / "report.html"
    images = [_png(plot) for plot in _plots(report)]
    names = _file_names([plot.title for plot in _plots(report)])
    content = _page(report, images).encode()
    for name, image in zip(names, images, strict=True):
        write_whole(folder / name, image)
    # Before the new page is there: the old one is what tells which files are its figures.
    _remove_figures(page, keep=names)
    return write_whole(page, content)


def _file_names(titles: Sequence[str]) -> list[str]:
    """Return a different file name for each of `titles`."""
    names: list[str] = []
    for title in titles:
        stem = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "figure"
        endings = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
        candidates = (f"{stem}{ending}.png" for ending in endings)
        names.append(next(name for name in candidates if name not in names))
    return names


def _remove_figures(page: Path, keep: Sequence[str]) -> None:
    """Remove the files that have both the name and the content of a figure of `page`."""
    old = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    figures = _SAVED_FIGURE.findall(old)
    names = _file_names([unescape(title) for title, _ in figures])
    for name, (_, source) in zip(names, figures, strict=True):
        path = page.with_name(name)
        if name not in keep and path.is_file() and _base64(path.read_bytes()) == source:
            path.unlink()


def _plots(report: Report) -> list[Plot]:
    return [part for part in report.parts if isinstance(part, Plot)]


def _description(plot: Plot) -> str:
    if not plot.description.strip():
        raise ValueError(
            f"A plot must have a description: got none for {plot.title!r}; say in a sentence what "
            "there is to see, for readers who cannot."
        )
    return plot.description


def _png(plot: Plot) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib, equal figures are equal files.
    plot.figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


def _headline(title: str, rule: str) -> str:
    return f"{title}\n{rule * len(title)}"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip())]


def _wrapped(text: str, width: int) -> str:
    fill = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(fill(paragraph, width) for paragraph in _paragraphs(text))


def _page(report: Report, images: Sequence[bytes]) -> str:
    style = resources.files("jaxnas.runs").joinpath("report.css").read_text(encoding="utf-8")
    remaining = iter(images)
    sections = []
    for part in report.parts:
        match part:
            case Text(text=text):
                content = _prose(text)
            case Table():
                content = _table(part)
            case Plot():
                content = _figure(part, next(remaining))
        sections.append(f"<section>\n<h2>{escape(part.title)}</h2>\n{content}\n</section>")
    body = "\n".join(sections)
    # The policy has the browser itself refuse whatever is not in this file.
    return printable(f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(report.title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{escape(report.title)}</h1>
{_prose(report.subtitle)}
</header>
{body}
</main>
</body>
</html>
""")


def _prose(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    paragraphs = (paragraph for paragraph in _paragraphs(text) if paragraph)
    return "\n".join(f"<p{attribute}>{escape(paragraph)}</p>" for paragraph in paragraphs)


def _figure(plot: Plot, image: bytes) -> str:
    width, height = (round(96 * inches) for inches in plot.figure.get_size_inches())
    return (
        f'<figure>\n<img src="data:image/png;base64,{_base64(image)}" '
        f'width="{width}" height="{height}" alt="{escape(_description(plot))}">\n'
        f"</figure>\n{_prose(plot.note, 'note')}"
    )


def _table(table: Table) -> str:
    columns = columns_of(table.frame)
    head = "".join(
        f'<th scope="col"{_kind(column)}>{escape(column.label)}</th>' for column in columns
    )
    rows = [
        f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>"
        for row in range(len(table.frame))
    ]
    nothing = f'<tr><td colspan="{max(len(columns), 1)}">nothing to show</td></tr>'
    title, body = escape(table.title), "\n".join(rows or [nothing])
    # A region that scrolls must be reachable by keyboard, so it takes focus and has a name.
    return (
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
        f"{_prose(table.note, 'note')}"
    )


def _kind(column: Column) -> str:
    if column.is_numeric:
        return ' class="number"'
    texts = [cell for cell in column.cells if isinstance(cell, str)]
    return ' class="long"' if any(len(text) > _LONG for text in texts) else ""


def _cell(column: Column, row: int) -> str:
    cell = column.cells[row]
    return f"<td{_kind(column)}>{cell.markup if isinstance(cell, Svg) else escape(cell)}</td>"
