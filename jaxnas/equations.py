"""Traced programs, equation by equation: which of them count, and what may take their place."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

from jaxnas import convolution
from jaxnas.types import Array

Instead = Callable[[Any, list[Any]], list[Any] | None]
"""`instead(equation, given)`: other results of an equation; None leaves it as it is."""


def evaluate(program: core.ClosedJaxpr, args: Sequence[Any], instead: Instead) -> list[Any]:
    """Return the results of a program."""
    jaxpr = program.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)
    add_results(live(jaxpr)[0], values, instead)
    return [value_of(variable, values) for variable in jaxpr.outvars]


def add_results(equations: Sequence[Any], values: dict[Any, Any], instead: Instead) -> None:
    """Add what equations give to the values of the variables."""
    for equation in equations:
        given = [value_of(variable, values) for variable in equation.invars]
        results = instead(equation, given)
        if results is None:
            results = _bind(equation, given)
        values |= zip(equation.outvars, results, strict=True)


def _bind(equation: Any, given: list[Any]) -> list[Any]:
    bound = equation.primitive.get_bind_params(equation.params)
    # Before JAX 0.10, the functions that it calls come apart from its other parameters.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = equation.primitive.bind(*functions, *given, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def live(program: core.Jaxpr) -> tuple[list[Any], list[bool]]:
    """Return the equations that the results of a program depend on, and which arguments do.

    Arguments are a flag each.
    """
    needed = {variable for variable in program.outvars if is_variable(variable)}
    kept = []
    for equation in reversed(program.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(filter(is_variable, equation.invars))
    return kept[::-1], [argument in needed for argument in program.invars]


def value_of(variable: Any, values: dict[Any, Any]) -> Any:
    """Return the value of a variable, or of a literal."""
    return values[variable] if is_variable(variable) else variable.val


def is_variable(operand: Any) -> bool:
    """Return whether an operand is no literal."""
    return not isinstance(operand, core.Literal)


def programs_in(params: dict[str, Any]) -> Iterator[core.ClosedJaxpr]:
    """Yield the programs among the parameters of an equation."""
    for param in jax.tree.leaves(params, is_leaf=_is_program):
        if isinstance(param, core.ClosedJaxpr):
            yield param
        elif isinstance(param, core.Jaxpr):
            yield core.ClosedJaxpr(param, ())


def _is_program(param: Any) -> bool:
    return isinstance(param, core.ClosedJaxpr | core.Jaxpr)


# Convolutions.


def with_fast_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose convolutions of images are those of `convolution.of_equation`.

    It gives what the function gives; JAX differentiates it backwards only.
    """

    @functools.wraps(function)
    def faster(*args: Any) -> Any:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        results = evaluate(program, jax.tree.leaves(args), fast_convolutions)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return faster


def fast_convolutions(equation: Any, given: list[Array]) -> list[Any] | None:
    """Return what a convolution gives, or a call of a function that has one; see `Instead`."""
    if equation.primitive.name == "conv_general_dilated":
        faster = convolution.of_equation(equation.params, *given)
        return None if faster is None else [faster(*given)]
    if equation.primitive.name not in ("jit", "pjit"):
        return None
    (inner,) = programs_in(equation.params)
    return evaluate(inner, given, fast_convolutions) if _has_convolution(inner) else None


def _has_convolution(program: core.ClosedJaxpr) -> bool:
    return any(
        equation.primitive.name == "conv_general_dilated"
        or any(map(_has_convolution, programs_in(equation.params)))
        for equation in program.eqns
    )
