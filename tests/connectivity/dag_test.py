import itertools
import time

import chex
import jax
import numpy as np
import pytest

from jaxnas import encoding, wiring
from jaxnas.connectivity import cells, dag


@pytest.fixture(scope="module")
def space():
    return encoding.enumerate_archs((3,) * 6)


@pytest.fixture(scope="module")
def live(space):
    """The 290 different wirings without dead edges that connect input and output."""
    pruned = np.asarray(jax.vmap(wiring.prune)(space))
    return np.unique(pruned[pruned.any(1)], axis=0)


def _depths(found):
    """The depths of all paths, by listing them."""
    nodes = wiring.num_nodes(found)
    kind = dict(zip(wiring.edges(nodes), found.tolist(), strict=True))
    paths = [
        [kind[edge] for edge in itertools.pairwise([0, *between, nodes - 1])]
        for size in range(nodes - 1)
        for between in itertools.combinations(range(1, nodes - 1), size)
    ]
    return [path.count(wiring.LINEAR) for path in paths if wiring.ZERO not in path]


@pytest.mark.parametrize(
    ("code", "depths", "depth", "width"),
    [  # the worked examples of the paper, section 3
        ("2_02_002", [3], 3, 1 / 3),
        ("1_01_222", [1, 1, 1], 1, 3),
        ("2_21_112", [0, 1, 2, 2], 5 / 4, 2.4),
        ("0_01_010", [], 0, 0),  # no path
        ("1_00_010", [0], 0, 0),  # no weights
    ],
)
def test_the_worked_examples(code, depths, depth, width):
    edges = dag.statistics(wiring.from_code(code))
    np.testing.assert_array_equal(edges.histogram, np.bincount(depths, minlength=4))
    assert edges.paths == len(depths)
    assert edges.total_depth == sum(depths)
    np.testing.assert_allclose([edges.depth, edges.width], [depth, width], rtol=1e-12)


def test_dead_edges_and_nodes():
    # 0 -> 1 -> 3 is all there is; 0 -> 2 leads nowhere.
    edges = dag.statistics(wiring.from_code("2_20_010"))
    assert (edges.linear_edges, edges.dead_nodes, edges.paths) == (1, 1, 1)


