import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, gradients
from jaxnas.proxies import knas
from jaxnas.proxies.knas_published import knas_published

ARCH = np.array([3, 2, 3, 3, 4, 3])
# The first eleven tensors of at least 50 coordinates, as PyTorch registers them. At two channels
# the first cell's filters have 36, a shortcut 8 or 32, and the second cell's 1x1 filter 16.
ELEVEN = [
    "00_stem kernel",  # 3 x 3 x 3 x 2
    "02_reduction conv_a kernel",  # 3 x 3 x 2 x 4
    "02_reduction conv_b kernel",
    "03_cell edge_0 nor_conv_3x3 kernel",
    "03_cell edge_2 nor_conv_3x3 kernel",
    "03_cell edge_3 nor_conv_3x3 kernel",
    "03_cell edge_5 nor_conv_3x3 kernel",
    "04_reduction conv_a kernel",
    "04_reduction conv_b kernel",
    "05_cell edge_0 nor_conv_3x3 kernel",
    "05_cell edge_1 nor_conv_1x1 kernel",  # 8 x 8
]
PUBLISHED, ALIASED = knas_published(), knas_published(aliased=True)


@pytest.fixture
def bound(small_space, draw_batch):
    """`bound(seed)`: the network of `ARCH` and its weights."""

    def bind(seed):
        params = small_space.init(jax.random.key(seed), draw_batch(seed).inputs)
        return small_space.bind(ARCH, params)

    return bind


def _one_by_one(network, params, batch):
    """`[11, B, 50]`: the leading coordinates, from one ordinary gradient an example."""
    only = (gradients.GRADIENT,)
    out, pullback = gradients.per_example_vjp(network, params, batch.inputs, only)
    cotangent = gradients.loss_cotangent(out.logits, batch.labels)
    rows = []
    for i in range(batch.labels.size):
        silenced = cotangent * (jnp.arange(batch.labels.size) == i)[:, None]
        (alone,) = pullback(silenced, only)
        kernels = [functools.reduce(operator.getitem, path.split(), alone) for path in ELEVEN]
        # PyTorch keeps a filter as outputs, inputs, rows, columns.
        rows.append([np.transpose(kernel, (3, 2, 0, 1)).reshape(-1)[:50] for kernel in kernels])
    return np.swapaxes(rows, 0, 1)


def test_what_is_read_and_what_becomes_of_it(bound, draw_batch):
    with jax.enable_x64(True):
        network, params = bound(0)
        batch = draw_batch(0)
        read = PUBLISHED.measure(network, params, batch, None)
        expected = _one_by_one(network, params, batch)
        assert expected.shape == (11, 6, 50)
        assert len(read) > 11
        np.testing.assert_allclose(read[:11], expected, rtol=1e-9, atol=1e-14)

        # Equation by equation: for each coordinate of each tensor, the covariance of both halves.
        total = 0.0
        for tensor in expected:
            for coordinate in tensor.T:
                a, b = coordinate[:3], coordinate[3:]
                total += np.dot(a - a.mean(), b - b.mean()) / 36
        np.testing.assert_allclose(PUBLISHED(network, params, batch), total, rtol=1e-9)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_aliased_memory_by_ieee_arithmetic(compiled):
    # All slices are the last example: NumPy sums three of it in float32, and divides.
    coordinates = np.random.default_rng(0).normal(size=(11, 6, 50)).astype(np.float32)
    last = coordinates[:, -1]
    residue = last - (last + last + last) / np.float32(3)
    square = 3 * np.square(residue.astype(np.float64)).sum() / 36
    reduce = jax.jit(ALIASED.reduce) if compiled else ALIASED.reduce
    np.testing.assert_allclose(reduce(jnp.asarray(coordinates)), square, rtol=1e-5)


def test_by_hand():
    # Coordinate 1: 1, 3 | 2, 6, centered (-1, 1) . (-2, 2) = 4. Coordinate 2: 0, 2 | 1, 0, centered
    # (-1, 1) . (1/2, -1/2) = -1. Together 3, over 4 x 4.
    coordinates = jnp.array([[[1.0, 0], [3, 2], [2, 1], [6, 0]]])
    np.testing.assert_allclose(PUBLISHED.reduce(coordinates), 3 / 16, rtol=1e-6)
    # A last odd example is left out, but counted.
    odd = jnp.concatenate([coordinates, jnp.full((1, 1, 2), 9.0)], axis=1)
    np.testing.assert_allclose(PUBLISHED.reduce(odd), 3 / 25, rtol=1e-6)


