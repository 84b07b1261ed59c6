"""Every operation's own backward pass against autodiff, in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas.gradients import GRADIENT
from jaxnas.spaces import convolution, operations
from jaxnas.types import Reading

SHAPE = (3, 4, 6, 2)
WIDE = 3
RUNNING = {"mean": np.array([0.3, -0.2, 0.1]), "var": np.array([0.5, 2.0, 1.5])}


class Case(NamedTuple):
    """An operation with the shapes of what it is given."""

    operation: operations.Operation
    weights: dict[str, tuple[int, ...]]
    inputs: tuple[int, ...] = SHAPE
    statistics: dict[str, np.ndarray] | None = None


def _convolution(mode, size=3, stride=1, relu=True):
    weights = {"kernel": (size, size, SHAPE[-1], WIDE)} | _affine(mode)
    return Case(operations.convolution_norm(mode, stride, relu), weights, SHAPE, _running(mode))


def _pooled(mode):
    inputs = (*SHAPE[:3], WIDE)
    return Case(operations.norm_relu_pool(mode), _affine(mode), inputs, _running(mode))


def _affine(mode):
    return {} if mode == "none" else {"scale": (WIDE,), "bias": (WIDE,)}


def _running(mode):
    return RUNNING if mode == "eval" else None


CASES = {
    "3x3 batch": _convolution("batch"),
    "1x1 batch": _convolution("batch", size=1),
    "3x3 batch, stride 2": _convolution("batch", stride=2),
    "3x3 batch, linear": _convolution("batch", relu=False),
    "3x3 instance": _convolution("instance"),
    "1x1 instance, stride 2": _convolution("instance", size=1, stride=2),
    "3x3 eval": _convolution("eval"),
    "3x3 none": _convolution("none"),
    "1x1 none, linear": _convolution("none", size=1, relu=False),
    "pooled batch": _pooled("batch"),
    "pooled instance": _pooled("instance"),
    "pooled eval": _pooled("eval"),
    "pooled none": _pooled("none"),
    "average_pool": Case(operations.average_pool(), {}),
    "shortcut": Case(operations.average_pool_convolution(), {"kernel": (1, 1, 2, WIDE)}),
    "linear": Case(operations.linear(), {"kernel": (5, WIDE), "bias": (WIDE,)}, (3, 5)),
    "skip_connect": Case(operations.skip_connect(), {}),
    "none": Case(operations.zero(), {}),
}
WEIGHTED = [name for name, case in CASES.items() if case.weights]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def _quick_to_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def _normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _drawn(case):
    weights = {name: _normal(len(name), shape) for name, shape in case.weights.items()}
    return weights, _normal(0, case.inputs), jax.tree.map(jnp.asarray, case.statistics)


@functools.cache
def _run(name):
    """Return weights, inputs, statistics, the residuals of a forward pass and a cotangent."""
    case = CASES[name]
    weights, inputs, statistics = _drawn(case)
    outputs, normalized = case.operation.forward(weights, inputs, statistics)
    residuals = operations.Residuals(weights, inputs, normalized)
    return weights, inputs, statistics, residuals, _normal(1, outputs.shape)


@functools.partial(jax.jit, static_argnames="operation")
def _vjp(operation, weights, inputs, statistics, cotangent):
    def outputs(weights, inputs):
        return operation.forward(weights, inputs, statistics)[0]

    return jax.vjp(outputs, weights, inputs)[1](cotangent)


def keep(tensor, gradients):
    return gradients


def squares(tensor, gradients):
    return (gradients**2).sum(tuple(range(1, gradients.ndim)))


def product(tensor, gradient):
    return tensor * gradient


KEEP, SQUARES = Reading(keep), Reading(squares)
PRODUCT = Reading(product, per_example=False)


def _backward(name, *readings):
    """Return the input gradient and, by tensor, what each reading keeps."""
    _, _, _, residuals, cotangent = _run(name)
    return CASES[name].operation.backward(residuals, cotangent, readings)


def _assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), found, expected
    )


@pytest.mark.parametrize("name", CASES)
def test_backward_is_the_vjp_of_forward(name):
    weights, inputs, statistics, _, cotangent = _run(name)
    expected = _vjp(CASES[name].operation, weights, inputs, statistics, cotangent)
    found_inputs, kept = _backward(name, GRADIENT)
    assert kept.keys() == weights.keys()
    _assert_close(({tensor: own for tensor, (own,) in kept.items()}, found_inputs), expected)


@pytest.mark.parametrize("name", [name for name in WEIGHTED if "batch" in name])
def test_gradients_of_examples_sum_to_the_gradient(name):
    same_gradient, kept = _backward(name, KEEP, GRADIENT)
    _assert_close(same_gradient, _backward(name, GRADIENT)[0])
    for per_example, summed in kept.values():
        _assert_close(per_example.sum(0), summed)


@pytest.mark.parametrize("name", [name for name in WEIGHTED if "batch" not in name])
def test_readings_are_those_of_a_loop_over_examples(name):
    weights, inputs, statistics, _, cotangent = _run(name)
    kept = _backward(name, KEEP)[1]
    for i in range(len(inputs)):
        one = slice(i, i + 1)
        operation = CASES[name].operation
        alone = _vjp(operation, weights, inputs[one], statistics, cotangent[one])[0]
        _assert_close({tensor: own[i] for tensor, (own,) in kept.items()}, alone)


@pytest.mark.parametrize("name", ["3x3 instance", "pooled instance", "shortcut", "linear"])
def test_a_reading_sees_the_tensor_and_the_gradients_of_each_example(name):
    weights = _run(name)[0]
    for tensor, (own, squared, product) in _backward(name, KEEP, SQUARES, PRODUCT)[1].items():
        _assert_close(squared, squares(None, own))
        _assert_close(product, weights[tensor] * own.sum(0))


def test_average_pooling_by_hand():
    # Each pixel is the mean of its neighbours in the image: corners of 4, of 9 in the middle.
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    pooled = operations.average_pool().forward({}, image, None)[0]
    rows = [[2.0, 2.5, 3.0], [3.5, 4.0, 4.5], [5.0, 5.5, 6.0]]
    np.testing.assert_allclose(pooled[0, :, :, 0], rows, rtol=1e-14)


def test_shortcut_by_hand():
    # 2x2 blocks of 0..7 in two rows: means of (0, 1, 4, 5) and (2, 3, 6, 7), times a weight of 2.
    image = jnp.arange(8.0).reshape(1, 2, 4, 1)
    weights = {"kernel": jnp.full((1, 1, 1, 1), 2.0)}
    pooled = operations.average_pool_convolution().forward(weights, image, None)[0]
    np.testing.assert_allclose(pooled.ravel(), [5, 9], rtol=1e-14)


def test_convolution_by_hand():
    # Ones in a 3x3 kernel sum the neighbourhood; ReLU first drops the -9; stride 2 keeps corners.
    image = jnp.arange(9.0).reshape(1, 3, 3, 1).at[0, 0, 0, 0].set(-9)
    weights = {"kernel": jnp.ones((3, 3, 1, 1))}
    forward = operations.convolution_norm("none", stride=2).forward
    np.testing.assert_allclose(forward(weights, image, None)[0].ravel(), [8, 12, 20, 24])


@pytest.mark.parametrize(
    ("size", "stride", "image"), [(1, 1, (4, 6)), (3, 1, (4, 6)), (5, 1, (4, 3)), (3, 2, (5, 4))]
)
def test_convolution_gradients_of_every_platform(monkeypatch, size, stride, image):
    inputs, kernel = _normal(0, (2, *image, 2)), _normal(1, (size, size, 2, WIDE))
    rows, columns = (-(-side // stride) for side in image)
    cotangent = _normal(2, (2, rows, columns, WIDE))

    @jax.jit
    def by_autodiff(inputs, cotangent):
        vjp = jax.vjp(lambda x, w: convolution.convolve(x, w, stride), inputs, kernel)[1]
        return vjp(cotangent)

    loop = [by_autodiff(inputs[i : i + 1], cotangent[i : i + 1]) for i in range(2)]
    for platform in ("cpu", "default"):

        def only(*operands, platform=platform, **branches):
            return branches[platform](*operands)

        monkeypatch.setattr(lax, "platform_dependent", only)

        @jax.jit
        def spelled_out(inputs, cotangent):
            arguments = (inputs, kernel, cotangent, stride)
            return (
                (convolution.input_gradient(*arguments), convolution.kernel_gradient(*arguments)),
                convolution.per_example_kernel_gradients(*arguments),
            )

        gradients, per_example = spelled_out(inputs, cotangent)
        _assert_close(gradients, by_autodiff(inputs, cotangent))
        _assert_close(per_example, jnp.stack([of_kernel for _, of_kernel in loop]))


@pytest.mark.parametrize("mode", ["batch", "none"])
def test_an_operation_is_made_once(mode):
    # Or every network would compile its own kernels.
    assert operations.convolution_norm(mode) is operations.convolution_norm(mode)
    assert operations.norm_relu_pool(mode) is operations.norm_relu_pool(mode)
