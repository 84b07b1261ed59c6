"""Looking into a network: its blocks one after the other, and the inputs of its activations.

A network of a space shows its stages (`types.Staged`). The traced program of any other is cut into
blocks, and its activations are found there: see `programs`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxnas import gradients, lifetimes, programs
from jaxnas.types import (
    ApplyFn,
    Array,
    Params,
    Passed,
    Shown,
    Stage,
    Staged,
    Statistics,
    is_floating,
)


def stages(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Any,
    statistics: Statistics = (),
    *,
    normalized: bool = True,
) -> list[Stage]:
    """Return the stages of a network, first to last: each `stage(inputs) -> Passed`.

    A stage of a network that is not `Staged` is a block of its program, compiled once for the
    network, or evaluated operation by operation if the network is `eager`. What it passes on are
    the tokens, if the network reads any, and its features `[B, ..., C]`.

    Args:
        apply_fn: any network.
        params: its parameters.
        inputs: `[B, ...]`, what the first stage is going to be given, or the like.
        statistics: what the pullbacks of the stages may be asked to keep.
        normalized: False leaves out the normalization layers of a network that is `Staged`; of any
            other, what its normalizations measure is taken for 0 and 1.

    Raises:
        ValueError: an activation is within control flow that is not a scan; see `programs.read`.
    """
    if isinstance(apply_fn, Staged):
        return apply_fn.stages(params, inputs, statistics, normalized=normalized)
    leaves, structure = jax.tree.flatten((params, inputs))
    shapes = tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves)

    def logits(params: Params, inputs: Any) -> Array:
        return gradients.outputs(apply_fn, params, inputs).logits

    program = lifetimes.remember(
        apply_fn,
        (normalized, structure, shapes),
        lambda: programs.read(logits, params, inputs, normalized=normalized),
    )
    # Of an eager network, operation by operation.
    look, pull = _look, _pull
    if getattr(apply_fn, "eager", False):
        look, pull = inspect.unwrap(_look), inspect.unwrap(_pull)
    return [functools.partial(_pass, look, pull, piece, params) for piece in program.pieces]


def _pass(
    look: Callable[..., Any],
    pull: Callable[..., Any],
    piece: programs.Piece,
    params: Params,
    inputs: tuple[Any, ...],
) -> Passed:
    leaves = jax.tree.leaves(params)
    read = [leaves[place] for place in piece.reads()]
    constants = list(piece.constants.values())
    given, structure = jax.tree.flatten(inputs)
    outputs, values = look(piece, read, constants, given)

    def pullback(cotangents: tuple[Array | None, ...], chosen: Statistics) -> tuple[Any, Any]:
        if any(statistic.per_example for statistic in chosen):
            raise ValueError("A stage that JAX differentiates has sums only: use gradients.read.")
        of_inputs, kept = pull(piece, chosen, read, constants, given, cotangents[-1])
        return jax.tree.unflatten(structure, of_inputs), kept

    shown = [Shown(found.kind, (), value) for found, value in zip(piece.found, values, strict=True)]
    return Passed(outputs, shown, pullback)


@lifetimes.for_each_network()
def _look(
    piece: programs.Piece, params: list[Array], constants: list[Array], inputs: list[Array]
) -> tuple[tuple[Array, ...], list[Array]]:
    """Return what the piece gives, and what was found in it."""
    return piece(params, constants, inputs)


@lifetimes.for_each_network(1)
def _pull(
    piece: programs.Piece,
    statistics: Statistics,
    params: list[Array],
    constants: list[Array],
    inputs: list[Array],
    cotangent: Array,
) -> tuple[list[Array | None], Any]:
    """Return the gradients by the inputs, None for tokens, and what is kept of the tensors."""
    floats = [is_floating(array) for array in inputs]

    def features(params: list[Array], floating: list[Array]) -> Array:
        remaining = iter(floating)
        merged = [
            next(remaining) if is_one else array
            for is_one, array in zip(floats, inputs, strict=True)
        ]
        return piece(params, constants, merged)[0][-1]

    floating = [array for is_one, array in zip(floats, inputs, strict=True) if is_one]
    of_params, of_floating = jax.vjp(features, params, floating)[1](cotangent)
    remaining = iter(of_floating)
    of_inputs = [next(remaining) if is_one else None for is_one in floats]
    kept = [
        tuple(statistic(tensor, summed) for statistic in statistics)
        for tensor, summed in zip(params, of_params, strict=True)
    ]
    return of_inputs, kept