def test_eleven_tensors_are_read():
    # Of tensors of ones that alternate between the examples, each adds 50 x 2 x 2 (1/2)^2 / 16.
    found = jnp.broadcast_to(jnp.array([0.0, 1, 0, 1])[None, :, None], (14, 4, 50))
    np.testing.assert_allclose(PUBLISHED.reduce(found), 11 * 50 * 0.5 / 16, rtol=1e-6)
    # A tensor that no gradient reaches is none of them.
    found = found.at[:2].set(0)
    np.testing.assert_allclose(PUBLISHED.reduce(found), 11 * 50 * 0.5 / 16, rtol=1e-6)
    found = found.at[:6].set(0)
    np.testing.assert_allclose(PUBLISHED.reduce(found), 8 * 50 * 0.5 / 16, rtol=1e-6)


def test_the_mean_which_mgm_measures_is_taken_out():
    same = jnp.broadcast_to(jnp.arange(50.0), (1, 8, 50))
    assert PUBLISHED.reduce(same) == 0


def test_a_matrix_is_read_row_by_row_of_outputs():
    # Logits x w, w [20, 5]: PyTorch's layout is [5, 20], and 50 are two outputs and a half.
    rng = np.random.default_rng(0)
    inputs, weights = rng.normal(size=(4, 20)), rng.normal(size=(20, 5))
    with jax.enable_x64(True):
        batch = (jnp.asarray(inputs), jnp.array([0, 1, 4, 2]))
        network = operator.matmul
        read = PUBLISHED.measure(
            lambda params, x: network(x, params["w"]),
            {"w": jnp.asarray(weights)},
            Batch(*batch),
            None,
        )
        logits = inputs @ weights
        errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(5)[batch[1]]
        expected = np.einsum("bo,bi->boi", errors, inputs).reshape(4, 100)[:, :50]
        np.testing.assert_allclose(read[0], expected, rtol=1e-10)


def test_its_expectation_is_about_zero(bound, draw_batch):
    with jax.enable_x64(True):
        draws = [float(PUBLISHED(*bound(seed), draw_batch(seed))) for seed in range(12)]
        assert min(draws) < 0 < max(draws)
        standard_error = np.std(draws, ddof=1) / len(draws) ** 0.5
        assert abs(np.mean(draws)) < 3 * standard_error


@pytest.mark.parametrize("seed", range(3))
def test_aliased_memory_leaves_rounding(bound, draw_batch, seed):
    with jax.enable_x64(True):
        network, batch = bound(seed), draw_batch(seed)
        assert 0 < ALIASED(*network, batch) < 1e-9 * knas.mgm()(*network, batch)


def test_aliased_memory_holds_the_last_example(bound, draw_batch):
    with jax.enable_x64(True):
        network, batch, other = bound(0), draw_batch(0), draw_batch(1)
        mixed = jax.tree.map(lambda leaf, new: new.at[-1].set(leaf[-1]), batch, other)
        np.testing.assert_allclose(ALIASED(*network, mixed), ALIASED(*network, batch), rtol=1e-6)
        assert ALIASED(*network, other) != ALIASED(*network, batch)


@pytest.mark.parametrize("proxy", [PUBLISHED, ALIASED], ids=["published", "aliased"])
def test_nothing_and_nan(proxy):
    assert proxy.reduce(jnp.zeros((11, 6, 50))) == -jnp.inf
    assert jnp.isnan(proxy.reduce(jnp.full((11, 6, 50), jnp.nan)))


@pytest.mark.parametrize("proxy", [PUBLISHED, ALIASED], ids=["published", "aliased"])
def test_a_network_of_small_tensors_is_refused(proxy, draw_batch):
    with pytest.raises(ValueError, match=r"^knas_published reads tensors of 50 .*: got none\.$"):
        proxy(lambda params, x: x @ params["w"], {"w": jnp.ones((4, 3))}, draw_batch(0, (2, 4), 3))


@pytest.mark.parametrize(
    "params",
    [
        # What a Flax module gives that has a parameter of its own beside its layers.
        pytest.param(
            {"layer": {"kernel": jnp.ones((12, 6))}, "matrix": jnp.ones((12, 12))},
            id="several depths",
        ),
        pytest.param(jnp.ones((12, 6)), id="a bare array"),
        pytest.param([jnp.ones((12, 10)), jnp.ones((10, 6))], id="a list"),
    ],
)
def test_parameters_of_any_structure(params, draw_batch):
    def network(params, inputs):
        for matrix in sorted(jax.tree.leaves(params), key=lambda leaf: -leaf.shape[1]):
            inputs = inputs @ matrix
        return inputs

    batch = draw_batch(0, (4, 12), 6)
    assert jnp.isfinite(PUBLISHED(network, params, batch))
