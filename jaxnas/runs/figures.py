"""The pictures of a run, as matplotlib figures without any global state, and cells as SVG."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxnas import correlation
from jaxnas.types import Cell

# Those of Okabe and Ito (2008) that show on black and on white, told apart under every common
# color blindness; then purple and brown.
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#7a5195", "#8c564b"),
)
GRID = "#e6e6e6"
_GREY = "#8a8a8a"
_MOST_VECTORS = 1000  # points of a plot; more of them are drawn as pixels


def score_versus_accuracy(
    scores: ArrayLike,
    accuracies: ArrayLike,
    *,
    score_name: str,
    accuracy_name: str,
    by_rank: bool = False,
    highlight: Sequence[int] | None = None,
) -> Figure:
    """Return a scatter plot of accuracies over scores, with their Spearman correlation.

    Scores of `-inf` have no place on the axis: they are drawn as ticks at its left end and counted.
    So are, at the bottom, accuracies that lie more than three times the range of the middle half
    below it: networks that learned nothing would press all others into a line.

    Args:
        scores: `[A]`, larger is predicted to be better.
        accuracies: `[A]`, finite.
        score_name: label of the scores.
        accuracy_name: label of the accuracies, with their unit.
        by_rank: place by rank instead of value, for scores that span decades.
        highlight: indices of architectures to ring, such as those chosen for training.

    Raises:
        ValueError: the arrays differ in length, or hold values without an order.
    """
    spearman = correlation.spearman(scores, accuracies)
    score, accuracy = np.asarray(scores, np.float64), np.asarray(accuracies, np.float64)
    place = pd.Series(score).rank().to_numpy() if by_rank else score
    is_scored = np.isfinite(score)
    is_low = accuracy < _far_below(accuracy)
    figure, axes = _axes(f"{score_name}, rank" if by_rank else score_name, accuracy_name)
    shown = is_scored & ~is_low
    _points(axes, np.where(shown, place, np.nan), accuracy, highlight)
    ticks: dict[str, Any] = {"linestyle": "", "color": PALETTE[1], "alpha": 0.6}
    notes = []
    if is_low.any():
        bottom, across = np.full(is_low.sum(), 0.012), axes.get_xaxis_transform()
        axes.plot(place[is_low], bottom, marker="|", transform=across, **ticks)
        highest = accuracy[is_low].max()
        notes.append(f"{is_low.sum():,} of at most {highest:.3g}, at the bottom edge")
    if not is_scored.all():
        rest = ~is_scored & ~is_low
        left, across = np.full(rest.sum(), 0.012), axes.get_yaxis_transform()
        axes.plot(left, accuracy[rest], marker="_", transform=across, **ticks)
        notes.append(f"{(~is_scored).sum():,} without a finite score, at the left edge")
    title = "\n".join([f"Spearman {spearman:.3f}, {len(score):,} architectures", *notes])
    axes.set_title(title, loc="left", fontsize="medium")
    return figure


def score_versus_cost(
    scores: ArrayLike,
    costs: ArrayLike,
    *,
    score_name: str,
    cost_name: str,
    highlight: Sequence[int] | None = None,
) -> Figure:
    """Return a scatter plot of scores over costs; what has no finite score is counted.

    Args:
        scores: `[A]`, larger is better.
        costs: `[A]`, smaller is better.
        score_name: label of the scores.
        cost_name: label of the costs, with their unit.
        highlight: indices of architectures to ring.
    """
    score, cost = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    figure, axes = _axes(cost_name, score_name)
    shown = np.isfinite(score) & np.isfinite(cost)
    _points(axes, np.where(shown, cost, np.nan), score, highlight)
    if shown.any() and cost[shown].min() > 0 and cost[shown].max() > 20 * cost[shown].min():
        axes.set_xscale("log")
    missing = "" if shown.all() else f", {(~shown).sum():,} more without a finite score"
    title = f"{shown.sum():,} architectures{missing}"
    axes.set_title(title, loc="left", fontsize="medium")
    return figure


def _points(
    axes: Axes, x: np.ndarray, y: np.ndarray, highlight: Sequence[int] | None = None
) -> None:
    """Draw points, and rings around some; what is nan stays away, and keeps its position."""
    size = float(np.clip(4000 / max(len(x), 1), 4, 30))
    look: dict[str, Any] = {"alpha": 0.5, "linewidths": 0, "color": PALETTE[0]}
    axes.scatter(x, y, s=size, rasterized=len(x) > _MOST_VECTORS, **look)
    if highlight is not None:
        ringed = np.asarray(highlight, np.int64)
        ringed = ringed[np.isfinite(x[ringed])]
        axes.scatter(x[ringed], y[ringed], s=60, facecolors="none", edgecolors="black")


def _far_below(values: np.ndarray) -> float:
    """Return what only values far below the others do not reach."""
    if not len(values):
        return -np.inf
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low - 3 * (high - low))


def correlation_bars(frame: pd.DataFrame, *, controls: Collection[str] = ()) -> Figure:
    """Return bars of rank correlations with their intervals, best on top.

    Args:
        frame: columns `score` (its name), `spearman`, `low` and `high` (ends of the interval).
        controls: names of the scores that know nothing of training, such as a random score or the
            number of parameters; drawn grey.

    Raises:
        ValueError: a column is missing.
    """
    missing = {"score", "spearman", "low", "high"} - set(frame.columns)
    if missing:
        raise ValueError(
            f"The frame of correlations must have columns score, spearman, low and high: got "
            f"{', '.join(map(str, frame.columns))}; add {', '.join(sorted(missing))}."
        )
    ordered = frame.sort_values("spearman", kind="stable", na_position="first")
    figure, axes = _axes("Spearman's rank correlation with accuracy", "", rows=len(frame))
    places = np.arange(len(ordered))
    value = ordered["spearman"].to_numpy(np.float64)
    colors = [_GREY if name in controls else PALETTE[0] for name in ordered["score"]]
    axes.barh(places, value, color=colors, height=0.62)
    ends = ordered[["low", "high"]].to_numpy(np.float64)
    known = ~np.isnan(ends).any(axis=1)
    axes.hlines(places[known], ends[known, 0], ends[known, 1], color="black", linewidth=1.2)
    # Beyond the end of bar and interval, on the side that the bar points to.
    for place, number, (low, high) in zip(places, value, ends, strict=True):
        if np.isnan(number):
            axes.annotate(" undefined", (0.0, place), va="center")
            continue
        end = np.nanmin([number, low]) if number < 0 else np.nanmax([number, high])
        axes.annotate(
            f"{number:.3f}",
            (end, place),
            xytext=(-5 if number < 0 else 5, 0),
            textcoords="offset points",
            ha="right" if number < 0 else "left",
            va="center",
        )
    axes.set_yticks(places, ordered["score"].tolist())
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.margins(x=0.16)
    axes.grid(visible=False, axis="y")
    return figure


def recall_curve(scores: Mapping[str, ArrayLike], accuracies: ArrayLike) -> Figure:
    """Return the top-k recall of some scores over k, beside that of a random order.

    Args:
        scores: name to `[A]`, larger is predicted to be better; at most eight.
        accuracies: `[A]`, finite.

    Raises:
        ValueError: there are no scores or more than colors, or for bad arrays.
    """
    if not 1 <= len(scores) <= len(PALETTE):
        raise ValueError(
            f"A recall curve must show from 1 to {len(PALETTE)} scores: got {len(scores)}; "
            "choose the most telling ones."
        )
    count = np.size(accuracies)
    ks = np.unique(np.geomspace(1, max(count, 1), 60).round().astype(int))
    figure, axes = _axes("k best scored, and k most accurate", "top-k recall")
    for color, (name, values) in zip(PALETTE, scores.items(), strict=False):
        recalls = [correlation.top_k_recall(values, accuracies, int(k)) for k in ks]
        axes.plot(ks, recalls, color=color, label=name)
    axes.plot(ks, ks / count, color=_GREY, linestyle="--", label="random order")
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, loc="upper left")
    return figure


def curves(by_name: Mapping[str, pd.Series], *, x: str, y: str) -> Figure:
    """Return lines, the index of each series as x.

    Args:
        by_name: name to series; at most eight.
        x: label of the index.
        y: label of the values.

    Raises:
        ValueError: there are no series or more than colors.
    """
    if not 1 <= len(by_name) <= len(PALETTE):
        raise ValueError(
            f"A plot of curves must show from 1 to {len(PALETTE)}: got {len(by_name)}; choose the "
            "most telling ones."
        )
    figure, axes = _axes(x, y)
    for color, (name, line) in zip(PALETTE, by_name.items(), strict=False):
        axes.plot(line.index, line.to_numpy(), color=color, label=name)
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return figure


def histograms(by_name: Mapping[str, ArrayLike], *, x: str, y: str = "density") -> Figure:
    """Return densities of samples as steps, over the same bins; the rare largest are left out.

    Args:
        by_name: name to sample, finite numbers of any shape; at most eight.
        x: label of the values.
        y: label of the density.

    Raises:
        ValueError: there are no samples or more than colors, or one is empty or not finite.
    """
    samples = {name: np.ravel(np.asarray(each, np.float64)) for name, each in by_name.items()}
    if not 1 <= len(samples) <= len(PALETTE):
        raise ValueError(
            f"A plot of histograms must show from 1 to {len(PALETTE)}: got {len(samples)}; choose "
            "the most telling ones."
        )
    for name, numbers in samples.items():
        if not numbers.size or not np.isfinite(numbers).all():
            raise ValueError(f"A histogram needs finite numbers: got {numbers.size} in {name}.")
    end = max(np.quantile(each, 0.99) for each in samples.values())
    start = min(each.min() for each in samples.values())
    edges = np.linspace(start, end if end > start else start + 1, 61)
    figure, axes = _axes(x, y)
    for color, (name, numbers) in zip(PALETTE, samples.items(), strict=False):
        share = np.histogram(numbers, edges)[0] / numbers.size / np.diff(edges)
        axes.stairs(share, edges, color=color, label=name, linewidth=1.4)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.legend(frameon=False)
    return figure


def cell_svg(cell: Cell) -> str:
    """Return a small inline SVG of a cell: nodes in a row, edges as arcs labeled by operation.

    Edges on no path from an input to the output are pale and dashed. Text and nodes take the color
    of the text around them, so the drawing suits any page.

    Raises:
        ValueError: an edge does not lead forward between the nodes, or has an unknown operation.

    Example:
        >>> from jaxnas.types import Cell
        >>> cell_svg(Cell([(0, 1, "skip")], ["in", "out"])).startswith("<svg")
        True
    """
    edges, count = cell.edges, len(cell.nodes)
    order = list(cell.operations) or sorted({operation for *_, operation in edges if operation})
    for source, target, operation in edges:
        if not 0 <= source < target < count or operation not in ["", *order]:
            raise ValueError(
                f"An edge must lead forward between {count} nodes with a known operation: got "
                f"({source}, {target}, {operation!r}); number the nodes along the flow."
            )
    gap = max([96, *(7 * len(name) + 28 for name in [*cell.nodes, *(each[2] for each in edges)])])
    rise, radius = 34, 8
    levels = _levels(edges)
    base = rise * max([1, *levels]) + 8
    live = _on_a_path(cell)
    arcs, labels = [], []
    for (source, target, operation), level, is_live in zip(edges, levels, live, strict=True):
        height = rise * level - rise // 2
        left, right = gap * source + gap // 2, gap * target + gap // 2
        middle = (left + right) // 2
        color, width = "currentColor", 1.5
        if operation:
            color, width = PALETTE[order.index(operation) % len(PALETTE)], 2.5
        pale = "" if is_live else ' stroke-dasharray="4 4" stroke-opacity="0.45"'
        named = escape(operation or "edge")
        # A cubic curve with level arms reaches three quarters of their height.
        arm = base - height * 4 // 3
        arcs.append(
            f'<path d="M{left} {base} C{left + gap // 4} {arm} {right - gap // 4} {arm} '
            f'{right} {base}" fill="none" stroke="{color}" stroke-width="{width}"{pale}>'
            f"<title>{source} to {target}: {named}</title></path>"
        )
        if operation:
            quiet = "" if is_live else ' font-style="italic"'
            labels.append(
                f'<text x="{middle}" y="{base - height - 5}"{quiet}>{escape(operation)}</text>'
            )
    places = [gap * node + gap // 2 for node in range(count)]
    nodes = [f'<circle cx="{x}" cy="{base}" r="{radius}" fill="currentColor"/>' for x in places]
    names = [
        f'<text x="{x}" y="{base + 24}" font-weight="600">{escape(name)}</text>'
        for x, name in zip(places, cell.nodes, strict=True)
    ]
    summary = escape("; ".join(f"{source} to {target}: {name}" for source, target, name in edges))
    # Labels come last, with a rim of the page's color that parts them from the arcs they cross.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {gap * count} {base + 32}" '
        f'width="{gap * count}" role="img" aria-label="Cell of {count} nodes. {summary}">'
        f"{''.join(arcs)}{''.join(nodes)}"
        f'<g font-family="sans-serif" font-size="12" text-anchor="middle" fill="currentColor" '
        f'style="paint-order:stroke;stroke:var(--paper,#fff);stroke-width:4px">'
        f"{''.join(labels)}{''.join(names)}</g></svg>"
    )


def _levels(edges: Sequence[tuple[int, int, str]]) -> list[int]:
    """Return the height of each arc in steps, so that no two arcs or labels share their top."""
    taken: dict[int, set[int]] = {}  # by the sum of the ends, which is twice the middle
    levels = []
    for source, target, _ in edges:
        level = target - source
        near = [taken.setdefault(source + target + shift, set()) for shift in (-1, 0, 1)]
        while any(level in one for one in near):
            level += 1
        near[1].add(level)
        levels.append(level)
    return levels


def _on_a_path(cell: Cell) -> list[bool]:
    """Return for each edge whether it is on a path from an input to the output."""
    fed = set(range(cell.inputs))
    for source, target, _ in sorted(cell.edges):
        fed |= {target} if source in fed else set()
    useful = {len(cell.nodes) - 1}
    for source, target, _ in sorted(cell.edges, key=lambda edge: -edge[1]):
        useful |= {source} if target in useful else set()
    return [source in fed and target in useful for source, target, _ in cell.edges]


def _axes(x_label: str, y_label: str, *, rows: int | None = None) -> tuple[Figure, Axes]:
    """Return a figure and its only axes; `rows` makes it as high as a list of bars needs."""
    height = 4.2 if rows is None else 1.1 + 0.34 * max(rows, 1)
    figure = Figure(figsize=(7.0, height), layout="constrained")
    axes: Any = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes
