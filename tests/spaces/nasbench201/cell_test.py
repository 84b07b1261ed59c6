import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas import spaces
from jaxnas.benchmarks import nasbench201
from jaxnas.spaces.nasbench201_space import cell

BENCHMARK = nasbench201()
CELLS = [tuple(arch) for arch in BENCHMARK.archs.tolist()]
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)
# Written out, not taken from the module under test.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def _string(arch):
    """The notation of the benchmark, spelled out."""
    of = dict(zip(EDGES, (NAMES[decision] for decision in arch), strict=True))
    nodes = ["".join(f"{of[s, t]}~{s}|" for s in range(t)) for t in (1, 2, 3)]
    return "|" + "+|".join(nodes)


STRINGS = {_string(arch): arch for arch in CELLS}


SPACE = spaces.nasbench201()


def _num_macs(space, arch, shape):
    """Return the multiply-accumulates of a cell's network; no numbers are needed for that."""
    images = jax.ShapeDtypeStruct(shape, np.float32)
    params = jax.eval_shape(space.init, jax.random.key(0), images)
    return space.bind(arch, params)[0].num_macs(params, images)


def test_params_of_every_cell():
    found = [SPACE.num_params(arch) for arch in CELLS]
    np.testing.assert_array_equal(found, BENCHMARK.params)


def test_macs_of_cells():
    # The table keeps five decimals of a million; all counts are multiples of ten.
    chosen = range(0, len(CELLS), 25)
    macs = [_num_macs(SPACE, CELLS[index], (1, 32, 32, 3)) for index in chosen]
    np.testing.assert_array_equal(macs, np.rint(BENCHMARK.columns["mflops"][chosen] * 1e6))


def test_cost_by_hand():
    # No convolution in any cell, C=2, N=1, K=3, RGB 8x8. Stem 9*3*2 + 4 = 58. Reductions
    # 9*2*4 + 8 + 9*4*4 + 8 + 2*4 = 240 and 9*4*8 + 16 + 9*8*8 + 16 + 4*8 = 928. Last norm 16,
    # classifier 8*3 + 3 = 27.
    bare = [POOL, SKIP, NONE, SKIP, SKIP, NONE]
    sizes = {"channels": 2, "cells": 1, "classes": 3}
    small = spaces.nasbench201(**sizes)
    assert small.num_params(bare) == 58 + 240 + 928 + 16 + 27
    # One 3x3: 9*(4 + 16 + 64) weights, 4 + 8 + 16 of norms. Grey instead of RGB: 9*2*2 less.
    one = [CONV_3X3, *bare[1:]]
    assert small.num_params(one) - small.num_params(bare) == 9 * 84 + 28
    grey = spaces.nasbench201(**sizes, colors=1)
    assert small.num_params(bare) - grey.num_params(bare) == 36
    # MACs: stem 54*64, reductions (72 + 144 + 8)*16 and (288 + 576 + 32)*4, classifier 27.
    shape = (1, 8, 8, 3)
    assert _num_macs(small, bare, shape) == 3456 + 3584 + 3584 + 27
    # One 1x1: 4*64 + 16*16 + 64*4, in each of two cells a stage.
    two = spaces.nasbench201(**{**sizes, "cells": 2})
    more = _num_macs(two, [CONV_1X1, *bare[1:]], shape) - _num_macs(two, bare, shape)
    assert more == 2 * 768


def test_official_indices():
    for index, arch in enumerate(CELLS):
        assert cell.index(arch) == index
        assert tuple(cell.from_index(index).tolist()) == arch


def test_strings():
    assert len(STRINGS) == 15625
    for string, arch in STRINGS.items():
        assert cell.to_string(arch) == string
        assert tuple(cell.from_string(string).tolist()) == arch


def test_isomorphism_classes():
    strings = [cell.isomorphism_class(arch) for arch in CELLS]
    pairs = set(zip(strings, BENCHMARK.columns["classes"].tolist(), strict=True))
    assert (
        len(pairs) == len(set(strings)) == len(set(BENCHMARK.columns["classes"].tolist())) == 6466
    )


def test_isomorphism_class_by_hand():
    # Node 1 = relu-conv of 0; node 2 = node 1 (skip) and a cut edge; node 3 = node 2 pooled.
    arch = [CONV_3X3, NONE, SKIP, NONE, NONE, POOL]
    assert cell.isomorphism_class(arch) == "#+#+(#+(0)@nor_conv_3x3)@avg_pool_3x3"


def test_connected_cells():
    connected = np.array([cell.is_connected(arch) for arch in CELLS])
    expected = [3 in _reached(arch, {0}) for arch in CELLS]
    np.testing.assert_array_equal(connected, expected)
    assert (~connected).sum() == 341
    traced = jax.jit(jax.vmap(cell.is_connected))(BENCHMARK.archs)
    np.testing.assert_array_equal(traced, expected)


