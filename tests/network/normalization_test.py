import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.network import normalization

AXES = {"batch": (0, 1, 2), "instance": (1, 2)}
IMAGES = np.random.default_rng(0).normal(1, 2, (4, 3, 5, 2))
COTANGENT = np.random.default_rng(1).normal(size=IMAGES.shape)
RUNNING = {"mean": np.array([0.5, -1.0]), "var": np.array([0.25, 4.0])}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _statistics():
    return jax.tree.map(jnp.asarray, RUNNING)


def _backward(normalized, cotangent, mode):
    scale = jnp.ones(cotangent.shape[-1])
    return normalization.affine_backward(normalized, scale, cotangent, mode).inputs


@pytest.mark.parametrize("mode", AXES)
def test_statistics_of_the_images(mode):
    mean, var = IMAGES.mean(AXES[mode], keepdims=True), IMAGES.var(AXES[mode], keepdims=True)
    result = normalization.normalize(jnp.asarray(IMAGES), mode)
    np.testing.assert_allclose(result.values, (IMAGES - mean) / np.sqrt(var + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(result.inverse_std, 1 / np.sqrt(var + 1e-5), rtol=1e-12)
    assert result.inverse_std.shape == mean.shape
    np.testing.assert_allclose(result.statistics["mean"], mean.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(result.statistics["var"], var.mean((0, 1, 2)), rtol=1e-12)


def test_batch_by_hand():
    # Two pixels of one channel, -1 and 3: mean 1, biased variance 4, so -1 and 1 but for epsilon.
    pixels = jnp.array([-1.0, 3.0]).reshape(1, 1, 2, 1)
    result = normalization.normalize(pixels, "batch")
    np.testing.assert_allclose(result.values.ravel(), [-1, 1], rtol=1e-5)
    np.testing.assert_array_equal(result.statistics["mean"], [1])
    np.testing.assert_array_equal(result.statistics["var"], [4])


def test_running_statistics():
    result = normalization.normalize(jnp.asarray(IMAGES), "eval", _statistics())
    expected = (IMAGES - RUNNING["mean"]) / np.sqrt(RUNNING["var"] + 1e-5)
    np.testing.assert_allclose(result.values, expected, rtol=1e-12)
    np.testing.assert_array_equal(result.statistics["mean"], RUNNING["mean"])
    np.testing.assert_array_equal(result.statistics["var"], RUNNING["var"])


def test_running_statistics_before_training():
    result = normalization.normalize(jnp.asarray(IMAGES), "eval")
    np.testing.assert_allclose(result.values, IMAGES / np.sqrt(1 + 1e-5), rtol=1e-12)
    np.testing.assert_array_equal(result.statistics["mean"], [0, 0])
    np.testing.assert_array_equal(result.statistics["var"], [1, 1])


def test_instance_mode_is_batch_mode_of_each_image():
    images, cotangent = jnp.asarray(IMAGES), jnp.asarray(COTANGENT)
    together = normalization.normalize(images, "instance")
    gradient = _backward(together, cotangent, "instance")
    for i in range(len(IMAGES)):
        alone = normalization.normalize(images[i : i + 1], "batch")
        np.testing.assert_allclose(together.values[i : i + 1], alone.values, rtol=1e-12)
        np.testing.assert_allclose(together.inverse_std[i : i + 1], alone.inverse_std, rtol=1e-12)
        np.testing.assert_allclose(
            gradient[i : i + 1],
            _backward(alone, cotangent[i : i + 1], "batch"),
            rtol=1e-10,
        )


@pytest.mark.parametrize("mode", ["batch", "instance", "eval"])
def test_backward_is_the_vjp_of_forward(mode):
    statistics = _statistics() if mode == "eval" else None

    def outputs(x, scale, bias):  # scale and bias of each example on its own
        values = normalization.normalize(x, mode, statistics).values
        return values * scale[:, None, None] + bias[:, None, None]

    images, cotangent = jnp.asarray(IMAGES), jnp.asarray(COTANGENT)
    scale, bias = jnp.array([1.5, -0.5]), jnp.array([0.2, 3.0])
    each = [jnp.broadcast_to(one, (len(IMAGES), 2)) for one in (scale, bias)]
    made, vjp = jax.vjp(outputs, images, *each)
    normalized = normalization.normalize(images, mode, statistics)
    np.testing.assert_allclose(normalization.affine(normalized, scale, bias), made, rtol=1e-12)
    found = normalization.affine_backward(normalized, scale, cotangent, mode)
    for result, expected in zip(found, vjp(cotangent), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["batch", "instance"])
def test_a_constant_channel_is_finite(mode):
    constant = jnp.full((2, 3, 3, 1), 7.0)
    result = normalization.normalize(constant, mode)
    np.testing.assert_array_equal(result.values, 0 * constant)
    gradient = _backward(result, constant, mode)
    np.testing.assert_allclose(gradient, 0 * constant, atol=1e-12)


def test_modes():
    assert normalization.MODES == ("batch", "instance", "eval", "none")
    assert [normalization.checked_mode(mode) for mode in normalization.MODES] == [
        *normalization.MODES
    ]


@pytest.mark.parametrize("mode", ["layer", "Batch", "", None])
def test_unknown_mode(mode):
    with pytest.raises(ValueError, match="norm must be one of batch, instance, eval, none: got"):
        normalization.checked_mode(mode)
