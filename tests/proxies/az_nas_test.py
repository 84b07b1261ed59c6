import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies
from jaxnas.proxies import az_nas
from jaxnas.types import Passed


class Chain:
    """A network of functions, one a stage, and then the mean over pixels for logits."""

    def __init__(self, *functions):
        self.functions = (*functions, lambda x: x.mean((1, 2)))

    def __call__(self, params, inputs):
        for function in self.functions:
            inputs = function(inputs)
        return inputs

    def stages(self, params, inputs, statistics, *, normalized=True):
        def stage(function):
            def run(inputs):
                outputs, pull = jax.vjp(function, *inputs)
                return Passed((outputs,), [], lambda cotangents, chosen: (pull(*cotangents), {}))

            return run

        return [stage(function) for function in self.functions]


def _score(name, *functions, channels=1):
    inputs = jax.random.normal(jax.random.key(0), (4, 8, 8, channels))
    return float(proxies.BY_NAME[name](Chain(*functions), {}, Batch(inputs, jnp.zeros(4, int))))


def _identity(x):
    return x


def _halved(x):
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


# The spectral norm of a multiple is its factor: 2 - a - 1 / a. A mean of four pixels passes a
# quarter of the probe on to each: the norm of (1/4, 1/4, 1/4, 1/4), which is 1/2.
@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((lambda x: 2 * x, lambda x: 2 * x), -0.5),
        ((lambda x: 2 * x, lambda x: -x), -0.25),  # -1 keeps all sizes
        ((_halved, _halved), -0.5),
        ((lambda x: 2 * x, _identity), (-0.5 + 2 - 1e6) / 2),  # s is 0
        ((lambda x: x * jnp.nan, lambda x: 2 * x), math.nan),
    ],
)
def test_trainability_by_hand(blocks, expected):
    assert _score("trainability", _identity, *blocks) == pytest.approx(
        expected, rel=1e-4, nan_ok=True
    )


def test_the_spectral_norm_is_that_of_a_matrix():
    # Of a 1x1 convolution by a matrix M the product is M u^T u / n; with exact signs of a
    # Hadamard matrix u^T u / n is the identity.
    matrix = np.random.default_rng(0).normal(size=(3, 4))
    signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    probe = jnp.array(signs.reshape(1, 2, 2, 4), float)
    pulled = probe @ matrix.T
    norm, unchanged = az_nas._spectral_norm(probe, pulled)
    np.testing.assert_allclose(norm, np.linalg.norm(matrix, 2), rtol=1e-5)
    assert unchanged == 0


def test_entropies_by_hand():
    # Two channels of one variance, uncorrelated: log 2. Twice the same: one component, 0.
    both = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).reshape(4, 1, 1, 2)
    np.testing.assert_allclose(az_nas._entropy(both), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(az_nas._entropy(both[..., :1].repeat(2, -1)), 0, atol=1e-5)
    # Variances 3 and 1 of a mean that does not count.
    scaled = both * jnp.array([3**0.5, 1])[None, None, None] + 5
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    np.testing.assert_allclose(az_nas._entropy(scaled), expected, rtol=1e-5)
    assert az_nas._entropy(jnp.ones((2, 2, 2, 3))) == -np.inf


@pytest.mark.parametrize(
    ("name", "entropies", "expected"),
    [
        ("expressivity", [1, 3, 2.5], 6.5),
        ("progressivity", [1, 3, 2.5], -0.5),
        ("expressivity", [1, -math.inf, -math.inf], -math.inf),
        ("progressivity", [1, -math.inf, -math.inf], -math.inf),
        ("progressivity", [1, math.nan, 2], math.nan),
    ],
)
def test_reduced_by_hand(name, entropies, expected):
    found = proxies.BY_NAME[name].reduce(jnp.array(entropies, float))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["expressivity", "progressivity", "trainability"])
def test_a_network_that_shows_no_blocks_is_refused(name):
    batch = Batch(jnp.ones((2, 4, 4, 1)), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="Staged"):
        proxies.BY_NAME[name](lambda params, inputs: inputs.mean((1, 2)), {}, batch)
