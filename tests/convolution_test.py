"""Depthwise convolutions against XLA's grouped ones and autodiff, in float64.

The others are compared where they are used, in `operations_test` and the networks of the spaces.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas import convolution

SETTINGS = [(3, 1, 1), (3, 2, 1), (5, 1, 1), (3, 1, 2), (5, 2, 2)]
"""Size, stride, dilation."""


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _drawn(size):
    rng = np.random.default_rng(size)
    inputs, kernel = rng.normal(size=(2, 6, 7, 3)), rng.normal(size=(size, size, 1, 3))
    return jnp.asarray(inputs), jnp.asarray(kernel)


def _grouped(inputs, kernel, stride, dilation):
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )


@pytest.mark.parametrize(("size", "stride", "dilation"), SETTINGS)
def test_depthwise_and_its_gradients(size, stride, dilation):
    inputs, kernel = _drawn(size)

    @jax.jit
    def both(inputs, kernel):
        expected, pullback = jax.vjp(lambda x, w: _grouped(x, w, stride, dilation), inputs, kernel)
        cotangent = jnp.cos(jnp.arange(expected.size)).reshape(expected.shape)
        factors = inputs, kernel, cotangent, stride, dilation
        found = (
            convolution.depthwise(inputs, kernel, stride, dilation),
            convolution.depthwise_input_gradient(*factors),
            convolution.depthwise_kernel_gradients(*factors),
        )
        alone = [
            jax.vjp(lambda w, x=x: _grouped(x[None], w, stride, dilation), kernel)[1](g[None])[0]
            for x, g in zip(inputs, cotangent, strict=True)
        ]
        return (expected, pullback(cotangent)[0], jnp.stack(alone)), found

    expected, found = both(inputs, kernel)
    for result, other in zip(found, expected, strict=True):
        assert result.shape == other.shape
        np.testing.assert_allclose(result, other, atol=1e-12)


def test_depthwise_by_hand():
    """One channel, a row filter of dilation 2: each pixel minus the one two to its right."""
    inputs = jnp.asarray([[1.0, 2, 4, 8, 16]])[None, :, :, None]
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1).at[1, 2].set(-1)
    outputs = convolution.depthwise(inputs, kernel, 1, 2)[0, :, :, 0]
    np.testing.assert_array_equal(outputs, [[1 - 4, 2 - 8, 4 - 16, 8, 16]])
    halved = convolution.depthwise(inputs, kernel, 2, 2)[0, :, :, 0]
    np.testing.assert_array_equal(halved, [[-3, -12, 16]])


def test_spread_is_the_adjoint_of_taking_every_second_pixel():
    images = jnp.arange(2 * 5 * 6 * 1.0).reshape(2, 5, 6, 1)
    taken = images[:, ::2, ::2]
    expected = jax.vjp(lambda x: x[:, ::2, ::2], images)[1](taken)[0]
    np.testing.assert_array_equal(convolution.spread(taken, images.shape, 2), expected)


LAYOUTS = {"NHWC": ("NHWC", "HWIO", "NHWC"), "NCHW": ("NCHW", "OIHW", "NCHW")}


def _equation(function, *args):
    (equation,) = jax.make_jaxpr(function)(*args).eqns
    return equation.params


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((5, 7), (1, 1), "SAME"),  # larger than the image
        ((2, 4), (1, 1), "SAME"),  # more on one side than on the other
        ((3, 3), (2, 1), "SAME"),
        ((3, 2), (1, 1), "VALID"),
        ((1, 1), (2, 2), "VALID"),
        ((1, 1), (1, 1), [(1, 2), (0, 1)]),  # padded by more than the kernel reaches
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_convolution_of_a_program_has_the_same_values_and_gradients(
    layout, size, stride, padding, count
):
    rng = np.random.default_rng(0)
    inputs, kernel = rng.normal(size=(count, 4, 5, 3)), rng.normal(size=(*size, 3, 20))
    if layout == "NCHW":
        inputs, kernel = inputs.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)

    def plain(inputs, kernel):
        return lax.conv_general_dilated(
            inputs, kernel, stride, padding, dimension_numbers=LAYOUTS[layout]
        )

    factors = jnp.asarray(inputs), jnp.asarray(kernel)
    faster = convolution.of_equation(_equation(plain, *factors), *factors)

    @jax.jit
    def both(inputs, kernel):
        results = []
        for function in (plain, faster):
            outputs, pullback = jax.vjp(function, inputs, kernel)
            results.append((outputs, *pullback(jnp.cos(outputs))))
        return results

    for expected, found in zip(*both(*factors), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"feature_group_count": 3}, {"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 1)}]
)
def test_other_convolutions_of_a_program_are_left_as_they_are(options):
    inputs, kernel = (
        jnp.ones((2, 4, 5, 3)),
        jnp.ones((3, 3, 3 // options.get("feature_group_count", 1), 3)),
    )

    def other(inputs, kernel):
        return lax.conv_general_dilated(
            inputs, kernel, (1, 1), [(0, 0)] * 2, dimension_numbers=LAYOUTS["NHWC"], **options
        )

    params = _equation(other, inputs, kernel)
    assert convolution.of_equation(params, inputs, kernel) is None
