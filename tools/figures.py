"""Draws the pictures of the documentation from the tables of its pages, and of a store.

    jaxnas rank --num_archs=300 --batch_size=16 --by=panel,pair,params --output_dir=results/panel300
    python tools/figures.py --store=results/panel300/scores.sqlite

Without --store the picture that needs it, `front.svg`, is left as it is. Run it after a number in a
table has changed, and commit the pictures.
"""

import argparse
import re
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxnas import benchmarks, correlation, proxies, spaces
from jaxnas.runs import ScoreStore

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs"
OURS, THEIRS, BASELINE, PALE = "#0b6e99", "#9aa7b2", "#c2410c", "#dfe4e8"
_NUMBER = re.compile(r"[+-]?\d*\.?\d+(?:e-?\d+)?")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: small files, which can be searched
    "svg.hashsalt": "jaxnas",  # the same picture, the same bytes
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


class Row(NamedTuple):
    """A row of a table: its first cell without marks, and the numbers of the other cells."""

    name: str
    numbers: list[list[float]]


def read_table(page: str, header: str) -> list[Row]:
    """Return the rows of the table of a page whose header line begins with `header`.

    Args:
        page: name of the file in `docs/results`, without its ending.
        header: such as "| score | CIFAR-10".

    Raises:
        ValueError: the page has no such table.
    """
    text = (PAGES / "results" / f"{page}.md").read_text(encoding="utf-8")
    _, header_found, after = text.partition(f"\n{header}")
    if not header_found:
        raise ValueError(f"{page}.md must have a table {header!r}: got none.")
    rows = []
    for line in after.split("\n")[2:]:
        if not line.startswith("|"):
            break
        name, *cells = (re.sub(r"[`*]", "", cell).strip() for cell in line.split("|")[1:-1])
        numbers = [[float(n) for n in _NUMBER.findall(c.replace(",", ", "))] for c in cells]
        rows.append(Row(name, numbers))
    return rows


def column(rows: list[Row], position: int) -> tuple[list[str], list[float]]:
    """Return names and first numbers of a column, of the rows that have one there."""
    kept = [row for row in rows if row.numbers[position]]
    return [row.name for row in kept], [row.numbers[position][0] for row in kept]


def color(name: str) -> str:
    """Return the color of a bar: ours, the baselines, or everybody else's."""
    ours = ("panel", "pair", "channel_independence", "gradient_diversity", "layer_balance")
    if name.split(" ")[0].rstrip(",") in ours:
        return OURS
    return BASELINE if re.match(r"#params|random|FLOPs|the unchanged", name) else THEIRS


def bars(axes: Axes, names: list[str], values: list[float], label: str, digits: int = 2) -> None:
    """Draw horizontal bars from the top to the bottom, each with its number."""
    places = range(len(names))
    axes.barh(places, values, color=[color(name) for name in names], height=0.72)
    low, high = axes.get_xlim()
    for place, value in zip(places, values, strict=True):
        axes.text(
            max(value, 0) + (high - low) / 80, place, f"{value:.{digits}f}", va="center", fontsize=7
        )
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(label)


def ranked_scores(axes: Axes) -> None:
    """Draw the table of all scores, with #params as a line."""
    names, values = column(read_table("scores", "| score | CIFAR-10 | 95 % | CIFAR-100 | "), 0)
    bars(axes, names, values, "Spearman with CIFAR-10 test accuracy, 1,000 cells")
    baseline = dict(zip(names, values, strict=True))["#params, FLOPs"]
    axes.axvline(baseline, color=BASELINE, linewidth=1, linestyle="--")
    axes.text(baseline, -0.8, "#params", color=BASELINE, ha="center", fontsize=8)
    axes.set_xlim(0, 1.05)
    axes.tick_params(axis="y", labelsize=7.5)


def scores() -> Figure:
    """Draw every score of the field beside #params."""
    figure, axes = plt.subplots(figsize=(7.2, 6.4))
    ranked_scores(axes)
    return figure


