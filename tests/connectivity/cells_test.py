import itertools

import numpy as np
import pytest

from jaxnas import wiring
from jaxnas.benchmarks import notation
from jaxnas.connectivity import cells, dag

CONV, SKIP = "sep_conv_3x3", "skip_connect"


def test_nasbench201_by_hand():
    string = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    found = cells.from_nasbench201(notation.from_string(string))
    assert wiring.to_code(found) == "2_01_102"
    # Paths 0-1-2-3 with two convolutions, and 0-3 with none.
    np.testing.assert_array_equal(dag.statistics(found).histogram, [1, 0, 1, 0])


def test_nasbench101_by_hand():
    # input -> conv -> conv -> output, input -> pool -> output, input -> output
    matrix = np.zeros((5, 5), int)
    for source, target in [(0, 1), (1, 2), (2, 4), (0, 3), (3, 4), (0, 4)]:
        matrix[source, target] = 1
    names = ["input", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3", "output"]
    for vertices in (5, 7):
        found = dag.statistics(cells.from_nasbench101(matrix, names, vertices=vertices))
        np.testing.assert_array_equal(found.histogram[:4], [2, 0, 1, 0])
        assert found.linear_edges == 2
        assert found.dead_nodes == 2 * (vertices - 5)


def test_darts_by_hand():
    # Sum 2 takes a convolution of input 0 and the identity of input 1, and so do the others, so
    # each sum has a path of depth 1 and one of depth 0.
    cell = [(CONV, 0), (SKIP, 1)] * 4
    found = dag.statistics(cells.from_darts(cell))
    np.testing.assert_array_equal(found.histogram[:3], [4, 4, 0])
    # Only sums 2 and 3 are read: the others are dead.
    some = dag.statistics(cells.from_darts(cell, concatenated=(2, 3)))
    assert (some.paths, some.dead_nodes - found.dead_nodes) == (4, 2)
    published = dag.statistics(cells.from_darts(cell, concatenated=(2, 3), published=True))
    np.testing.assert_array_equal(published.histogram, found.histogram)


def test_darts_with_two_edges_from_one_node():
    # Every sum takes both edges from the one before: 2, 4, 8, 16 paths, of depths 1 to 4.
    chain = [(CONV, source) for source in (1, 1, 2, 2, 3, 3, 4, 4)]
    found = dag.statistics(cells.from_darts(chain))
    np.testing.assert_array_equal(found.histogram[:6], [0, 2, 4, 8, 16, 0])
    published = dag.statistics(cells.from_darts(chain, published=True))
    np.testing.assert_array_equal(published.histogram[:6], [0, 1, 1, 1, 1, 0])
    # d = 10 / 4, m = 4 / 2.5
    np.testing.assert_allclose([published.depth, published.width], [2.5, 1.6])


def test_ranges_of_all_darts_cells():
    """Two different predecessors a sum: 46,080 cells, as the released code counts them."""
    pairs = [list(itertools.combinations(range(each), 2)) for each in range(2, 6)]
    kinds = list(itertools.product((wiring.SKIP, wiring.LINEAR), repeat=8))
    cell = [(SKIP, source) for pair in (chosen[0] for chosen in pairs) for source in pair]
    nodes = wiring.num_nodes(cells.from_darts(cell))
    position = {edge: index for index, edge in enumerate(wiring.edges(nodes))}
    all_wirings = []
    for topology in itertools.product(*pairs):
        sources = [source for pair in topology for source in pair]
        found = cells.from_darts([(SKIP, source) for source in sources])
        where = [
            position[1 + source if source < 2 else 2 * source, 2 * (2 + edge // 2)]
            for edge, source in enumerate(sources)
        ]
        many = np.tile(found, (len(kinds), 1))
        many[:, where] = kinds
        all_wirings.append(many)
    found = dag.statistics(np.concatenate(all_wirings))
    deep = found.depth > 0
    assert len(deep) == 46080
    assert found.depth[deep].min() == pytest.approx(0.0625)
    assert found.depth.max() == pytest.approx(2.444, abs=5e-4)
    assert found.width[deep].min() == pytest.approx(5.867, abs=5e-4)
    assert found.width.max() == pytest.approx(18)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cells.from_nasbench201([5] * 6), r"in \[0, 5\): got 5"),
        (lambda: cells.from_nasbench101(np.eye(2), ["input", "output"]), "got 0 -> 0; break the"),
        (lambda: cells.from_nasbench101([[0, 1]], ["input", "output"]), r"got shape \[1, 2\]"),
        (lambda: cells.from_nasbench101([[0, 2], [0, 0]], ["input", "output"]), "of 0 and 1"),
        (lambda: cells.from_nasbench101([[0, 1], [0, 0]], ["in", "output"]), "'input' to 'output'"),
        (
            lambda: cells.from_nasbench101(np.zeros((3, 3), int), ["input", "conv", "output"]),
            "got 'conv'",
        ),
        (lambda: cells.from_darts([(CONV, 0)]), "has 8 edges, two for each sum: got 1"),
        (lambda: cells.from_darts([(CONV, 0), (CONV, 2)] * 4), "Sum 2 takes .* got 2"),
        (lambda: cells.from_darts([("linear", 0), (CONV, 1)] * 4), "got 'linear'"),
        (lambda: cells.from_darts([(CONV, 0), (CONV, 1)] * 4, (2, 6)), r"got \[2, 6\]"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