def _reached(arch, start):
    """Nodes that a signal from `start` reaches over edges that are not cut."""
    reached = set(start)
    for _ in range(3):
        reached |= {
            target
            for (source, target), decision in zip(EDGES, arch, strict=True)
            if source in reached and decision != NONE
        }
    return reached


def test_live_edges_by_definition():
    for arch in CELLS:
        edges = list(zip(EDGES, arch, strict=True))
        convolved = {target for (_, target), decision in edges if decision in (CONV_1X1, CONV_3X3)}
        carrying = _reached(arch, {0} | convolved)
        expected = tuple(
            edge
            for edge, ((source, target), decision) in enumerate(edges)
            if decision != NONE
            and (source in carrying or decision in (CONV_1X1, CONV_3X3))
            and 3 in _reached(arch, {target})
        )
        assert cell.live_edges(arch) == expected


def test_live_edges_are_those_that_change_the_output_when_cut():
    """A toy cell on numbers: a convolution is affine, a pool linear, all with random constants."""
    slopes, biases = np.random.default_rng(0).normal(size=(2, 6, 5))
    slopes[:, NONE], slopes[:, SKIP] = 0, 1
    biases[:, [NONE, SKIP, POOL]] = 0

    def output(archs):
        nodes = [np.full(len(archs), 0.7), 0.0, 0.0, 0.0]
        for edge, (source, target) in enumerate(EDGES):
            decision = archs[:, edge]
            nodes[target] = nodes[target] + slopes[edge, decision] * nodes[source]
            nodes[target] += biases[edge, decision]
        return nodes[3]

    live = np.zeros((len(CELLS), 6), bool)
    for position, arch in enumerate(CELLS):
        live[position, list(cell.live_edges(arch))] = True
    for edge in range(6):
        cut = BENCHMARK.archs.copy()
        cut[:, edge] = NONE
        np.testing.assert_array_equal(output(cut) != output(BENCHMARK.archs), live[:, edge])


def test_every_live_edge_of_a_connected_chain():
    assert cell.live_edges((SKIP, NONE, SKIP, NONE, NONE, SKIP)) == (0, 2, 5)
    assert cell.live_edges((SKIP,) * 6) == tuple(range(6))
    assert cell.live_edges((NONE,) * 6) == ()
    assert cell.live_edges((NONE, NONE, POOL, NONE, CONV_1X1, POOL)) == (4,)  # a bias only


@settings(deadline=None)
@given(
    st.sampled_from(sorted(STRINGS)),
    st.integers(0, 200),
    st.integers(0, 3),
    st.text("|+~0123 \nnoeskipcavg_x", max_size=3) | st.text(max_size=3),
)
def test_an_edited_string_is_another_cell_or_refused(string, start, length, insertion):
    edited = string[:start] + insertion + string[start + length :]
    if edited in STRINGS:
        assert tuple(cell.from_string(edited).tolist()) == STRINGS[edited]
    else:
        with pytest.raises(ValueError, match="A cell is written"):
            cell.from_string(edited)


@settings(deadline=None)
@given(st.permutations(range(3)), st.sampled_from(sorted(STRINGS)))
def test_nodes_out_of_order_are_refused(order, string):
    nodes = string.split("+")
    shuffled = "+".join(nodes[position] for position in order)
    if list(order) == [0, 1, 2]:
        assert cell.to_string(cell.from_string(shuffled)) == string
    else:
        with pytest.raises(ValueError, match="A cell is written"):
            cell.from_string(shuffled)


@pytest.mark.parametrize("position", [-1, 15625])
def test_no_such_index(position):
    with pytest.raises(ValueError, match=rf"in \[0, 15625\): got {position}"):
        cell.from_index(position)


@pytest.mark.parametrize(
    "function",
    [
        cell.index,
        cell.isomorphism_class,
        cell.is_connected,
        SPACE.num_params,
        cell.to_string,
    ],
)
@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ([1, 2, 3, 4, 0], "6 decisions"),
        ([1, 2, 3, 4, 0, 5], "Decision 5 must be in"),
        ([-1, 2, 3, 4, 0, 1], "Decision 0 must be in"),
        ([0.0] * 6, "arrays of integers"),
        ([[0] * 6] * 2, "One architecture at a time"),
    ],
)
def test_bad_architectures(function, arch, message):
    with pytest.raises(ValueError, match=message):
        function(arch)


def test_the_notation_of_edges_and_operations():
    assert cell.EDGES == EDGES
    assert cell.OPERATIONS == NAMES
    assert cell.NUM_CHOICES == (5,) * 6


@pytest.mark.parametrize("arch", [[1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 5]])
def test_bad_architectures_on_a_device(arch):
    with pytest.raises(ValueError, match="ecision"):
        cell.is_connected(jnp.array(arch))


def test_a_pattern_is_the_convolutions():
    archs = [[3, 1, 4, 2, 0, 1], [3, 4, 0, 2, 1, 4], [0] * 6]
    expected = [[3, 0, 0, 2, 0, 0], [3, 0, 0, 2, 0, 0], [0] * 6]
    np.testing.assert_array_equal(cell.pattern(archs), expected)