def front(store: Path) -> Figure:
    """Draw all scores, and beside them `panel` against accuracy of the cells of a store."""
    with ScoreStore(store) as opened:
        (run,) = opened.contexts()
        frame = opened.frame(run).pivot_table("score", "arch", "proxy")
    measured = {str(name): frame[name].to_numpy() for name in frame}
    panel = proxies.expand("panel").scores(measured)["panel"]
    space = spaces.nasbench201()
    archs = np.array([space.from_string(name) for name in frame.index])
    accuracy = benchmarks.nasbench201().accuracy(archs, "cifar10")
    spearman = correlation.spearman(panel, accuracy)
    functions = np.array([space.representative(arch) for arch in archs])
    low, high = correlation.bootstrap_interval(
        correlation.spearman, panel, accuracy, groups=functions
    )
    baseline = correlation.spearman(measured["params"], accuracy)
    place = np.argsort(np.argsort(panel, kind="stable"), kind="stable") + 1

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.6), width_ratios=(1.15, 1))
    ranked_scores(left)
    floor = 70.0
    below = accuracy < floor
    right.scatter(place[~below], accuracy[~below], s=10, color=OURS, alpha=0.7, linewidth=0)
    right.scatter(place[below], np.full(below.sum(), floor), s=12, color=BASELINE, marker="v")
    right.set_ylim(floor - 0.8, 95)
    right.set_xlabel(f"rank by panel of {len(panel)} random cells, untrained (right is best)")
    right.set_ylabel("CIFAR-10 test accuracy after training, %")
    right.set_title(
        f"Spearman of panel {spearman:.2f} ({low:.2f} to {high:.2f}), of #params {baseline:.2f}",
        fontsize=9,
    )
    right.text(
        len(panel), floor + 0.2, f"{below.sum()} below {floor:.0f} %", color=BASELINE, ha="right"
    )
    return figure


def plain(page: str, header: str, position: int, label: str, **options: float) -> Figure:
    """Draw one column of a table as bars.

    Args:
        page: see `read_table`.
        header: see `read_table`.
        position: of the column, from 0 for the first after the names.
        label: of the axis.
        **options: `low` and `high` of the axis, and the number of `digits`.
    """
    names, values = column(read_table(page, header), position)
    figure, axes = plt.subplots(figsize=(7.2, 0.8 + 0.26 * len(names)))
    axes.set_xlim(options.get("low", min([0, *values]) * 1.1), options.get("high", 1.05))
    bars(axes, names, values, label, int(options.get("digits", 2)))
    return figure


def paired_bars(
    axes: Axes, names: list[str], pairs: dict[str, tuple[str, list[float]]], labels: str = ""
) -> None:
    """Draw two bars for each name, the first pair above the second.

    Args:
        axes: where.
        names: of the rows, from the top.
        pairs: color and values by the label of the legend.
        labels: format of the numbers behind the bars; none without.
    """
    places = np.arange(len(names))
    for shift, (label, (shade, values)) in zip((-0.2, 0.2), pairs.items(), strict=True):
        drawn = axes.barh(places + shift, values, height=0.38, color=shade, label=label)
        if labels:
            axes.bar_label(drawn, fmt=labels, padding=2, fontsize=7)
    axes.set_yticks(places, names)
    axes.invert_yaxis()


