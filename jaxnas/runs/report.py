"""A report, described once: one self-contained HTML page, and plain text for the terminal."""

import base64
import functools
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxnas.runs import figures
from jaxnas.runs.files import output_folder, write_whole
from jaxnas.runs.tables import Column, Svg, aligned, columns_of, printable
from jaxnas.types import Cell

_DOTS_PER_INCH = 160
_SAVED_FIGURE = re.compile(r'<figure data-file="([a-z0-9_]+\.png)" data-sha256="([0-9a-f]+)"')
# An image takes the light or dark of the page that shows it; black and the grid take its colors.
_SVG_STYLE = (
    f"<style>:root{{color:#1d2126;--grid:{figures.GRID}}}"
    "@media(prefers-color-scheme:dark){:root{color:#e4e7eb;--grid:#343b43}}"
    "*{stroke-linejoin:round;stroke-linecap:butt}text{fill:currentColor}</style>"
)
_FILE = (160, 24)  # columns and lines where the text goes to no terminal
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
        names: of the points of the figure's first scatter, in its order; the page shows the name of
            the point that is pointed at.
    """

    title: str
    figure: Figure
    description: str
    note: str = ""
    names: Sequence[str] = ()


class Winner(NamedTuple):
    """A section with one architecture: drawn, and written for copying.

    Attributes:
        title: its heading.
        notation: the architecture, in the notation of its space.
        cells: what to draw of it, by title; see `SearchSpace.cells`.
        text: what there is to say about it; blank lines part its paragraphs.
    """

    title: str
    notation: str
    cells: Mapping[str, Cell] = {}
    text: str = ""


Part = Text | Table | Plot | Winner


class Report(NamedTuple):
    """A title and a subtitle, then sections in their order."""

    title: str
    subtitle: str
    parts: Sequence[Part]

    def picture_first(self) -> "Report":
        """Return the report with its first plot before everything else."""
        plots = [part for part in self.parts if isinstance(part, Plot)]
        others = [part for part in self.parts if part is not plots[0]] if plots else self.parts
        return self._replace(parts=[*plots[:1], *others])


def to_html(report: Report) -> str:
    """Return the report as one page that asks nothing of a network.

    Everything is escaped but the drawings in the cells of tables.

    Raises:
        ValueError: a plot has no description.
    """
    return _page(report, [_drawn(plot) for plot in _plots(report)])


def to_text(report: Report, width: int | None = None) -> str:
    """Return the report as plain text.

    Args:
        report: what to show.
        width: in characters; None takes that of the terminal.

    Raises:
        ValueError: a plot has no description.
    """
    width = shutil.get_terminal_size(_FILE).columns if width is None else width
    blocks = [_headline(report.title, "="), _wrapped(report.subtitle, width)]
    for part in report.parts:
        blocks.append(_headline(part.title, "-"))
        match part:
            case Text(text=text):
                blocks.append(_wrapped(text, width))
            case Table(frame=frame, note=note):
                blocks += [aligned(frame, width), _wrapped(note, width)]
            case Winner(notation=notation, text=text):
                blocks += [notation, _wrapped(text, width)]
            case Plot(note=note):
                blocks += [_wrapped(_description(part), width), _wrapped(note, width)]
    return printable("\n\n".join(block for block in blocks if block) + "\n")


def save(report: Report, output_dir: str | os.PathLike[str], *, name: str = "report") -> Path:
    """Write the page, and every figure as a PNG beside it; return the path of the page.

    The figures are named after their titles. Those of the page that was saved there before are
    replaced or removed; no other file is touched.

    Args:
        report: what to write.
        output_dir: the folder, made where needed.
        name: of the page, without its ending.

    Raises:
        ValueError: a plot has no description.
        OSError: the folder cannot be written.
    """
    folder = output_folder(output_dir)
    page = folder / f"{name}.html"
    drawn = [_drawn(plot) for plot in _plots(report)]
    content = _page(report, drawn).encode()
    for file_name, figure in zip(_file_names(report), drawn, strict=True):
        write_whole(folder / file_name, figure.png)
    # Before the new page is there: the old one is what tells which files are its figures.
    _remove_figures(page, keep=_file_names(report))
    return write_whole(page, content)


def _file_names(report: Report) -> list[str]:
    """Return a different file name for each figure, from its title."""
    names: list[str] = []
    for plot in _plots(report):
        stem = re.sub(r"[^a-z0-9]+", "_", plot.title.lower()).strip("_") or "figure"
        endings = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
        candidates = (f"{stem}{ending}.png" for ending in endings)
        names.append(next(name for name in candidates if name not in names))
    return names


def _remove_figures(page: Path, keep: Sequence[str]) -> None:
    """Remove the files that have both the name and the content of a figure of `page`."""
    old = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    for name, digest in _SAVED_FIGURE.findall(old):
        path = page.with_name(name)
        if name not in keep and path.is_file() and _sha256(path.read_bytes()).hex() == digest:
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


class _Drawn(NamedTuple):
    """A figure as the page shows it, as a file, and the places of its named points."""

    svg: bytes
    png: bytes
    points: list[tuple[int, int, str]]


def _drawn(plot: Plot) -> _Drawn:
    figure = plot.figure
    # Without version, date and random names, equal figures are equal files.
    svg, png = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxnas"}):
        for buffer, options in (
            (png, {"format": "png", "metadata": {"Software": None}}),
            (svg, {"format": "svg", "metadata": _NO_METADATA, "transparent": True}),
        ):
            figure.savefig(buffer, dpi=_DOTS_PER_INCH, **options)
    text = svg.getvalue().decode()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    text = text.replace(figures.GRID, "var(--grid)")
    text = re.sub(r"<style.*?</style>", _SVG_STYLE, text, flags=re.DOTALL)
    return _Drawn(text.encode(), png.getvalue(), _points(plot) if plot.names else [])


_NO_METADATA = {"Creator": None, "Date": None}


def _points(plot: Plot) -> list[tuple[int, int, str]]:
    """Return where the points of a drawn figure are, in 1/10,000 of its size, with their names."""
    scatter = plot.figure.axes[0].collections[0]
    offsets = np.ma.filled(np.ma.asarray(scatter.get_offsets(), np.float64), np.nan)
    if len(offsets) != len(plot.names):
        raise ValueError(
            f"Each point of a plot needs a name: got {len(plot.names)} names and {len(offsets)} "
            f"points in {plot.title!r}."
        )
    places = scatter.get_offset_transform().transform(offsets) / plot.figure.bbox.size
    return [
        (round(1e4 * x), round(1e4 * (1 - y)), printable(name))
        for (x, y), name in zip(places, plot.names, strict=True)
        if np.isfinite([x, y]).all()
    ]


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _headline(title: str, rule: str) -> str:
    return f"{title}\n{rule * len(title)}"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip())]


def _wrapped(text: str, width: int) -> str:
    fill = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(fill(paragraph, width) for paragraph in _paragraphs(text))


def _page(report: Report, drawn: Sequence[_Drawn]) -> str:
    beside = resources.files("jaxnas.runs")
    style = beside.joinpath("report.css").read_text(encoding="utf-8")
    script = beside.joinpath("report.js").read_text(encoding="utf-8")
    remaining = zip(_file_names(report), drawn, strict=True)
    sections = []
    for part in report.parts:
        match part:
            case Text(text=text):
                content = _prose(text)
            case Table():
                content = _table(part)
            case Winner():
                content = _winner(part)
            case Plot():
                content = _figure(part, *next(remaining))
        sections.append(f"<section>\n<h2>{escape(part.title)}</h2>\n{content}\n</section>")
    body = "\n".join(sections)
    # The policy has the browser itself refuse whatever is not in this file.
    return printable(f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
 script-src 'sha256-{_base64(_sha256(script.encode()))}'">
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
<script>{script}</script>
</body>
</html>
""")