@pytest.mark.parametrize("nodes", [2, 6])
def test_statistics_are_those_of_the_listed_paths(nodes):
    rng = np.random.default_rng(nodes)
    many = rng.integers(0, 3, (20, nodes * (nodes - 1) // 2))
    found = dag.statistics(many)
    for position, one in enumerate(many):
        depths = _depths(one)
        np.testing.assert_array_equal(
            found.histogram[position], np.bincount(depths, minlength=nodes) if depths else 0
        )
        if sum(depths):
            mean = np.mean(depths)
            np.testing.assert_allclose(found.depth[position], mean)
            np.testing.assert_allclose(found.width[position], np.count_nonzero(depths) / mean)


def test_all_cells_of_four_nodes(space, live):
    found = dag.statistics(space)
    connected = found.paths > 0
    assert (len(space), connected.sum(), len(live)) == (729, 662, 290)
    assert (dag.statistics(live).linear_edges > 0).sum() == 275
    values, counts = np.unique(found.paths[connected], return_counts=True)
    assert dict(zip(values, counts, strict=True)) == {1: 230, 2: 240, 3: 128, 4: 64}
    pairs = set(zip(found.depth.round(9), found.width.round(9), strict=True))
    assert len(pairs - {(0, 0)}) == 31
    assert (0, 0) in pairs


def test_dead_edges_change_nothing(space):
    pruned = jax.vmap(wiring.prune)(space)
    chex.assert_trees_all_equal(
        dag.statistics(space)._replace(dead_nodes=0), dag.statistics(pruned)._replace(dead_nodes=0)
    )


def test_nasbench201():
    found = dag.statistics(cells.from_nasbench201(encoding.enumerate_archs((5,) * 6)))
    assert (found.total_depth == 0).sum() == 1983


def test_a_hundred_nodes_in_a_second():
    edges = 100 * 99 // 2
    many = np.random.default_rng(0).integers(0, 3, edges)
    jax.clear_caches()
    started = time.perf_counter()
    found = dag.statistics(many)
    seconds = time.perf_counter() - started
    assert found.paths > 1e20  # beyond any list, and beyond 64-bit integers
    assert seconds < 2  # a second on an idle machine, compilation included
    # Each of the 98 nodes between is on a path of the complete graph, or not: 2^98 paths. A path by
    # k of them has k + 1 edges: 50 on average.
    full = dag.statistics(np.full(edges, wiring.LINEAR))
    np.testing.assert_allclose(full.paths, 2.0**98, rtol=1e-12)
    np.testing.assert_allclose(full.depth, 50, rtol=1e-12)
    np.testing.assert_allclose(full.width, 2.0**98 / 50, rtol=1e-12)


def test_squares_of_path_counts_do_not_overflow():
    complete = np.full(600 * 599 // 2, wiring.SKIP)
    complete[-1] = wiring.LINEAR
    found = dag.statistics(complete)
    assert np.log2(found.paths) == pytest.approx(598)
    assert found.depth == pytest.approx(0.5)  # half of the paths take the last edge
    assert np.log2(found.width) == pytest.approx(598)


def test_one_program_serves_all_wirings(space):
    chex.clear_trace_counter()
    found = jax.jit(jax.vmap(chex.assert_max_traces(dag.path_statistics, n=1)))
    first, second = found(space[:9]), found(space[9:18])
    for name in ("paths", "depth", "width"):
        np.testing.assert_allclose(
            np.concatenate([getattr(first, name), getattr(second, name)]),
            getattr(dag.statistics(space[:18]), name),
            rtol=1e-6,
        )


def test_bad_input():
    with pytest.raises(ValueError, match="got kind 7"):
        dag.statistics([7])


def test_the_super_network_of_nasbench201():
    # 4 operations an edge, half of them convolutions. Paths of 1, 2, 2 and 3 edges: depth
    # (.5 + 1 + 1 + 1.5) / 4, width (1/2 + 3/4 + 3/4 + 7/8) / 1.
    half = np.full(6, 0.5)
    assert dag.expected_depth_width(half, half) == (1.0, 2.875)


def test_shares_of_one_are_a_wiring(space):
    chosen = space[::7]
    depth, width = dag.expected_depth_width(chosen == wiring.SKIP, chosen == wiring.LINEAR)
    expected = dag.statistics(chosen)
    np.testing.assert_allclose(depth, expected.depth, rtol=1e-12)
    np.testing.assert_allclose(width, expected.width, rtol=1e-12)


def test_shares_against_all_choices():
    # An edge of either kind at even chances: the mean histogram over both wirings.
    skip, linear = np.array([[0, 0, 1, 0.5, 0, 0.0], [1, 1, 0, 0.5, 0, 1]])
    rows = [dag.statistics(wiring.from_code(code)) for code in ("2_21_102", "2_21_202")]
    histogram = (rows[0].histogram + rows[1].histogram) / 2
    depth = histogram @ np.arange(4) / histogram.sum()
    found = dag.expected_depth_width(skip, linear)
    np.testing.assert_allclose(found, (depth, histogram[1:].sum() / depth), rtol=1e-12)


@pytest.mark.parametrize(
    ("skip", "linear", "sentence"),
    [
        (np.ones(6), np.ones(6), "whose sum is 1 at most"),
        (-np.ones(6), np.ones(6), "numbers from 0"),
        (np.ones(6), np.ones(3), "a share on each edge"),
        (np.ones(5), np.ones(5), "n \\(n - 1\\) / 2 edges"),
    ],
)
def test_refuses_shares(skip, linear, sentence):
    with pytest.raises(ValueError, match=sentence):
        dag.expected_depth_width(skip, linear)
