"""Layers with weights: what reads a gradient of a tensor for each example, while it exists.

A *rule* is a differentiable function of tensors and activations whose backward pass can give the
gradient of each tensor for each example. `apply` offers these gradients to *statistics* (a Gram
matrix, a sum of squares), drops them, and hands what the statistics keep on as the cotangent of a
*slot*: an additional argument of the layer, zeros. One ordinary `jax.vjp` of a network with respect
to its slots then gives the statistics of all layers in bounded memory, and passes through `jit`,
`lax.switch`, `lax.scan`, `vmap` and `jax.checkpoint` as any other gradient does.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxnas import convolution
from jaxnas.types import Array, Statistics

Tensors = Mapping[str, Array]
Keep = Callable[[Array, Array], Any]
"""`keep(tensor, gradients)`, see `types.Statistic`."""


class TensorGradient(NamedTuple):
    """The gradient of one tensor; whichever is not asked for is not computed.

    Attributes:
        total: gives the sum over the examples, `[*shape]`.
        each: gives that of each example, `[B, *shape]`.
        in_parts: gives what an additive `keep` keeps, from one part of the tensor after the other;
            None if the gradients by the whole tensor are small, or no less work.
    """

    total: Callable[[], Array]
    each: Callable[[], Array]
    in_parts: Callable[[Keep], Any] | None = None


def of_examples(each: Array) -> TensorGradient:
    """Return the gradient of a tensor, given that of each example `[B, *shape]`."""
    return TensorGradient(lambda: each.sum(0), lambda: each)


class Rule(Protocol):
    """A layer: hashable, because it is static under `jax.jit`."""

    def forward(self, tensors: Tensors, x: Array) -> tuple[Array, Any]:
        """Return the outputs, and residuals for the backward pass."""

    def backward(
        self, tensors: Tensors, residuals: Any, cotangent: Array
    ) -> tuple[Array, dict[str, TensorGradient]]:
        """Return the gradient by `x`, and those by the tensors."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def apply(rule: Rule, statistics: Statistics, tensors: Tensors, slots: Any, x: Array) -> Array:
    """Return `rule` of `x` `[B, ...]`; the cotangents of `slots` are what the statistics keep.

    Args:
        rule: the layer.
        statistics: what to keep of the gradients.
        tensors: of the layer, by name.
        slots: by name, a tuple with `slot(statistic, tensor, B)` for each statistic.
        x: activations; the first axis is that of the examples.
    """
    return rule.forward(tensors, x)[0]


def _apply_forward(
    rule: Rule, statistics: Statistics, tensors: Tensors, slots: Any, x: Array
) -> tuple[Array, Any]:
    outputs, residuals = rule.forward(tensors, x)
    return outputs, (tensors, residuals)


def _apply_backward(rule: Rule, statistics: Statistics, saved: Any, cotangent: Array) -> Any:
    tensors, residuals = saved
    of_inputs, gradients = rule.backward(tensors, residuals, cotangent)
    kept = {name: _keep(statistics, tensors[name], gradients[name]) for name in tensors}
    totals = {name: gradients[name].total() for name in tensors}
    return totals, kept, of_inputs


apply.defvjp(_apply_forward, _apply_backward)


def _keep(statistics: Statistics, tensor: Array, gradient: TensorGradient) -> tuple[Any, ...]:
    """Return what the statistics keep of a tensor."""
    # Two statistics that look at one gradient share it.
    total, each = functools.cache(gradient.total), functools.cache(gradient.each)
    additive = [one for one in statistics if one.per_example and one.additive]
    if gradient.in_parts is None or not additive:
        return tuple(one(tensor, each() if one.per_example else total()) for one in statistics)
    found = gradient.in_parts(lambda part, of_part: [one(part, of_part) for one in additive])
    kept = dict(zip(additive, found, strict=True))
    others = [one for one in statistics if one not in kept]
    kept |= zip(others, _keep(tuple(others), tensor, gradient), strict=True)
    return tuple(kept[one] for one in statistics)


def slots(statistics: Statistics, tensor: Array, examples: int) -> tuple[Any, ...]:
    """Return for each statistic zeros of what it keeps of the gradients of `tensor`."""
    return tuple(
        jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _kept_shape(statistic, tensor, examples)
        )
        for statistic in statistics
    )


