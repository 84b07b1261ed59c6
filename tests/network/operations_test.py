"""Every operation and its statistics against autodiff of a plain form, in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas import convolution
from jaxnas.gradients import GRADIENT
from jaxnas.network import Network, layers
from jaxnas.network import operations as ops
from jaxnas.network.operations import Context, Operation, Weights
from jaxnas.types import Statistic

SHAPE = (3, 4, 6, 2)
WIDE = 3
RUNNING = {"mean": np.array([0.3, -0.2, 0.1]), "var": np.array([0.5, 2.0, 1.5])}


class Case(NamedTuple):
    """An operation with the shapes of what it is given, and the mode of its normalization."""

    operation: Operation
    mode: str = "none"
    inputs: tuple[int, ...] = SHAPE


CONV = functools.partial(ops.relu_conv_norm, features=WIDE)
POOLED = (*SHAPE[:3], WIDE)


@ops.operation
def scaled(weights, x):
    """A layer that no rule is written for: its statistics come from its function."""
    scale = weights.tensor("scale", (x.shape[-1],), value=1)
    readable = layers.Readable(_scale_and_bend)
    return weights.layer(readable, {"scale": scale}, x)


def _scale_and_bend(tensors, x):
    return jnp.tanh(x * tensors["scale"][None, None, None])


@ops.operation
def depthwise(weights, x):
    return ops.depthwise(weights, x, 3, stride=2, dilation=1)


CASES = {
    "3x3 batch": Case(CONV(), "batch"),
    "1x1 batch": Case(CONV(size=1), "batch"),
    "3x3 batch, stride 2": Case(CONV(stride=2), "batch"),
    "3x3 batch, linear": Case(ops.conv_norm(features=WIDE), "batch"),
    "3x3 batch, ReLU last": Case(ops.conv_norm_relu(features=WIDE), "batch"),
    "3x3 instance": Case(CONV(), "instance"),
    "1x1 instance, stride 2": Case(CONV(size=1, stride=2), "instance"),
    "3x3 eval": Case(CONV(), "eval"),
    "3x3 none": Case(CONV()),
    "1x1 none, linear": Case(ops.conv_norm(features=WIDE, size=1)),
    "pooled batch": Case(ops.norm_relu_pool(), "batch", POOLED),
    "pooled instance": Case(ops.norm_relu_pool(), "instance", POOLED),
    "pooled eval": Case(ops.norm_relu_pool(), "eval", POOLED),
    "pooled none": Case(ops.norm_relu_pool(), "none", POOLED),
    "depthwise": Case(depthwise()),
    "average_pool": Case(ops.average_pool()),
    "shortcut": Case(ops.average_pool_conv(features=WIDE)),
    "linear": Case(ops.dense(features=WIDE), inputs=(3, 5)),
    "linear of tokens": Case(ops.dense(features=WIDE), inputs=(3, 4, 5)),
    "readable": Case(scaled()),
    "skip_connect": Case(ops.IDENTITY),
    "none": Case(ops.NONE),
}


def _tensors(case):
    """Return the shapes of the tensors of a case, by name."""
    shape = jax.ShapeDtypeStruct(case.inputs, jnp.float32)
    declared = ops.describe(case.operation, (shape,), case.mode).tensors
    return {name: tensor.shape for name, tensor in declared.items()}


WEIGHTED = [name for name, case in CASES.items() if _tensors(case)]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _drawn(case):
    tensors = {name: _normal(len(name), shape) for name, shape in _tensors(case).items()}
    running = jax.tree.map(jnp.asarray, RUNNING) if case.mode == "eval" else None
    return tensors, _normal(0, case.inputs), running


class Plain(Weights):
    """Weights whose layers JAX differentiates, none of them with a backward pass of its own."""

    def layer(self, rule, tensors, x, **names):
        if isinstance(rule, layers.Convolution):
            return convolution.convolve(x, tensors["kernel"], rule.stride)
        return rule.forward(tensors, x)[0]


@functools.cache
def _run(name):
    """Return tensors, inputs, running statistics and a cotangent."""
    case = CASES[name]
    tensors, inputs, running = _drawn(case)
    outputs = case.operation(Weights(Context(case.mode), tensors, running=running), inputs)
    return tensors, inputs, running, _normal(1, outputs.shape)


@functools.partial(jax.jit, static_argnames="case")
def _vjp(case, tensors, inputs, running, cotangent):
    def outputs(tensors, inputs):
        return case.operation(Plain(Context(case.mode), tensors, running=running), inputs)

    return jax.vjp(outputs, tensors, inputs)[1](cotangent)


def keep(tensor, gradients):
    return gradients


def squares(tensor, gradients):
    return (gradients**2).sum(tuple(range(1, gradients.ndim)))


def product(tensor, gradient):
    return tensor * gradient


KEEP, SQUARES = Statistic(keep), Statistic(squares)
PRODUCT = Statistic(product, per_example=False)


def _backward(name, *statistics):
    """Return the gradient of the inputs and, by tensor, what each statistic keeps."""
    tensors, inputs, running, cotangent = _run(name)
    return _kept(CASES[name], statistics, tensors, inputs, running, cotangent)


@functools.partial(jax.jit, static_argnames=("case", "statistics"))
def _kept(case, statistics, tensors, inputs, running, cotangent):
    def outputs(slots, inputs):
        weights = Weights(Context(case.mode, statistics), tensors, slots, running)
        return case.operation(weights, inputs)

    slots = {
        name: layers.slots(statistics, tensor, len(inputs)) for name, tensor in tensors.items()
    }
    kept, of_inputs = jax.vjp(outputs, slots, inputs)[1](cotangent)
    return of_inputs, kept


def _assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), found, expected
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_autodiff(name):
    expected = _vjp(CASES[name], *_run(name))
    found_inputs, kept = _backward(name, GRADIENT)
    _assert_close(({tensor: each for tensor, (each,) in kept.items()}, found_inputs), expected)


@pytest.mark.parametrize("name", WEIGHTED)
def test_ordinary_gradients_of_the_tensors(name):
    """Training differentiates the same layers by their tensors."""
    tensors, inputs, running, cotangent = _run(name)
    case = CASES[name]

    @jax.jit
    def total(tensors):
        weights = Weights(Context(case.mode), tensors, running=running)
        return (case.operation(weights, inputs) * cotangent).sum()

    _assert_close(jax.grad(total)(tensors), _vjp(case, *_run(name))[0])


@pytest.mark.parametrize("name", [name for name in WEIGHTED if "batch" in name])
def test_gradients_of_examples_sum_to_the_gradient(name):
    same_gradient, kept = _backward(name, KEEP, GRADIENT)
    _assert_close(same_gradient, _backward(name, GRADIENT)[0])
    for per_example, summed in kept.values():
        _assert_close(per_example.sum(0), summed)


@pytest.mark.parametrize("name", [name for name in WEIGHTED if "batch" not in name])
def test_statistics_are_those_of_a_loop_over_examples(name):
    tensors, inputs, running, cotangent = _run(name)
    kept = _backward(name, KEEP)[1]
    for i in range(len(inputs)):
        one = slice(i, i + 1)
        alone = _vjp(CASES[name], tensors, inputs[one], running, cotangent[one])[0]
        _assert_close({tensor: each[i] for tensor, (each,) in kept.items()}, alone)


@pytest.mark.parametrize("name", ["3x3 instance", "pooled instance", "shortcut", "linear"])
def test_a_statistic_sees_the_tensor_and_the_gradients_of_each_example(name):
    tensors = _run(name)[0]
    for tensor, (found, squared, product) in _backward(name, KEEP, SQUARES, PRODUCT)[1].items():
        _assert_close(squared, squares(None, found))
        _assert_close(product, tensors[tensor] * found.sum(0))


def _apply(operation, image, **tensors):
    return operation(Weights(Context("none"), tensors), image)


def test_average_pooling_by_hand():
    # Each pixel is the mean of its neighbors in the image: corners of 4, of 9 in the middle.
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    rows = [[2.0, 2.5, 3.0], [3.5, 4.0, 4.5], [5.0, 5.5, 6.0]]
    pooled = _apply(ops.average_pool(), image)
    np.testing.assert_allclose(pooled[0, :, :, 0], rows, rtol=1e-14)


def test_shortcut_by_hand():
    # 2x2 blocks of 0..7 in two rows: means of (0, 1, 4, 5) and (2, 3, 6, 7), times a weight of 2.
    image = jnp.arange(8.0).reshape(1, 2, 4, 1)
    kernel = jnp.full((1, 1, 1, 1), 2.0)
    pooled = _apply(ops.average_pool_conv(features=1), image, kernel=kernel)
    np.testing.assert_allclose(pooled.ravel(), [5, 9], rtol=1e-14)


def test_convolution_by_hand():
    # Ones in a 3x3 kernel sum the neighborhood; ReLU first drops the -9; stride 2 keeps corners.
    image = jnp.arange(9.0).reshape(1, 3, 3, 1).at[0, 0, 0, 0].set(-9)
    halved = ops.relu_conv_norm(features=1, stride=2)
    found = _apply(halved, image, kernel=jnp.ones((3, 3, 1, 1)))
    np.testing.assert_allclose(found.ravel(), [8, 12, 20, 24])


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


def test_equal_operations_are_one():
    # Or every network would compile programs of its own.
    assert ops.conv_norm(features=2) == ops.conv_norm(features=2)
    assert hash(ops.conv_norm(features=2)) == hash(ops.conv_norm(features=2))
    assert ops.conv_norm(features=2) != ops.conv_norm(features=3)


@ops.operation
def _dropped(weights, x):
    return weights.dropout(x + weights.tensor("bias", x.shape[-1:])[None], 0.5)


class _Dropping(Network):
    norm: str = "none"

    def forward(self, net, x, arch):
        x = net.repeat("part", 3, lambda net, x: net(_dropped(), x), x)
        return net.choose("last", {"": _dropped(), "nothing": ops.IDENTITY}, arch[0], x)

    def num_decisions(self):
        return 1


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit])
def test_each_operation_drops_others(wrap):
    network, ones = _Dropping(), jnp.ones((4, 1000))
    params = network.init(jax.random.key(0), ones, np.array([0]))["params"]

    def logits(arch, key):
        return network.bound(arch)(params, ones, key=key).logits

    for arch, count in ((0, 4), (1, 3)):
        kept = wrap(logits)(np.array([arch]), jax.random.key(1))
        assert set(np.unique(kept)) == {0, 2**count}
        assert abs((kept > 0).mean() - 0.5**count) < 0.02
    np.testing.assert_array_equal(wrap(logits)(np.array([0]), None), ones)
