import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies

MECO = proxies.BY_NAME["meco"]


def _score(maps, factor=1.0):
    """The score of an image whose channels are the rows of `maps`."""
    image = jnp.array(maps, float).T.reshape(1, 1, -1, len(maps))
    batch = Batch(jnp.concatenate([image, jnp.ones_like(image)]), jnp.zeros(2, int))

    def network(params, inputs):
        return jnp.maximum(factor * inputs, 0).mean((1, 2))

    return float(MECO(network, {}, batch))


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([[1, -1, 0, 0], [0, 0, 1, -1]], 1),  # uncorrelated
        ([[1, 2, 3, 5], [-2, -4, -6, -10]], 0),
        # (1, -1, 0) and (1, 0, -1): correlation 1/2, eigenvalues 3/2 and 1/2.
        ([[1, -1, 0], [1, 0, -1]], 0.5),
        ([[1, -1, 0], [4, 4, 4]], 0),  # a constant channel
        ([[1, -1], [1, 2], [0, 5]], 0),  # more channels than pixels
    ],
)
def test_one_layer_by_hand(maps, expected):
    np.testing.assert_allclose(_score(maps), expected, atol=1e-6)
    np.testing.assert_allclose(_score(maps, 1e3), expected, atol=1e-6)


def test_nan_and_none():
    assert np.isnan(_score([[1, -1, 0], [1, 0, -1]], np.nan))
    batch = Batch(jnp.ones((2, 3)), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="got a network without"):
        MECO(lambda params, inputs: jnp.maximum(inputs, 0), {}, batch)


@pytest.mark.parametrize("name", ["meco", "naswot", "swap", "linear_regions"])
def test_half_precision_and_strict_promotion(name):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 3)), jnp.float32)

    def network(params, inputs):
        return jnp.maximum(inputs, jnp.zeros((), inputs.dtype)).mean((1, 2))

    def score(images):
        return float(proxies.BY_NAME[name](network, {}, Batch(images, jnp.zeros(4, jnp.int32))))

    expected = score(images)
    with jax.numpy_dtype_promotion("strict"):
        assert score(images) == expected
    np.testing.assert_allclose(score(images.astype(jnp.bfloat16)), expected, rtol=0.05)