def search() -> Figure:
    """Draw what each search of the whole of NAS-Bench-201 finds with so many looks."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    name, courses = "", dict[str, list[tuple[float, float]]]()
    for row in read_table("search", "| search | looks | seconds | CIFAR-10"):
        name = row.name or name
        count, _, accuracy = (cell[0] for cell in row.numbers[:3])
        courses.setdefault(name, []).append((count, accuracy))
    for name, points in courses.items():
        looks, accuracies = zip(*points, strict=True)
        axes.plot(looks, accuracies, "o-", color=color(name), markersize=4)
        below = 5 if len(looks) < 3 else 4 - 14 * list(courses).index(name)  # two end alike
        axes.annotate(name, (looks[-1], accuracies[-1]), (5, below), textcoords="offset points")
    axes.set_xlim(0, 17)
    axes.set_xlabel("looks: cells trained for 12 epochs")
    axes.set_ylabel("CIFAR-10 test accuracy, %")
    return figure


def connectivity() -> Figure:
    """Draw how well each predictor ranks the speed of training, at both learning rates."""
    rows = read_table("connectivity", "| predictor | digits, fixed | tuned")
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    pairs = {
        "one learning rate for all": (PALE, [row.numbers[0][0] for row in rows]),
        "tuned for each wiring": (OURS, [row.numbers[1][0] for row in rows]),
    }
    paired_bars(axes, [row.name for row in rows], pairs)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel("Spearman with the measured speed, digits")
    axes.legend(frameon=False, loc="lower right")
    return figure


def isometry() -> Figure:
    """Draw the spread of the squared singular values, alone and after normalization."""
    rows = read_table("isometry", "| initialization | alone")
    figure, axes = plt.subplots(figsize=(7.2, 3))
    pairs = {
        "block alone": (OURS, [row.numbers[0][1] for row in rows]),
        "normalized": (PALE, [row.numbers[1][1] for row in rows]),
    }
    paired_bars(axes, [row.name for row in rows], pairs)
    axes.set_xlabel("spread cv² of the squared singular values; an isometry has 0")
    axes.legend(frameon=False)
    return figure


def speed() -> Figure:
    """Draw the CPU time of the two PyTorch programs, as a multiple of that of jaxnas."""
    rows = read_table("speed", "| images | score | jaxnas")
    chosen = [row for row in rows if row.name and row.numbers[3]]  # those of grad_norm
    figure, axes = plt.subplots(figsize=(7.2, 2.6))
    pairs = {
        "zero-cost-nas": (THEIRS, [row.numbers[3][0] for row in chosen]),
        "lean PyTorch": (BASELINE, [row.numbers[2][0] for row in chosen]),
    }
    paired_bars(axes, [row.name for row in chosen], pairs, "%g")
    axes.axvline(1, color=OURS, label="jaxnas")
    axes.set_xscale("log")
    axes.set_xlabel("CPU time of grad_norm as a multiple of jaxnas")
    axes.legend(frameon=False, loc="lower right")
    return figure


def concepts() -> Figure:
    """Draw how an architecture becomes a stored score."""
    figure, axes = plt.subplots(figsize=(8.6, 2.7))
    axes.set_axis_off()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 3.1)
    boxes = (
        ("architecture", "int32[D]\n\na choice for\neach decision"),
        ("network", "forward(net, x, arch)\n\neager or compiled,\none of four norms"),
        ("statistics", "Gram matrices, norms,\nReLU codes, entropies\n\none pass for all scores"),
        ("score", "reduce(statistics)\n\nlarger is better;\naggregates rank a pool"),
        ("store", "SQLite, resumed\n\neach different\nfunction once"),
    )
    for position, (title, text) in enumerate(boxes):
        left = 0.05 + 2.0 * position
        axes.add_patch(plt.Rectangle((left, 0.5), 1.7, 2.1, facecolor="#eef4f7", edgecolor=OURS))
        axes.text(left + 0.85, 2.33, title, ha="center", va="center", weight="bold", color=OURS)
        axes.text(left + 0.85, 1.3, text, ha="center", va="center", fontsize=7.5)
        if position:
            arrow = {"arrowstyle": "-|>", "color": OURS}
            axes.annotate("", (left, 1.55), (left - 0.3, 1.55), arrowprops=arrow)
    for left, text in ((0.05, "search space"), (2.05, "weights and images of one seed")):
        axes.text(left + 0.85, 0.25, text, ha="center", fontsize=8, style="italic")
    return figure


def draw(folder: Path, store: Path | None = None) -> None:
    """Write all pictures into a folder."""
    with matplotlib.rc_context(_STYLE):
        figures = {
            "concepts": concepts(),
            "scores": scores(),
            "search": search(),
            "hnas": plain(
                "hnas",
                "| search, 3,051 simulated seconds",
                0,
                "CIFAR-10 test accuracy, %",
                low=90,
                high=95,
            ),
            "knas": plain(
                "knas", "| score | CIFAR-10 | interval", 0, "Spearman with CIFAR-10 test accuracy"
            ),
            "supernets": plain(
                "supernets", "| signal | Spearman", 0, "Spearman with the trained accuracy"
            ),
            "isometry": isometry(),
            "connectivity": connectivity(),
            "text": plain(
                "text",
                "| spent on | chosen: dev %",
                2,
                "SST-2 test accuracy, mean of eight runs, %",
                low=76,
                high=83,
            ),
            "transformers": plain(
                "transformers",
                "| score | CIFAR-100 | Flowers",
                0,
                "Spearman with CIFAR-100 accuracy, 60 trained PiT networks",
                low=-0.6,
            ),
            "speed": speed(),
        }
        if store is not None:
            figures["front"] = front(store)
        for name, figure in figures.items():
            figure.tight_layout()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="SQLite file of the scores behind front.svg.")
    draw(PAGES / "images", parser.parse_args().store)
