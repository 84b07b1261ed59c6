"""What the figures draw, read back from their artists, and the SVG of cells."""

import io
import math
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from jaxnas.runs import figures
from jaxnas.types import Cell

ACCURACIES = [90.0, 91.0, 93.0, 92.0, 10.0, 10.0]
SCORES = [1.0, 10.0, 1e6, 1e3, -math.inf, -math.inf]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(figure):
    """The axes of a figure, once it has been rendered."""
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    (axes,) = figure.axes
    return axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_scatter_places_values_and_counts_what_has_no_place():
    axes = drawn(
        figures.score_versus_accuracy(SCORES, ACCURACIES, score_name="s", accuracy_name="a (%)")
    )
    (points,) = axes.collections
    places = np.ma.filled(points.get_offsets(), np.nan)
    np.testing.assert_array_equal(places[:4], np.column_stack([SCORES[:4], ACCURACIES[:4]]))
    assert len(places) == 6
    assert np.isnan(places[4:]).any(1).all()
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [10.0, 10.0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("s", "a (%)")
    assert axes.get_title(loc="left").split("\n") == [
        "Spearman 1.000, 6 architectures",
        "2 without a finite score, at the left edge",
    ]


def test_scatter_by_rank_and_highlight():
    axes = drawn(
        figures.score_versus_accuracy(
            SCORES,
            ACCURACIES,
            score_name="s",
            accuracy_name="a",
            by_rank=True,
            highlight=[2, 4],
        )
    )
    points, rings = axes.collections
    # The two at the bottom share rank 1.5.
    np.testing.assert_array_equal(points.get_offsets()[:4, 0], [3.0, 4.0, 6.0, 5.0])
    np.testing.assert_array_equal(rings.get_offsets(), [[6.0, 93.0]])
    assert axes.get_xlabel() == "s, rank"


def test_scatter_of_finite_scores_has_no_note():
    axes = drawn(
        figures.score_versus_accuracy([1.0, 2.0], [3.0, 4.0], score_name="s", accuracy_name="a")
    )
    assert not axes.texts
    assert not axes.lines
    assert axes.get_title(loc="left") == "Spearman nan, 2 architectures"


def test_scatter_gives_no_room_to_what_learned_nothing():
    accuracies = [*np.linspace(88, 94, 20), 10.0, 9.0]
    scores = [*range(20), 3.0, -math.inf]
    axes = drawn(
        figures.score_versus_accuracy(scores, accuracies, score_name="s", accuracy_name="a")
    )
    assert axes.get_ylim()[0] > 80
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [3.0, -math.inf])
    assert axes.get_title(loc="left").split("\n")[1:] == [
        "2 of at most 10, at the bottom edge",
        "1 without a finite score, at the left edge",
    ]


def test_scatter_of_costs():
    axes = drawn(
        figures.score_versus_cost(
            SCORES, [1, 2, 3, 4, 5, 6], score_name="s", cost_name="c", highlight=[2, 4]
        )
    )
    points, rings = axes.collections
    assert len(points.get_offsets()) == 6
    np.testing.assert_array_equal(rings.get_offsets(), [[3, 1e6]])
    assert axes.get_title(loc="left") == "4 architectures, 2 more without a finite score"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("c", "s")


def test_bars_are_ordered_with_intervals_and_grey_controls():
    frame = pd.DataFrame(
        {
            "score": ["random", "knas", "#params", "bad", "constant"],
            "spearman": [0.01, 0.8, 0.75, -0.3, math.nan],
            "low": [-0.1, 0.7, 0.7, -0.4, math.nan],
            "high": [0.1, 0.9, 0.8, -0.2, math.nan],
        }
    )
    axes = drawn(figures.correlation_bars(frame, controls=["#params", "random"]))
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["constant", "bad", "random", "#params", "knas"]
    assert [bar.get_width() for bar in axes.patches][1:] == [-0.3, 0.01, 0.75, 0.8]
    grey = [bar.get_facecolor() == axes.patches[2].get_facecolor() for bar in axes.patches]
    assert grey == [False, False, True, True, False]
    intervals = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert intervals == [[-0.4, -0.2], [-0.1, 0.1], [0.7, 0.8], [0.7, 0.9]]
    assert texts(axes) == [" undefined", "-0.300", "0.010", "0.750", "0.800"]


def test_bars_name_the_missing_columns():
    with pytest.raises(ValueError, match="got score, spearman; add high, low"):
        figures.correlation_bars(pd.DataFrame({"score": ["a"], "spearman": [0.1]}))


