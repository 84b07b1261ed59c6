"""Looking into a network: its stages one after the other, and the inputs of its ReLUs.

A network of a space shows its stages (`types.Staged`). Any other is one stage, whose ReLUs are
found in its traced program: a ReLU is a maximum with zero, whoever wrote it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxnas import gradients
from jaxnas.types import ApplyFn, Array, Params, Passed, Shown, Stage, Staged, Statistics


def stages(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Array,
    statistics: Statistics = (),
    *,
    normalized: bool = True,
) -> list[Stage]:
    """Return the stages of a network, first to last: each `stage(inputs) -> Passed`.

    Args:
        apply_fn: any network.
        params: its parameters.
        inputs: `[B, ...]`, what the first stage is going to be given, or the like.
        statistics: what the pullbacks of the stages may be asked to keep.
        normalized: False leaves out the normalization layers of a network that is `Staged`; any
            other is taken as it is.
    """
    if isinstance(apply_fn, Staged):
        return apply_fn.stages(params, inputs, statistics, normalized=normalized)
    return [as_stage(_Logits(gradients.hashable(apply_fn)), params)]


def as_stage(function: Callable[[Params, Any], Any], params: Params) -> Stage:
    """Return a function `function(params, inputs)` as a stage: its ReLUs, and its pullback by JAX.

    Equal functions compile once. The stage shows no normalization layers.
    """
    return functools.partial(_pass, function, params)


@dataclasses.dataclass(frozen=True)
class _Logits:
    """A network as a function that gives bare logits."""

    apply_fn: Callable[..., Any]

    def __call__(self, params: Params, inputs: Array) -> Array:
        return gradients.outputs(self.apply_fn, params, inputs).logits


def _pass(function: Callable[..., Any], params: Params, inputs: tuple[Array, ...]) -> Passed:
    outputs, preactivations = _look(function, params, *inputs)

    def pullback(cotangents: tuple[Array | None, ...], chosen: Statistics) -> tuple[Any, Any]:
        if any(statistic.per_example for statistic in chosen):
            raise ValueError("A stage that JAX differentiates has sums only: use gradients.read.")
        of_inputs, kept = _pull(function, chosen, params, *inputs, cotangents[0])
        return (of_inputs,), kept

    return Passed((outputs,), [Shown("preactivation", (), x) for x in preactivations], pullback)


@functools.partial(jax.jit, static_argnums=0)
def _look(function: Callable[..., Any], params: Params, inputs: Array) -> tuple[Any, list[Array]]:
    """Return what the function gives, and the inputs `[B, ...]` of its ReLUs."""
    program, shape = jax.make_jaxpr(function, return_shape=True)(params, inputs)
    found: list[Array] = []
    results = _run(program, jax.tree.leaves((params, inputs)), found)
    # A variance is kept positive in the same way, but has no axis besides that of its examples.
    rectified = [own for own in found if own.ndim > 1 and own.shape[0] == inputs.shape[0]]
    return jax.tree.unflatten(jax.tree.structure(shape), results), rectified


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pull(
    function: Callable[..., Any],
    statistics: Statistics,
    params: Params,
    inputs: Array,
    cotangent: Array,
) -> tuple[Array, Any]:
    of_params, of_inputs = jax.vjp(function, params, inputs)[1](cotangent)
    kept = jax.tree.map(
        lambda tensor, summed: tuple(own.keep(tensor, summed) for own in statistics),
        params,
        of_params,
    )
    return of_inputs, kept


def _run(program: core.ClosedJaxpr, args: list[Any], found: list[Array]) -> list[Any]:
    """Return the results of a program, and add what it takes the maximum of with zero."""
    jaxpr = program.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for equation in jaxpr.eqns:
        given = [
            own.val if isinstance(own, core.Literal) else values[own] for own in equation.invars
        ]
        inner = _called(equation)
        if inner is not None:
            results = _run(inner, given, found)
        else:
            if any(_has_relu(own) for own in _programs(equation.params)):
                raise ValueError(
                    "The ReLUs of a network must be in its own program: got one inside "
                    f"{equation.primitive.name}; score a network without jax.lax control flow, or "
                    "one that offers jaxnas.types.Staged."
                )
            found += _rectified(equation, given)
            results = equation.primitive.bind(*given, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [own.val if isinstance(own, core.Literal) else values[own] for own in jaxpr.outvars]


def _called(equation: Any) -> core.ClosedJaxpr | None:
    """Return the program that an equation calls once, with its own arguments; None for others."""
    if equation.primitive.name in ("scan", "while", "cond", "shard_map"):
        return None
    inner = list(_programs(equation.params))
    if len(inner) != 1 or len(inner[0].jaxpr.invars) != len(equation.invars):
        return None
    return inner[0]


def _programs(params: dict[str, Any]) -> Iterator[core.ClosedJaxpr]:
    for own in jax.tree.leaves(params, is_leaf=_is_program):
        if isinstance(own, core.ClosedJaxpr):
            yield own
        elif isinstance(own, core.Jaxpr):
            yield core.ClosedJaxpr(own, ())


def _is_program(own: Any) -> bool:
    return isinstance(own, core.ClosedJaxpr | core.Jaxpr)


def _has_relu(program: core.ClosedJaxpr) -> bool:
    return any(
        _rectified(equation, [getattr(own, "val", None) for own in equation.invars])
        or any(_has_relu(own) for own in _programs(equation.params))
        for equation in program.jaxpr.eqns
    )


def _rectified(equation: Any, given: list[Any]) -> list[Any]:
    """Return the other operand of a maximum with zero, in a list; none of anything else."""
    if equation.primitive.name != "max":
        return []
    # What is no array of JAX's is written in the program; its type depends on the version of JAX.
    written = [own is not None and not isinstance(own, jax.Array) for own in given]
    zero = [own and not np.any(each) for own, each in zip(written, given, strict=True)]
    return [given[1 - zero.index(True)]] if any(zero) else []
