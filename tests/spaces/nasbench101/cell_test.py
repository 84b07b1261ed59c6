import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.benchmarks.nasbench101_table import nasbench101 as table
from jaxnas.spaces.nasbench101_space import cell, nasbench101

ARCHS = table().archs
# A path from vertex 1 to the output, but none from the input.
CUT = cell.from_string("000/001/000:input,maxpool3x3,output")
FULL = np.array([1] * 21 + [0] * 5)


def _reaches(arch):
    """Whether a power of the adjacency matrix leads from the first to the last vertex."""
    matrix = np.eye(7, dtype=int)
    for edge, there in zip(cell.EDGES, arch, strict=False):
        matrix[edge] = there
    return np.linalg.matrix_power(matrix, 6)[0, 6] > 0


def test_connected_is_a_path():
    rng = np.random.default_rng(0)
    archs = np.hstack([rng.random((200, 21)) < 0.25, np.zeros((200, 5))]).astype(np.int32)
    expected = [_reaches(arch) for arch in archs]
    assert 20 < sum(expected) < 180
    assert [bool(cell.is_connected(arch)) for arch in archs] == expected
    traced = jax.jit(jax.vmap(cell.is_connected))(archs)
    np.testing.assert_array_equal(traced, expected)


def test_valid_cells_have_at_most_nine_live_edges():
    assert all(cell.is_valid(arch) for arch in ARCHS[::500])
    assert cell.is_connected(FULL)
    assert not cell.is_valid(FULL)
    assert not cell.is_valid(CUT)
    # Nine edges on paths, and one more from the input to vertex 5, which leads nowhere.
    nine = cell.from_string(
        "0111111/0000001/0000001/0000001/0000001/0000000/0000000:input,"
        + "maxpool3x3," * 5
        + "output"
    )
    assert nine[:21].sum() == 10
    assert cell.is_valid(nine)
    assert cell.graph(cell.one(nine)).num_edges == 9


def test_a_sample_is_valid_and_reproducible():
    drawn = np.asarray(cell.sample(jax.random.key(0), 300))
    assert drawn.shape == (300, 26)
    assert all(cell.is_valid(arch) for arch in drawn)
    np.testing.assert_array_equal(cell.sample(jax.random.key(0), 300), drawn)
    assert (np.asarray(cell.sample(jax.random.key(1), 300)) != drawn).any()
    # Every operation in every place.
    assert all(set(drawn[:, 21 + vertex]) == {0, 1, 2} for vertex in range(5))
    assert cell.sample(jax.random.key(0), 0).shape == (0, 26)


def test_facts_of_the_space():
    space = nasbench101()
    assert space.name == "nasbench101"
    assert space.num_choices == (2,) * 21 + (3,) * 5
    assert space.options["channels"] == 128
    assert space.pattern is None
    np.testing.assert_array_equal(space.from_string(space.to_string(ARCHS[3])), ARCHS[3])
    np.testing.assert_array_equal(space.representative(ARCHS[3]), cell.canonical(ARCHS[3]))


def test_parameters_are_those_of_the_table():
    found = [nasbench101().num_params(arch) for arch in ARCHS[::50]]
    np.testing.assert_array_equal(found, table().params[::50])


def test_several_architectures_are_refused():
    with pytest.raises(ValueError, match="One architecture at a time"):
        cell.is_connected(np.zeros((2, 26), int))


def test_traced_and_concrete_agree():
    traced = jax.jit(cell.is_valid)
    for arch in [*ARCHS[:20], CUT, FULL]:
        assert bool(traced(jnp.asarray(arch))) == bool(cell.is_valid(arch))


@pytest.mark.parametrize("channels", [5, 12])
def test_the_layout_of_a_cell_is_the_published_one(channels):
    """Of Python's decisions, and of traced ones."""
    archs = ARCHS[::500]

    @jax.jit
    def traced(archs):
        return jax.vmap(lambda arch: jnp.asarray(cell.layout(arch, channels).widths))(archs)

    found = traced(archs)
    for position, arch in enumerate(archs):
        graph, layout = cell.graph(cell.one(arch)), cell.layout(cell.one(arch), channels)
        assert layout.widths == list(cell.widths(graph, channels))
        assert all(isinstance(width, int) for width in layout.widths)
        assert found[position].tolist() == layout.widths
        live = {(s, t) for t, sources in enumerate(graph.sources) for s in sources}
        assert live == {edge for edge, there in layout.live.items() if there}
        ends = [layout.starts[vertex] + layout.widths[vertex] for vertex in graph.to_output]
        starts = [layout.starts[vertex] for vertex in graph.to_output]
        assert [*starts, channels][1:] == ends
