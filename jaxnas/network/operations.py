"""Operations: plain functions of weights and activations, and the layers that they are made of.

    @operation
    def relu_conv_norm(weights, x, *, features, size=3):
        return norm(weights, conv(weights, relu(weights, x), features, size))

`relu_conv_norm(features=16)` is an `Operation`: hashable, so that all networks with that operation
at that shape share its compiled programs. `weights` names the tensors where they are used; the same
function thus says which tensors there are, what they are at first, and what the operation costs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.network import layers, normalization
from jaxnas.network.layers import Convolution, Depthwise
from jaxnas.network.normalization import Normalization
from jaxnas.network.tensors import Tensor, count
from jaxnas.types import Array, Shown, Statistics


class Context(NamedTuple):
    """How operations are carried out; static under `jax.jit`.

    Attributes:
        norm: mode of the normalization layers.
        statistics: what to keep of the gradients of each tensor.
        watched: kinds of values that the operations show; see `Weights.show`.
    """

    norm: normalization.Mode = "batch"
    statistics: Statistics = ()
    watched: tuple[str, ...] = ()

    def positions(self, chosen: Statistics) -> tuple[int, ...]:
        """Return where the chosen statistics stand among those of the context."""
        return tuple(self.statistics.index(statistic) for statistic in chosen)


class Weights:
    """The tensors of an operation, by name, and how it is carried out.

    Attributes:
        context: how.
        running: running statistics of its normalization layers, nested by name, or None.
        shown: what was shown so far.
        present: `bool[C]`, which channels the architecture has, of an operation that computes more.
        declared: by name, the tensors of an operation that is only described.
        costs: multiply-accumulates of one example, layer by layer.
    """

    def __init__(
        self,
        context: Context,
        tensors: Mapping[str, Any] | None,
        slots: Mapping[str, Any] | None = None,
        running: Any = None,
        *,
        path: tuple[str, ...] = (),
        dtype: Any = jnp.float32,
        key: Array | None = None,
    ) -> None:
        """Make the weights of an operation; one that is only described has no tensors yet."""
        self.context = context
        self.running = running
        self.shown: list[Shown] = []
        self.present: Any = True
        self.declared: dict[str, Any] = {}
        self.costs: list[int] = []
        self._tensors = tensors
        self._slots = slots
        self._path = path
        self._dtype = dtype
        self._key = key

    def __getitem__(self, name: str) -> "Weights":
        """Return the weights of a part of the operation."""
        part = Weights(
            self.context,
            None if self._tensors is None else self._tensors.get(name, {}),
            None if self._slots is None else self._slots.get(name, {}),
            None if self.running is None else self.running.get(name),
            path=(*self._path, name),
            dtype=self._dtype,
            key=self._key,
        )
        part.shown, part.costs = self.shown, self.costs
        if self._tensors is None:
            part.declared = self.declared.setdefault(name, {})
        return part

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        fan_in: int = 0,
        value: float = 0,
        deviation: float = 0,
    ) -> Array:
        """Return a tensor; see `tensors.Tensor` for what it is at first."""
        if self._tensors is None:
            self.declared[name] = Tensor(shape, fan_in, value, deviation)
            return jnp.zeros(shape, self._dtype)
        return self._tensors[name]

    def layer(self, rule: layers.Rule, tensors: dict[str, Array], x: Any, **names: str) -> Array:
        """Return what a rule makes of `x`, its tensors open to the statistics.

        Args:
            rule: of the layer.
            tensors: by the names that the rule has for them.
            x: what the layer reads.
            **names: those that the weights have for them, where they differ.
        """
        slots = {
            name: () if self._slots is None else self._slots[names.get(name, name)]
            for name in tensors
        }
        statistics = () if self._slots is None else self.context.statistics
        outputs = layers.apply(rule, statistics, tensors, slots, x)
        self.show("map", lambda: outputs)
        return outputs

    def dropout(self, x: Array, rate: float) -> Array:
        """Return `x` without a share of its numbers, in training; once an operation at most."""
        if self._key is None or not rate:
            return x
        kept = jax.random.bernoulli(self._key, 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), 0)

    def show(self, kind: str, value: Callable[[], Any]) -> None:
        """Show a value to those who watch values of its kind; others do not compute it."""
        if kind in self.context.watched:
            self.shown.append(Shown(kind, self._path, value(), self.present))

    def cost(self, macs: int) -> None:
        """Count multiply-accumulates of one example."""
        self.costs.append(macs)


Function = Callable[..., Array]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A function `f(weights, *activations)` with its options filled in: equal if both are."""

    function: Function
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, weights: Weights, *xs: Array) -> Array:
        """Return what the operation makes of activations `[B, ...]`."""
        return self.function(weights, *xs, **dict(self.options))

    @property
    def is_none(self) -> bool:
        """Whether the operation gives zeros, of whichever shape."""
        return self.function is NONE.function