def _prose(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    paragraphs = (paragraph for paragraph in _paragraphs(text) if paragraph)
    return "\n".join(f"<p{attribute}>{escape(paragraph)}</p>" for paragraph in paragraphs)


def _scroll(label: str, content: str) -> str:
    # A region that scrolls must be reachable by keyboard, so it takes focus and has a name.
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">\n'
        f"{content}\n</div>\n"
    )


def _figure(plot: Plot, name: str, drawn: _Drawn) -> str:
    width, height = (round(96 * inches) for inches in plot.figure.get_size_inches())
    points = ""
    if drawn.points:
        data = json.dumps(drawn.points, separators=(",", ":")).replace("<", "\\u003c")
        points = f'\n<script type="application/json">{data}</script>'
    image = (
        f'<figure data-file="{name}" data-sha256="{_sha256(drawn.png).hex()}">\n'
        f'<img src="data:image/svg+xml;base64,{_base64(drawn.svg)}" '
        f'width="{width}" height="{height}" alt="{escape(_description(plot))}">{points}\n</figure>'
    )
    return f"{_scroll(plot.title, image)}{_prose(plot.note, 'note')}"


def _winner(winner: Winner) -> str:
    drawings = [
        f"<figcaption>{escape(title)}</figcaption>\n{figures.cell_svg(cell)}"
        for title, cell in winner.cells.items()
    ]
    drawn = "".join(
        f"<figure>\n{_scroll(title, drawing)}</figure>\n"
        for title, drawing in zip(winner.cells, drawings, strict=True)
    )
    return (
        f'{drawn}<p class="copy"><code>{escape(winner.notation)}</code>'
        f'<button type="button">copy</button></p>\n{_prose(winner.text)}'
    )


def _table(table: Table) -> str:
    columns = columns_of(table.frame)
    head = "".join(
        f'<th scope="col"{_kind(column)}><button type="button">{escape(column.label)}</button></th>'
        for column in columns
    )
    rows = [
        f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>"
        for row in range(len(table.frame))
    ]
    nothing = f'<tr><td colspan="{max(len(columns), 1)}">nothing to show</td></tr>'
    body = "\n".join(rows or [nothing])
    content = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f"{_scroll(table.title, content)}{_prose(table.note, 'note')}"


def _kind(column: Column) -> str:
    if column.is_numeric:
        return ' class="number"'
    texts = [cell for cell in column.cells if isinstance(cell, str)]
    return ' class="long"' if any(len(text) > _LONG for text in texts) else ""


def _cell(column: Column, row: int) -> str:
    cell = column.cells[row]
    return f"<td{_kind(column)}>{cell.markup if isinstance(cell, Svg) else escape(cell)}</td>"
