"""Every pooling and its gradient against XLA's and autodiff, in float64, also with ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas.network import operations as ops
from jaxnas.network.operations import Context, Weights


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _images(ties=False):
    values = np.random.default_rng(0).normal(size=(2, 6, 8, 3))
    return jnp.asarray(np.maximum(np.rint(values), 0) if ties else values)


def _max(size, stride, padding):
    return lambda x: nn.max_pool(x, (size,) * 2, (stride,) * 2, [(padding, padding)] * 2)


def _average(x):
    return nn.avg_pool(x, (3, 3), (2, 2), [(1, 1)] * 2, count_include_pad=False)


CASES = {
    "max 3": (ops.max_pool(), _max(3, 1, 1)),
    "max 3, stride 2": (ops.max_pool(stride=2), _max(3, 2, 1)),
    "max 2, stride 2": (ops.max_pool(size=2, stride=2), _max(2, 2, 0)),
    "average, stride 2": (ops.average_pool(stride=2), _average),
    "global": (ops.global_average_pool(), lambda x: x.mean((1, 2))),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_pooling_and_its_gradient(name, ties):
    operation, reference = CASES[name]
    images = _images(ties)
    expected, pullback = jax.vjp(jax.jit(reference), images)
    outputs, pull = jax.vjp(lambda x: operation(Weights(Context(), {}), x), images)
    np.testing.assert_allclose(outputs, expected, atol=1e-12)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=outputs.shape))
    np.testing.assert_allclose(pull(cotangent)[0], pullback(cotangent)[0], atol=1e-12)


def test_the_first_of_equal_maxima_gets_the_gradient():
    """A 2x2 window with the largest value at its first row's second and second row's first."""
    images = jnp.asarray([[0.0, 5.0], [5.0, 1.0]])[None, :, :, None]
    pool = ops.max_pool(size=2, stride=2)
    (gradient,) = jax.vjp(lambda x: pool(Weights(Context(), {}), x), images)[1](
        jnp.full((1, 1, 1, 1), 3.0)
    )
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 3], [0, 0]])
