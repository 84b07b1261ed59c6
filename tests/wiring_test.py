import itertools

import jax
import numpy as np
import pytest

from jaxnas import wiring
from jaxnas.benchmarks import notation


def _ends(found):
    """The live edges, by listing all paths."""
    nodes = wiring.num_nodes(found)
    kind = dict(zip(wiring.edges(nodes), found.tolist(), strict=True))
    live = set()
    for size in range(nodes - 1):
        for between in itertools.combinations(range(1, nodes - 1), size):
            path = list(itertools.pairwise([0, *between, nodes - 1]))
            if all(kind[edge] for edge in path):
                live.update(path)
    return live


def test_edges_are_in_the_order_of_nasbench201():
    assert wiring.edges(4) == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    string = "|none~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"
    assert wiring.to_code(notation.from_string(string)) == "0_10_001"


def test_code_strings():
    edges = wiring.from_code("2_21_112")
    np.testing.assert_array_equal(edges, [2, 2, 1, 1, 1, 2])
    assert edges.dtype == np.int32
    assert wiring.to_code(edges) == "2_21_112"
    np.testing.assert_array_equal(
        edges,
        wiring.from_edges(4, [(0, 1, 2), (0, 2, 2), (1, 2, 1), (0, 3, 1), (1, 3, 1), (2, 3, 2)]),
    )


def test_a_chain_of_cells():
    # The output of the first, node 2, is the input of the second: no edge leads past it.
    edges = wiring.chain(
        [wiring.from_code("2_10"), wiring.from_code("1"), wiring.from_code("0_21")]
    )
    assert wiring.to_code(edges) == "2_10_001_0000_00021"


def test_the_matrix_has_targets_as_rows():
    matrix = wiring.incoming(wiring.from_code("2_01_120"))
    np.testing.assert_array_equal(matrix, [[0, 0, 0, 0], [2, 0, 0, 0], [0, 1, 0, 0], [1, 2, 0, 0]])


@pytest.mark.parametrize("nodes", [2, 5])
def test_live_edges_are_those_on_a_path(nodes):
    rng = np.random.default_rng(nodes)
    many = rng.choice(3, p=[0.5, 0.25, 0.25], size=(40, nodes * (nodes - 1) // 2))
    live, connected, pruned = jax.jit(
        jax.vmap(
            lambda leaf: (wiring.live_edges(leaf), wiring.is_connected(leaf), wiring.prune(leaf))
        )
    )(many)
    for result, found, reached in zip(many, live, connected, strict=True):
        edges = {e for e, is_live in zip(wiring.edges(nodes), found, strict=True) if is_live}
        assert edges == _ends(result)
        assert bool(reached) == bool(edges)
    np.testing.assert_array_equal(pruned, np.where(live, many, 0))


def test_a_hundred_nodes():
    chain = wiring.from_edges(100, [(node, node + 1, 1) for node in range(99)])
    assert wiring.is_connected(chain)
    assert wiring.live_edges(chain).sum() == 99


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wiring.num_nodes(np.zeros(4)), r"n \(n - 1\) / 2 edges.* got shape \[4\]"),
        (lambda: wiring.num_nodes(0), r"got shape \[\]"),
        (lambda: wiring.num_nodes(np.zeros((2, 0))), r"got shape \[2, 0\]"),
        (lambda: wiring.validate([1.0]), "got dtype float64"),
        (lambda: wiring.validate([0, 3, 1]), "got kind 3"),
        (lambda: wiring.validate([[-1], [1]]), "got kind -1"),
        (lambda: wiring.from_edges(3, [(0, 1, 1), (1, 0, 1)]), "got 1 -> 0; break the cycle"),
        (lambda: wiring.from_edges(3, [(1, 1, 2)]), "got 1 -> 1"),
        (lambda: wiring.from_edges(3, [(0, 3, 2)]), "got 0 -> 3"),
        (lambda: wiring.from_edges(3, [(0, 1, 2), (0, 1, 1)]), "0 -> 1 twice"),
        (lambda: wiring.from_edges(1, []), "nodes must be an integer from 2 to 1000: got 1"),
        (lambda: wiring.from_edges(10**6, []), "from 2 to 1000: got 1000000"),
        (lambda: wiring.from_code("2_2_112"), "got '2_2_112'"),
        (lambda: wiring.from_code("3"), "got '3'"),
        (lambda: wiring.from_code(""), "got ''"),
        (lambda: wiring.chain([]), "a cell or more: got none"),
        (lambda: wiring.chain([[1], [3]]), "got kind 3"),
        (lambda: wiring.to_code([[1]]), r"One wiring at a time: got shape \[1, 1\]"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
