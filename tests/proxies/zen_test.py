import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies

ARCH = np.array([3, 2, 1, 4, 0, 3])


@pytest.mark.parametrize("name", ["synflow", "zen"])
@pytest.mark.parametrize(("factor", "expected"), [(0.0, -np.inf), (np.nan, np.nan)])
def test_nothing_and_nan(perceptron, name, factor, expected):
    apply_fn, params = perceptron
    batch = Batch(jnp.ones((3, 2)), jnp.zeros(3, int))
    found = proxies.BY_NAME[name](
        lambda params, x: jax.nn.relu(factor * apply_fn(params, x)), params, batch
    )
    np.testing.assert_equal(np.asarray(found), np.float32(expected))


def test_zen_of_a_plain_network(perceptron):
    key = jax.random.key(3)
    batch = Batch(jnp.ones((5, 2)), jnp.zeros(5, int))
    found = proxies.BY_NAME["zen"](*perceptron, batch, key=key)
    # The same draws, by the name of the tensor.
    weights, images, change = jax.random.split(key, 3)
    name = zlib.crc32(b"['first']")
    first = jax.random.normal(jax.random.fold_in(weights, name), (2, 2))
    x, e = (jax.random.normal(each, (5, 2)) for each in (images, change))
    before, after = (np.maximum(x @ first - jnp.array([[1.0, 0]]), 0) for x in (x, x + 0.01 * e))
    expected = np.log(np.abs(before - after).sum(1).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_zen_takes_variances_back(small_space, draw_batch):
    # Normalization forgets the scale of the images, and its variance remembers it.
    with jax.enable_x64(True):
        batch = draw_batch(0)
        network, params = small_space.bind(ARCH, small_space.init(jax.random.key(0), batch.inputs))
        zen = proxies.BY_NAME["zen"]
        one = zen(network, params, batch, key=jax.random.key(1))
        # The weights and the images are its own.
        redrawn = jax.tree.map(lambda tensor: 3 * tensor if tensor.ndim > 1 else tensor, params)
        other = zen(network, redrawn, Batch(batch.inputs + 1, batch.labels), key=jax.random.key(1))
        assert one == other
        assert one != zen(network, params, batch, key=jax.random.key(2))


def test_zen_needs_a_relu(perceptron):
    batch = Batch(jnp.ones((3, 2)), jnp.zeros(3, int))
    with pytest.raises(ValueError, match="got a network without"):
        proxies.BY_NAME["zen"](lambda params, x: x @ params["first"], perceptron[1], batch)