def test_recall_curve_by_hand():
    axes = drawn(
        figures.recall_curve(
            {"good": [1.0, 2.0, 3.0, 4.0], "bad": [4.0, 3.0, 2.0, 1.0]}, [1.0, 2.0, 3.0, 4.0]
        )
    )
    good, bad, random = axes.lines
    np.testing.assert_array_equal(good.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(good.get_ydata(), [1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(bad.get_ydata(), [0.0, 0.0, 2 / 3, 1.0])
    np.testing.assert_array_equal(random.get_ydata(), [0.25, 0.5, 0.75, 1.0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "good",
        "bad",
        "random order",
    ]


@pytest.mark.parametrize("count", [0, 9])
def test_recall_curve_refuses_more_than_it_has_colors_for(count):
    with pytest.raises(ValueError, match=f"from 1 to 8 scores: got {count}"):
        figures.recall_curve({str(i): [1.0, 2.0] for i in range(count)}, [1.0, 2.0])


def test_recall_curve_of_nothing():
    with pytest.raises(ValueError, match="k must be an integer from 1 to 0: got 1"):
        figures.recall_curve({"a": []}, [])


def test_figures_need_no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    frame = pd.DataFrame({"score": ["a"], "spearman": [0.5], "low": [0.4], "high": [0.6]})
    for figure in (
        figures.recall_curve({"a": [1.0, 2.0]}, [1.0, 2.0]),
        figures.correlation_bars(frame),
        figures.score_versus_accuracy([1.0], [2.0], score_name="s", accuracy_name="a"),
    ):
        drawn(figure)


def test_cell_is_valid_svg_that_says_what_it_shows():
    edges = [(0, 1, "conv<3>"), (0, 2, "skip"), (1, 2, "conv<3>"), (0, 1, "skip")]
    root = ElementTree.fromstring(figures.cell_svg(Cell(edges, ("in", "1", "out"))))
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert "0 to 2: skip" in root.get("aria-label")
    assert len(root.findall(f".//{SVG}circle")) == 3
    paths = root.findall(f".//{SVG}path")
    assert [path.find(f"{SVG}title").text for path in paths] == [
        "0 to 1: conv<3>",
        "0 to 2: skip",
        "1 to 2: conv<3>",
        "0 to 1: skip",
    ]
    colors = [path.get("stroke") for path in paths]
    assert colors[0] == colors[2] != colors[1] == colors[3]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts == ["conv<3>", "skip", "conv<3>", "skip", "in", "1", "out"]
    # Parallel edges do not hide each other.
    assert len({path.get("d") for path in paths}) == 4
    width, height = map(int, root.get("viewBox").split()[2:])
    for text in root.iter(f"{SVG}text"):
        assert 0 < int(text.get("x")) < width
        assert 8 < int(text.get("y")) < height


def test_operations_keep_their_colors_from_cell_to_cell():
    operations = ["skip", "conv", "pool"]
    alone = figures.cell_svg(Cell([(0, 1, "pool")], ("in", "out"), operations))
    both = figures.cell_svg(Cell([(0, 1, "conv"), (1, 2, "pool")], ("in", "1", "out"), operations))
    assert figures.PALETTE[2] in alone
    assert figures.PALETTE[2] in both
    assert figures.PALETTE[0] not in both


def test_a_cell_without_edges():
    root = ElementTree.fromstring(figures.cell_svg(Cell([], ("in", "out"))))
    assert len(root.findall(f".//{SVG}circle")) == 2


@pytest.mark.parametrize("edge", [(1, 0, "a"), (0, 0, "a"), (-1, 1, "a"), (0, 3, "a"), (0, 1, "z")])
def test_bad_edges(edge):
    with pytest.raises(ValueError, match="must lead forward between 3 nodes with a known"):
        figures.cell_svg(Cell([edge], ("in", "1", "out"), ["a"]))


def test_what_is_on_no_path_is_pale():
    # Node 1 leads nowhere, and nothing leads to node 2.
    edges = [(0, 1, "a"), (0, 3, "a"), (2, 3, "a"), (0, 4, "a"), (3, 4, "a")]
    nodes = ("in", "1", "2", "3", "out")
    for inputs, dead in ((1, [0, 2]), (3, [0])):
        root = ElementTree.fromstring(figures.cell_svg(Cell(edges, nodes, inputs=inputs)))
        pale = [path.get("stroke-dasharray") is not None for path in root.iter(f"{SVG}path")]
        assert np.flatnonzero(pale).tolist() == dead


def test_labels_do_not_overlap():
    names = [f"operation_{number}" for number in range(3)]
    edges = [(s, t, names[(s + t) % 3]) for t in range(1, 7) for s in range(t)]
    edges += [(0, 3, names[0]), (2, 4, names[1])]
    root = ElementTree.fromstring(figures.cell_svg(Cell(edges, [*"0123456"])))
    boxes = []
    for text in root.iter(f"{SVG}text"):
        wide = 7 * len(text.text)
        x, y = int(text.get("x")), int(text.get("y"))
        boxes.append((x - wide / 2, x + wide / 2, y - 10, y + 3))
    for at, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:at]:
            assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