def operation(function: Function) -> Callable[..., Operation]:
    """Return a function of the options that gives an `Operation`: the same for equal ones."""

    @functools.cache
    @functools.wraps(function)
    def with_options(**options: Any) -> Operation:
        return Operation(function, tuple(sorted(options.items())))

    return with_options


class Description(NamedTuple):
    """What an operation gives and needs, found by running it on shapes.

    Attributes:
        output: shape and dtype.
        tensors: nested dictionaries of `Tensor`.
        macs: multiply-accumulates of one example.
    """

    output: jax.ShapeDtypeStruct
    tensors: dict[str, Any]
    macs: int

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        return count(self.tensors)


@functools.lru_cache(2**14)
def describe(
    chosen: Operation, inputs: tuple[jax.ShapeDtypeStruct, ...], norm: normalization.Mode
) -> Description:
    """Return what an operation makes of inputs of these shapes."""
    floating = jnp.issubdtype(inputs[0].dtype, jnp.floating)
    weights = Weights(Context(norm), None, dtype=inputs[0].dtype if floating else jnp.float32)
    output = jax.eval_shape(functools.partial(chosen, weights), *inputs)
    return Description(output, weights.declared, sum(weights.costs))


# Layers: functions of weights and activations, to make operations of.


def relu(weights: Weights, x: Array) -> Array:
    """Return the positive part of `x`."""
    weights.show("preactivation", lambda: x)
    outputs = _positive_part(x)
    weights.show("map", lambda: outputs)
    return outputs


@jax.custom_vjp
def _positive_part(x: Array) -> Array:
    """Return the larger of `x` and 0; it saves its output, as the next layer does too."""
    return jnp.maximum(x, 0)


def _positive_part_forward(x: Array) -> tuple[Array, Array]:
    outputs = jnp.maximum(x, 0)
    return outputs, outputs


def _positive_part_backward(outputs: Array, cotangent: Array) -> tuple[Array]:
    return (cotangent * (outputs > 0).astype(cotangent.dtype),)


_positive_part.defvjp(_positive_part_forward, _positive_part_backward)


def relu6(weights: Weights, x: Array) -> Array:
    """Return `x` clipped to [0, 6]."""
    weights.show("preactivation", lambda: x)
    outputs = jax.nn.relu6(x)
    weights.show("map", lambda: outputs)
    return outputs


def conv(
    weights: Weights, x: Array, features: int, size: int = 3, stride: int = 1, name: str = "kernel"
) -> Array:
    """Return the convolution of images `[B, H, W, C]`, padded by `size // 2` on every side."""
    channels = x.shape[-1]
    kernel = weights.tensor(name, (size, size, channels, features), size**2 * channels)
    outputs = weights.layer(Convolution(stride), {"kernel": kernel}, x, kernel=name)
    weights.cost(math.prod(outputs.shape[1:3]) * kernel.size)
    return outputs


def depthwise(weights: Weights, x: Array, size: int, stride: int = 1, dilation: int = 1) -> Array:
    """Return the convolution of each channel with a filter, `dilation * (size // 2)` padded."""
    kernel = weights.tensor("kernel", (size, size, 1, x.shape[-1]), size**2)
    outputs = weights.layer(Depthwise(stride, dilation), {"kernel": kernel}, x)
    weights.cost(math.prod(outputs.shape[1:3]) * kernel.size)
    return outputs


def norm(weights: Weights, x: Array) -> Array:
    """Return images normalized in the mode of the context, with scale and bias."""
    mode = weights.context.norm
    if mode == "none":
        return x
    width = (x.shape[-1],)
    affine = {
        "scale": weights.tensor("scale", width, value=1),
        "bias": weights.tensor("bias", width),
    }
    statistics = functools.cache(
        lambda: lax.stop_gradient(normalization.normalize(x, mode, weights.running).statistics)
    )
    weights.show("variance", lambda: statistics()["var"])
    weights.show("running", statistics)
    return weights.layer(Normalization(mode), affine, (x, weights.running))


def window_sum(x: Array) -> Array:
    """Return the sum over the 3x3 neighborhood of each pixel."""
    rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    columns = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)))
    return columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]


# Operations that several spaces have.


@operation
def identity(weights: Weights, x: Array, *others: Array) -> Array:
    """Return `x`, whatever else there is; also as a name of its own for what passes through."""
    return x


