import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies
from jaxnas.spaces import nasbench201

ARCH = np.array([3, 2, 1, 4, 0, 3])


def _perceptron(params, inputs):
    return jax.nn.relu(inputs @ params["first"] + params["shift"][None]) @ params["second"]


PARAMS = {
    "first": jnp.array([[1.0, -2.0], [3.0, 4.0]]),
    "second": jnp.array([[-1.0], [5.0]]),
    "shift": jnp.array([-1.0, 0.0]),
}


def test_synflow_by_hand():
    # Magnitudes: hidden (1 + 3 + 1, 2 + 4) = (5, 6), R = 5 + 30. What passes the second layer is R,
    # what passes the filters of the first is R without the 1 of the shift: 34.
    batch = Batch(jnp.full((3, 2), 7.0), jnp.zeros(3, int))
    own = proxies.BY_NAME["synflow"](_perceptron, PARAMS, batch)
    np.testing.assert_allclose(own, np.log(35 + 34), rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1e9])
def test_synflow_of_a_space_is_that_of_its_bare_network(draw_batch, factor):
    # By autodiff in float64; of factor 1e9 it is far beyond single precision.
    batch = draw_batch(0)
    batch = Batch(batch.inputs.astype(jnp.float32), batch.labels)
    space, bare = (nasbench201(channels=2, cells=1, norm=own) for own in ("batch", "none"))
    params = space.init(jax.random.key(0), batch.inputs)
    params = jax.tree.map(lambda own: factor * own if own.ndim > 1 else own, params)
    network, own = space.bind(ARCH, params)
    score = proxies.BY_NAME["synflow"](network, own, batch)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda own: jnp.abs(own.astype(jnp.float64)), own)
        image = jnp.ones((1, *batch.inputs.shape[1:]))
        kernels = _without_norms(wide)
        plain = bare.bind(ARCH, kernels)[0]
        slopes = jax.grad(lambda own: plain(own, image).logits.sum())(kernels)
        pairs = zip(jax.tree.leaves(kernels), jax.tree.leaves(slopes), strict=True)
        expected = np.log(sum((w * g).sum() for w, g in pairs if w.ndim > 1))
    assert (expected > np.log(np.finfo(np.float32).max)) == (factor > 1)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def _without_norms(tree):
    if not isinstance(tree, dict):
        return tree
    if "kernel" in tree and "scale" in tree:
        return {"kernel": tree["kernel"]}
    return {name: _without_norms(own) for name, own in tree.items() if name != "scale"}


@pytest.mark.parametrize(("factor", "expected"), [(0.0, -np.inf), (np.nan, np.nan)])
@pytest.mark.parametrize("name", ["synflow", "zen"])
def test_nothing_and_nan(name, factor, expected):
    batch = Batch(jnp.ones((3, 2)), jnp.zeros(3, int))
    own = proxies.BY_NAME[name](
        lambda params, x: jax.nn.relu(factor * _perceptron(params, x)), PARAMS, batch
    )
    np.testing.assert_equal(np.asarray(own), np.float32(expected))


def test_zen_of_a_plain_network():
    key = jax.random.key(3)
    batch = Batch(jnp.ones((5, 2)), jnp.zeros(5, int))
    own = proxies.BY_NAME["zen"](_perceptron, PARAMS, batch, key=key)
    # The same draws, by the name of the tensor.
    weights, images, change = jax.random.split(key, 3)
    name = zlib.crc32(b"['first']")
    first = jax.random.normal(jax.random.fold_in(weights, name), (2, 2))
    x, e = (jax.random.normal(own, (5, 2)) for own in (images, change))
    before, after = (np.maximum(x @ first - jnp.array([[1.0, 0]]), 0) for x in (x, x + 0.01 * e))
    expected = np.log(np.abs(before - after).sum(1).mean())
    np.testing.assert_allclose(own, expected, rtol=1e-3)


def test_zen_takes_variances_back(small_space, draw_batch):
    # Normalisation forgets the scale of the images, and its variance remembers it.
    with jax.enable_x64(True):
        batch = draw_batch(0)
        network, params = small_space.bind(ARCH, small_space.init(jax.random.key(0), batch.inputs))
        zen = proxies.BY_NAME["zen"]
        one = zen(network, params, batch, key=jax.random.key(1))
        # The weights and the images are its own.
        redrawn = jax.tree.map(lambda own: 3 * own if own.ndim > 1 else own, params)
        other = zen(network, redrawn, Batch(batch.inputs + 1, batch.labels), key=jax.random.key(1))
        assert one == other
        assert one != zen(network, params, batch, key=jax.random.key(2))


def test_zen_needs_a_relu():
    batch = Batch(jnp.ones((3, 2)), jnp.zeros(3, int))
    with pytest.raises(ValueError, match="got a network without"):
        proxies.BY_NAME["zen"](lambda params, x: x @ params["first"], PARAMS, batch)
