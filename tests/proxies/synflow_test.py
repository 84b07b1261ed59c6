import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies, score
from jaxnas.spaces import nasbench201

ARCH = np.array([3, 2, 1, 4, 0, 3])


def test_synflow_by_hand(perceptron):
    # Magnitudes: hidden (1 + 3 + 1, 2 + 4) = (5, 6), R = 5 + 30. What passes the second layer is R,
    # what passes the filters of the first is R without the 1 of the shift: 34.
    batch = Batch(jnp.full((3, 2), 7.0), jnp.zeros(3, int))
    found = proxies.BY_NAME["synflow"](*perceptron, batch)
    np.testing.assert_allclose(found, np.log(35 + 34), rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1e9])
def test_synflow_of_a_space_is_that_of_its_bare_network(draw_batch, factor):
    # By autodiff in float64; of factor 1e9 it is far beyond single precision.
    batch = draw_batch(0)
    batch = Batch(batch.inputs.astype(jnp.float32), batch.labels)
    space, bare = (nasbench201(channels=2, cells=1, norm=each) for each in ("batch", "none"))
    params = space.init(jax.random.key(0), batch.inputs)
    params = jax.tree.map(lambda tensor: factor * tensor if tensor.ndim > 1 else tensor, params)
    network, read = space.bind(ARCH, params)
    score = proxies.BY_NAME["synflow"](network, read, batch)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.abs(leaf.astype(jnp.float64)), read)
        image = jnp.ones((1, *batch.inputs.shape[1:]))
        kernels = _without_norms(wide)
        plain = bare.bind(ARCH, kernels)[0]
        slopes = jax.grad(lambda leaf: plain(leaf, image).logits.sum())(kernels)
        pairs = zip(jax.tree.leaves(kernels), jax.tree.leaves(slopes), strict=True)
        expected = np.log(sum((w * g).sum() for w, g in pairs if w.ndim > 1))
    assert (expected > np.log(np.finfo(np.float32).max)) == (factor > 1)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def _without_norms(tree):
    if not isinstance(tree, dict):
        return tree
    if "kernel" in tree and "scale" in tree:
        return {"kernel": tree["kernel"]}
    return {name: _without_norms(each) for name, each in tree.items() if name != "scale"}


def test_a_deep_network_is_beyond_float32_and_finite():
    # Of 30 matrices of 256 of He's rule the magnitudes multiply to 1e40.
    rng = np.random.default_rng(0)
    shapes = [(8, 256), *[(256, 256)] * 29, (256, 10)]
    drawn = [rng.normal(0, (2 / shape[0]) ** 0.5, shape) for shape in shapes]
    params = [jnp.asarray(each, jnp.float32) for each in drawn]

    def network(params, inputs):
        for tensor in params[:-1]:
            inputs = jax.nn.relu(inputs @ tensor)
        return inputs @ params[-1]

    flow = np.ones(8)
    for tensor in params:
        flow = flow @ np.abs(np.asarray(tensor, np.float64))
    # Each layer passes all of it on.
    expected = np.log(flow.sum()) + np.log(len(params))
    assert expected > np.log(np.finfo(np.float32).max)
    batch = Batch(jnp.ones((2, 8), jnp.float32), jnp.zeros(2, int))
    (found,) = score(network, params, batch, ["synflow"]).values()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_normalization_is_left_out_of_any_network():
    def network(params, inputs, normalized=True):
        hidden = jax.nn.relu(inputs @ params["first"])
        centered = hidden - hidden.mean(1, keepdims=True)
        whitened = centered / jnp.sqrt(jnp.square(centered).mean(1, keepdims=True) + 1e-6)
        return (whitened if normalized else hidden) @ params["second"]

    batch = Batch(jnp.ones((2, 3)), jnp.zeros(2, int))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        params = {"first": rng.normal(size=(3, 7)), "second": rng.normal(size=(7, 4))}
        params = jax.tree.map(lambda tensor: jnp.asarray(tensor, float), params)
        magnitudes = jax.tree.map(jnp.abs, params)
        slopes = jax.grad(lambda leaf: network(leaf, jnp.ones((1, 3)), False).sum())(magnitudes)
        expected = np.log(sum(np.abs(params[name] * slopes[name]).sum() for name in params))
        found = proxies.BY_NAME["synflow"](network, params, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_float32_images_where_x64_is_the_default():
    with jax.enable_x64(True):
        batch = Batch(jnp.ones((2, 8, 8, 3), jnp.float32), jnp.zeros(2, int))
        space = nasbench201(channels=2, cells=1)
        params = space.init(jax.random.key(0), batch.inputs)
        params = jax.tree.map(lambda tensor: tensor.astype(jnp.float32), params)
        assert np.isfinite(proxies.BY_NAME["synflow"](*space.bind(ARCH, params), batch))