def _kept_shape(statistic: Any, tensor: Array, examples: int) -> Any:
    leading = (examples,) if statistic.per_example else ()
    gradient = jax.ShapeDtypeStruct((*leading, *tensor.shape), tensor.dtype)
    # JAX would hold the function weakly, which a tuple does not let it.
    return jax.eval_shape(
        statistic.__call__, jax.ShapeDtypeStruct(tensor.shape, tensor.dtype), gradient
    )


@dataclasses.dataclass(frozen=True)
class Dense:
    """`x @ kernel (+ bias)` over the last axis of `x` `[B, ..., F]`."""

    def forward(self, tensors: Tensors, x: Array) -> tuple[Array, Array]:
        """Return the outputs `[B, ..., K]`."""
        outputs = x @ tensors["kernel"]
        if "bias" in tensors:
            outputs = outputs + tensors["bias"][(None,) * (x.ndim - 1)]
        return outputs, x

    def backward(
        self, tensors: Tensors, x: Array, cotangent: Array
    ) -> tuple[Array, dict[str, TensorGradient]]:
        """Return the gradients."""
        gradients = {
            "kernel": TensorGradient(
                lambda: jnp.einsum("b...f,b...k->fk", x, cotangent),
                lambda: jnp.einsum("b...f,b...k->bfk", x, cotangent),
            )
        }
        if "bias" in tensors:
            pixels = tuple(range(1, x.ndim - 1))
            gradients["bias"] = of_examples(cotangent.sum(pixels) if pixels else cotangent)
        return cotangent @ tensors["kernel"].T, gradients


@dataclasses.dataclass(frozen=True)
class Readable:
    """A layer of any function `f(tensors, x)` that treats the examples `[B, ...]` one by one."""

    function: Callable[[Tensors, Array], Array]

    def forward(self, tensors: Tensors, x: Array) -> tuple[Array, Any]:
        """Return the outputs, and the pullback by JAX."""
        outputs, pull = jax.vjp(self.function, tensors, x)
        return outputs, (pull, x)

    def backward(
        self, tensors: Tensors, residuals: Any, cotangent: Array
    ) -> tuple[Array, dict[str, TensorGradient]]:
        """Return the gradients; those of each example by a map over the examples."""
        pull, x = residuals
        totals, of_inputs = pull(cotangent)

        def one(example: Array, error: Array) -> Tensors:
            def alone(tensors: Tensors) -> Array:
                return self.function(tensors, example[None])[0]

            return jax.vjp(alone, tensors)[1](error)[0]

        each = functools.cache(lambda: jax.vmap(one)(x, cotangent))
        return of_inputs, {
            name: TensorGradient(
                functools.partial(lambda name: totals[name], name),
                functools.partial(lambda name: each()[name], name),
            )
            for name in tensors
        }


@dataclasses.dataclass(frozen=True)
class Convolution:
    """The rule of a convolution with the tensor `kernel`, `[k, k, C, O]`."""

    stride: int = 1

    def forward(self, tensors: Tensors, x: Array) -> tuple[Array, Array]:
        """Return the outputs `[B, H', W', O]`."""
        return convolution.convolve(x, tensors["kernel"], self.stride), x

    def backward(
        self, tensors: Tensors, x: Array, cotangent: Array
    ) -> tuple[Array, dict[str, TensorGradient]]:
        """Return the gradients."""
        factors = x, tensors["kernel"], cotangent, self.stride
        of_kernel = TensorGradient(
            lambda: convolution.kernel_gradient(*factors),
            lambda: convolution.per_example_kernel_gradients(*factors),
        )
        return convolution.input_gradient(*factors), {"kernel": of_kernel}


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """The rule of a depthwise convolution with the tensor `kernel`, `[k, k, 1, C]`."""

    stride: int = 1
    dilation: int = 1

    def forward(self, tensors: Tensors, x: Array) -> tuple[Array, Array]:
        """Return the outputs `[B, H', W', C]`."""
        return convolution.depthwise(x, tensors["kernel"], self.stride, self.dilation), x

    def backward(
        self, tensors: Tensors, x: Array, cotangent: Array
    ) -> tuple[Array, dict[str, TensorGradient]]:
        """Return the gradients."""
        factors = x, tensors["kernel"], cotangent, self.stride, self.dilation
        of_kernel = of_examples(convolution.depthwise_kernel_gradients(*factors))
        return convolution.depthwise_input_gradient(*factors), {"kernel": of_kernel}