@operation
def none(weights: Weights, x: Array, *, features: int | None = None, stride: int = 1) -> Array:
    """Return zeros: the edge is cut. With options, of the shape of such a convolution's output."""
    shape = x.shape
    if features is not None:
        shape = (shape[0], *(-(-size // stride) for size in shape[1:-1]), features)
    return jnp.zeros(shape, x.dtype)


@operation
def of_input(weights: Weights, *xs: Array, position: int, part: Operation | None = None) -> Array:
    """Return one of several activations, or what an operation makes of that one."""
    return xs[position] if part is None else part(weights, xs[position])


@operation
def concatenate(weights: Weights, *xs: Array) -> Array:
    """Return activations side by side, all channels in order."""
    return jnp.concatenate(xs, axis=-1)


@operation
def first(weights: Weights, x: Array, *, features: int) -> Array:
    """Return the first channels, so many."""
    return x[..., :features]


@operation
def conv_norm(
    weights: Weights, x: Array, *, features: int, size: int = 3, stride: int = 1
) -> Array:
    """Return convolution - normalization."""
    return norm(weights, conv(weights, x, features, size, stride))


@operation
def conv_norm_relu(
    weights: Weights, x: Array, *, features: int, size: int = 3, stride: int = 1
) -> Array:
    """Return convolution - normalization - ReLU."""
    return relu(weights, norm(weights, conv(weights, x, features, size, stride)))


@operation
def relu_conv_norm(
    weights: Weights, x: Array, *, features: int, size: int = 3, stride: int = 1
) -> Array:
    """Return ReLU - convolution - normalization."""
    return norm(weights, conv(weights, relu(weights, x), features, size, stride))


@operation
def factorized_reduction(weights: Weights, x: Array, *, features: int) -> Array:
    """Return ReLU - two 1x1 convolutions, of the even and of the odd pixels - normalization."""
    x = relu(weights, x)
    halves = [
        conv(weights, x[:, start::2, start::2], features // 2, 1, name=name)
        for start, name in enumerate(("kernel_a", "kernel_b"))
    ]
    return norm(weights, jnp.concatenate(halves, axis=-1))


@operation
def norm_relu_pool(weights: Weights, x: Array) -> Array:
    """Return normalization - ReLU - mean over the pixels, `[B, C]`."""
    return relu(weights, norm(weights, x)).mean((1, 2))


@operation
def average_pool(weights: Weights, x: Array, *, stride: int = 1) -> Array:
    """Return 3x3 average pooling; the padding is not counted."""
    counts = window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
    # The barrier keeps XLA from dividing anew for each of the nine neighbors.
    pooled = (window_sum(x) * lax.optimization_barrier(1 / counts))[:, ::stride, ::stride]
    weights.show("map", lambda: pooled)
    return pooled


@operation
def average_pool_conv(weights: Weights, x: Array, *, features: int) -> Array:
    """Return 2x2 average pooling with stride 2 - 1x1 convolution."""
    batch, height, width, channels = x.shape
    pooled = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    weights.show("map", lambda: pooled)
    return conv(weights, pooled, features, 1)


@operation
def max_pool(weights: Weights, x: Array, *, size: int = 3, stride: int = 1) -> Array:
    """Return max pooling, padded by `size // 2` on all sides if `size` is odd.

    Of equal maxima the first in reading order gets the gradient, as in other frameworks.
    """
    for axis in (2, 1):
        margins = [(0, 0)] * x.ndim
        margins[axis] = (size // 2, size // 2) if size % 2 else (0, 0)
        padded = jnp.pad(x, margins, constant_values=-jnp.inf)
        count = (padded.shape[axis] - size) // stride
        windows = [
            lax.slice_in_dim(padded, offset, offset + stride * count + 1, stride, axis)
            for offset in range(size)
        ]
        # Shifted images instead of `lax.reduce_window`, whose gradient is a scatter.
        x = functools.reduce(lambda best, window: jnp.where(window > best, window, best), windows)
    weights.show("map", lambda: x)
    return x


@operation
def global_average_pool(weights: Weights, x: Array) -> Array:
    """Return the mean over the pixels, `[B, C]`."""
    return x.mean((1, 2))


@operation
def flatten(weights: Weights, x: Array) -> Array:
    """Return all numbers of an example as a row, `[B, F]`."""
    return x.reshape(len(x), -1)


@operation
def dense(weights: Weights, x: Array, *, features: int, count_bias: bool = True) -> Array:
    """Return the linear layer with a bias, which may count as multiply-accumulates too."""
    kernel = weights.tensor("kernel", (x.shape[-1], features), x.shape[-1])
    bias = weights.tensor("bias", (features,), x.shape[-1])
    weights.cost(math.prod(x.shape[1:-1]) * (kernel.size + count_bias * bias.size))
    return weights.layer(layers.Dense(), {"kernel": kernel, "bias": bias}, x)


IDENTITY, NONE = identity(), none()
