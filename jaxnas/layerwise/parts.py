"""Per-example gradients of a network that is a chain of functions: equal parts compile once.

A walk through a space meets the same parts in many networks; compiled as a whole, each network is
a program of its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxnas import gradients
from jaxnas.types import Array, Outputs, Params, Readings

Part = tuple[Callable[[Params, Array], Array], Params]
"""`(function, params)`: `function(params, inputs)` for `[B, ...]`, hashable, and its parameters."""


def per_example_vjp(
    parts: Sequence[Part], inputs: Array, *, max_bytes: int = gradients.MAX_BYTES
) -> tuple[Outputs, Callable[[Array, Readings], list[tuple[Any, ...]]]]:
    """Return the logits, and the pullback to readings of each example's gradients.

    Each example goes through alone. `pullback(cotangent, readings)` gives what all readings keep of
    each tensor, part by part.

    Args:
        parts: of the network, in order; the last gives logits `[B, K]`.
        inputs: `[B, ...]`.
        max_bytes: bound of the per-example gradients that exist at the same time.
    """
    alone = [(_One(function), own) for function, own in parts]
    passed = [inputs]
    for one, own in alone:
        passed.append(_forward(one, own, passed[-1]))

    def pullback(cotangent: Array, readings: Readings) -> list[tuple[Any, ...]]:
        kept: list[list[tuple[Any, ...]]] = []
        for (one, own), x in zip(reversed(alone), reversed(passed[:-1]), strict=True):
            kept.append(
                gradients.read_in_groups(one, own, x, cotangent, readings, max_bytes=max_bytes)
            )
            cotangent = _backward(one, own, x, cotangent)
        return [of_tensor for of_part in reversed(kept) for of_tensor in of_part]

    return Outputs(passed[-1]), pullback


@dataclasses.dataclass(frozen=True)
class _One:
    """A function of one example instead of a batch."""

    function: Callable[[Params, Array], Array]

    def __call__(self, params: Params, example: Array) -> Array:
        return self.function(params, example[None])[0]


@functools.partial(jax.jit, static_argnums=0)
def _forward(one: _One, params: Params, inputs: Array) -> Array:
    return jax.vmap(one, in_axes=(None, 0))(params, inputs)


@functools.partial(jax.jit, static_argnums=0)
def _backward(one: _One, params: Params, inputs: Array, cotangent: Array) -> Array:
    def of_one(example: Array, own: Array) -> Array:
        return jax.vjp(functools.partial(one, params), example)[1](own)[0]

    return jax.vmap(of_one)(inputs, cotangent)
