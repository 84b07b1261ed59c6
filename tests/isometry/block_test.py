"""Tests of the isolated block: against the trained one, by hand, and what its scale does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.isometry import BY_NAME, BlockShape, FixedBlock, calibrate, convolve
from jaxnas.network import Weights
from jaxnas.network.operations import Context, describe
from jaxnas.spaces.mobilenetv2_space import BlockPlace, Candidate

SHAPE = BlockShape(4, 12, 4, 3)


def test_calibrated_block_is_the_trained_one_where_padding_has_no_say():
    # One pixel: with a kernel of 3, circular padding sees it nine times, zero padding once.
    kernels = BY_NAME["delta"].block(jax.random.key(0), SHAPE, jnp.float32)
    batch = jax.random.normal(jax.random.key(1), (32, 6, 6, 4))
    candidate = Candidate(3, 3)
    layer = BlockPlace(4, 4, 1, 6, (candidate,))
    weights = {
        name: {"kernel": kernel, "scale": jnp.ones(kernel.shape[3]), "bias": 0 * kernel[0, 0, 0]}
        for name, kernel in kernels._asdict().items()
    }
    block = candidate.operation(layer)
    shape = jax.ShapeDtypeStruct(batch.shape, batch.dtype)
    assert set(weights) == set(describe(block, (shape,), "batch").tensors)
    expected = block(Weights(Context("batch"), weights), batch)
    np.testing.assert_allclose(calibrate(kernels, batch)(batch), expected, atol=1e-3)
    np.testing.assert_allclose(calibrate(kernels, batch, 1.0)(batch), batch + expected, atol=1e-3)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_convolution_is_circular(size):
    rng = np.random.default_rng(size)
    inputs, kernel = rng.normal(size=(1, 5, 5, 2)), rng.normal(size=(size, size, 1, 2))
    expected = np.zeros_like(inputs)
    for row in range(size):
        for column in range(size):
            shift = (size // 2 - row, size // 2 - column)
            expected += np.roll(inputs, shift, (1, 2)) * kernel[row, column, 0]
    found = convolve(jnp.asarray(inputs, jnp.float32), jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_larger_scale_makes_no_block_more_faithful():
    """Theorem 1 of arXiv 2307.02263 is read so that a larger scale brings outputs closer to their
    expectation. Relative to it nothing changes, and the absolute deviation grows with its square.
    """
    x, y = jax.random.normal(jax.random.key(0), (2, 1, 8, 8, 8))
    y = 0.65 * x + (1 - 0.65**2) ** 0.5 * y
    scales = np.array([0.25, 0.5, 1.0, 2.0, 4.0])

    @jax.jit
    @jax.vmap
    def distances(key):
        kernel = BY_NAME["qr"].tensor(key, (3, 3, 8, 64), jnp.float32)
        features = convolve(jnp.concatenate([x, y]), kernel)
        normal = jax.nn.standardize(features, (0, 1, 2))
        outputs = jnp.stack([jax.nn.relu(scale * normal) for scale in scales])
        return jnp.square(outputs[:, 0] - outputs[:, 1]).mean(3).sum((1, 2))

    found = np.asarray(distances(jax.random.split(jax.random.key(1), 100)), float)
    relative = found.std(0) / found.mean(0)
    np.testing.assert_allclose(relative, relative[0], rtol=1e-3)
    np.testing.assert_allclose(found.std(0) / found.std(0)[2], scales**2, rtol=1e-3)
    assert 0.005 < relative[0] < 0.1


def test_kernels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="reads 3 channels"):
        convolve(jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 3, 5)))
    block = FixedBlock(BY_NAME["qr"].block(jax.random.key(0), SHAPE, jnp.float32))
    with pytest.raises(ValueError, match="reads 4 channels"):
        block(jnp.zeros((1, 4, 4, 3)))
