"""The traced program of a network, read: its activations, its normalizations and its blocks.

`read` traces a function once, on shapes, and writes its program out flat: calls are inlined and
scans run step by step. What is found there does not depend on the library that wrote the network.

An *activation* is a function of JAX's with the name of one (`jax.nn.relu`, `silu`, ...), or a
`tanh`, `erf`, `logistic` or `sin`, a maximum with zero, or a choice by the sign of what is chosen.
A *normalization* is a square root of sums over activations. A *block* ends at a value, behind a
layer, on which alone everything later depends: the input of the next block. In a residual network
that is the sum at the end of each branch, and in a chain the output of each layer.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from jaxnas.equations import (
    add_results,
    evaluate,
    fast_convolutions,
    is_variable,
    live,
    programs_in,
    value_of,
)
from jaxnas.types import Array, Params, is_floating

# fmt: off
_NAMED = frozenset((
    "celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu2", "relu6", "selu", "sigmoid", "silu", "soft_sign",
    "softplus", "sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh",
))
# fmt: on
_SMOOTH = {"tanh": "tanh", "logistic": "sigmoid", "erf": "gelu", "erfc": "gelu", "sin": "sin"}

_MULTIPLES = frozenset(
    ("mul", "div", "neg", "integer_pow", "square", "convert_element_type", "copy")
)
_COMPARISONS = frozenset(("gt", "ge", "lt", "le"))
# fmt: off
_ELEMENTWISE = _MULTIPLES | _COMPARISONS | _SMOOTH.keys() | frozenset((
    "abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "cos", "eq", "exp",
    "exp2", "expm1", "floor", "is_finite", "log", "log1p", "max", "min", "ne", "nextafter",
    "not", "or", "pow", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sqrt",
    "stop_gradient", "sub",
))
# fmt: on
_MOVING = frozenset(("broadcast_in_dim", "reshape", "squeeze", "transpose"))
_LAYERS = frozenset(("conv_general_dilated", "dot_general", "gather", "ragged_dot"))
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_MAX_STEPS = 256


# What is found in a program.


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a value.

    Attributes:
        of_inputs: whether it depends on the inputs, by more than the place of a token.
        of_tokens: whether it depends on the inputs at all.
        summed: whether nothing but functions of single entries come behind sums over activations.
        channels: its axis of channels; None if no layer has said.
        base: of which it is a multiple, as `x + x**3` is of `x`; None for itself.
        compared: a comparison with zero of this value.
        scalar: its value, if that is written in the program and the same everywhere.
    """

    of_inputs: bool = False
    of_tokens: bool = False
    summed: bool = False
    channels: int | None = None
    base: Any = None
    compared: Any = None
    scalar: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A value that scores of activations look at.

    Attributes:
        kind: `preactivation` or `variance`, as in `types.Shown`.
        name: of the activation.
        value: the variable.
        channels: its axis of channels.
        written: number of the equation that gives it.
    """

    kind: str
    name: str
    value: Any
    channels: int
    written: int


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """A part of a program: `piece(params, inputs) -> (outputs, found)`, tuples of arrays.

    The first piece takes the inputs of the network, any other what the one before it gave: the
    tokens if there are any, and at last its features, with the channels on their last axis. The
    last piece gives the logits alone.
    """

    equations: list[Any]
    constants: dict[Any, Any]
    params: list[Any]
    takes: list[Any]
    gives: list[Any]
    axes: tuple[int | None, int | None]
    found: list[Found]
    replaced: dict[int, str]

    def reads(self) -> list[int]:
        """Return the positions of the parameters that the piece reads."""
        read = {
            variable
            for equation in self.equations
            for variable in equation.invars
            if is_variable(variable)
        }
        read |= {variable for variable in self.gives if is_variable(variable)}
        return [place for place, variable in enumerate(self.params) if variable in read]

    def _instead(self, equation: Any, given: list[Any]) -> list[Any] | None:
        replaced = self.replaced.get(id(equation))
        if replaced == "one":
            return [jnp.ones(each.aval.shape, each.aval.dtype) for each in equation.outvars]
        return [given[0]] if replaced == "first" else fast_convolutions(equation, given)

    def __call__(
        self, leaves: Sequence[Array], constants: Sequence[Array], inputs: Sequence[Array]
    ) -> tuple[tuple[Array, ...], list[Array]]:
        """Return what the piece gives, and what was found in it."""
        values = dict(zip(self.constants, constants, strict=True))
        values |= zip((self.params[place] for place in self.reads()), leaves, strict=True)
        values |= zip(self.takes, _to_axis(inputs, self.axes[0]), strict=True)
        add_results(self.equations, values, self._instead)
        outputs = [value_of(variable, values) for variable in self.gives]
        if self.axes[1] is not None:
            outputs[-1] = jnp.moveaxis(outputs[-1], self.axes[1], -1)
        found = [
            jnp.moveaxis(values[one.value], one.channels, -1)
            if one.kind == "preactivation"
            else values[one.value]
            for one in self.found
        ]
        return tuple(outputs), found


def _to_axis(inputs: Sequence[Array], axis: int | None) -> list[Array]:
    if axis is None:
        return list(inputs)
    return [*inputs[:-1], jnp.moveaxis(inputs[-1], -1, axis)]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A flat program, and what was found in it.

    Attributes:
        found: the inputs of activations, and what normalizations take the square root of.
        pieces: first to last, one a block.
        layers: number of layers, the products of activations with parameters.
    """

    found: list[Found]
    pieces: list[Piece]
    layers: int


def read(
    function: Callable[[Params, Any], Array], params: Params, inputs: Any, *, normalized: bool
) -> Program:
    """Return the program of a function that gives `[B, K]` for inputs `[B, ...]`.

    Args:
        function: `function(params, inputs)`.
        params: a pytree of arrays, or their shapes.
        inputs: a pytree of arrays, or their shapes.
        normalized: False takes what normalizations measure for 0 and 1.

    Raises:
        ValueError: an activation is within control flow that is not a scan of a fixed length.
    """
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, inputs)
    )

    def flat(*args: Any) -> list[Any]:
        program = jax.make_jaxpr(function)(*args)
        return _inline(program, jax.tree.leaves(args))

    program = jax.make_jaxpr(flat)(*shapes)
    number = len(jax.tree.leaves(params))
    return _Reading(program, number, normalized).program()


# Flat.


def _inline(program: core.ClosedJaxpr, args: list[Any]) -> list[Any]:
    """Return the results of a program, its calls inlined and its scans run step by step."""

    def instead(equation: Any, given: list[Any]) -> list[Any] | None:
        inner = _called(equation)
        if inner is not None:
            return _inline(inner, given)
        return _scan(equation, given) if _steps(equation) else None

    return evaluate(program, args, instead)


def _called(equation: Any) -> core.ClosedJaxpr | None:
    """Return the program that takes the place of an equation; None for what is left as it is."""
    if equation.primitive.name in ("scan", "while", "cond", "shard_map") or _name(equation):
        return None
    inner = list(programs_in(equation.params))
    if len(inner) != 1 or len(inner[0].jaxpr.invars) != len(equation.invars):
        return None
    # What has its derivative written by hand keeps it, unless an activation is somewhere within.
    if equation.primitive.name in _CUSTOM and not _has_activation(inner[0]):
        return None
    return inner[0]


def _steps(equation: Any) -> bool:
    """Return whether an equation is a scan that is run step by step."""
    return equation.primitive.name == "scan" and equation.params["length"] <= _MAX_STEPS


def _scan(equation: Any, given: list[Any]) -> list[Any]:
    (body,) = programs_in(equation.params)
    # Of a step, what is an entry of an array has an axis less than in the whole.
    carried = len(given) - _count_entries(equation.invars, body.jaxpr.invars)
    states = len(equation.outvars) - _count_entries(equation.outvars, body.jaxpr.outvars)
    constants, state, stacked = given[: carried - states], given[carried - states : carried], []
    steps = range(equation.params["length"])
    for step in reversed(steps) if equation.params["reverse"] else steps:
        entries = [lax.index_in_dim(stack, step, keepdims=False) for stack in given[carried:]]
        results = _inline(body, [*constants, *state, *entries])
        state = results[:states]
        stacked.append(results[states:])
    if equation.params["reverse"]:
        stacked.reverse()
    return [*state, *(jnp.stack(each) for each in zip(*stacked, strict=True))]


def _count_entries(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    return sum(
        one.aval.ndim > variable.aval.ndim for one, variable in zip(outer, inner, strict=True)
    )


def _name(equation: Any) -> str | None:
    """Return the name of the activation that an equation calls, if it is one."""
    inner = list(programs_in(equation.params))
    if len(inner) != 1 or equation.primitive.name not in (*_CUSTOM, "jit", "pjit"):
        return None
    name = equation.params.get("name")
    if name in _NAMED:
        return "silu" if name == "swish" else name
    equations = inner[0].jaxpr.eqns
    if equation.primitive.name not in _CUSTOM or len(equations) != 1:
        return None
    # A function whose derivative is written by hand, and which is an activation and nothing else.
    return _name(equations[0]) or _of_one_value(equations[0])


def _of_one_value(equation: Any) -> str | None:
    """Return the name of an activation that shows in one equation."""
    name = equation.primitive.name
    if name in _SMOOTH:
        return _SMOOTH[name]
    zeros = [
        variable
        for variable in equation.invars
        if not is_variable(variable) and not np.any(variable.val)
    ]
    return "relu" if name == "max" and zeros else None


def _has_activation(program: core.ClosedJaxpr) -> bool:
    return any(
        _name(equation)
        or _of_one_value(equation)
        or any(_has_activation(one) for one in programs_in(equation.params))
        for equation in program.jaxpr.eqns
    )


# Read.


class _Reading:
    """A flat program on its way to a `Program`, one equation after the other."""

    def __init__(self, program: core.ClosedJaxpr, params: int, normalized: bool) -> None:
        jaxpr = program.jaxpr
        self.normalized = normalized
        self.constants = dict(zip(jaxpr.constvars, program.consts, strict=True))
        self.params, self.inputs = list(jaxpr.invars[:params]), list(jaxpr.invars[params:])
        self.outputs = list(jaxpr.outvars)
        self.equations = live(jaxpr)[0]
        self.examples = self.inputs[0].aval.shape[0]
        self.written: dict[Any, int] = dict.fromkeys(jaxpr.invars, -1)
        self.found: list[Found] = []
        self.replaced: dict[int, str] = {}
        self.behind_layers: list[int] = []  # numbers of the equations
        self.weighed = 0
        self.facts: dict[Any, Facts] = {}
        for variable in self.inputs:
            self.facts[variable] = Facts(is_floating(variable.aval), True)
        for variable, value in self.constants.items():
            is_known = not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0
            is_number = is_known and not jnp.issubdtype(value.dtype, jax.dtypes.extended)
            self.facts[variable] = Facts(scalar=float(value) if is_number else None)

    def program(self) -> Program:
        trained = set(self.params)
        for number, equation in enumerate(self.equations):
            self.written |= dict.fromkeys(equation.outvars, number)
            operands = [variable for variable in equation.invars if is_variable(variable)]
            is_trained = any(variable in trained for variable in operands)
            of_inputs = [variable for variable in operands if self.of(variable).of_tokens]
            if is_trained and not of_inputs:
                trained.update(equation.outvars)
            self.weighed += bool(is_trained and of_inputs and equation.primitive.name in _LAYERS)
            self.visit(number, equation)
        return Program(self.found, self.pieces(), self.weighed)

    def of(self, variable: Any) -> Facts:
        if is_variable(variable):
            return self.facts.get(variable, Facts())
        return Facts(scalar=float(variable.val) if np.ndim(variable.val) == 0 else None)

    # One equation.

    def visit(self, number: int, equation: Any) -> None:
        """Learn what an equation gives, and whether it is an activation or a normalization."""
        name = equation.primitive.name
        data = [variable for variable in equation.invars if self.of(variable).of_tokens]
        is_layer = name in _LAYERS and bool(data) and is_floating(equation.outvars[0].aval)
        of_inputs = is_layer or any(self.of(variable).of_inputs for variable in data)
        if of_inputs:
            self.look(equation, data)
        if is_layer:
            self.behind_layers.append(number)
        for variable in equation.outvars:
            self.facts[variable] = Facts(
                of_inputs=of_inputs,
                of_tokens=bool(data),
                summed=self.is_summed(name, data),
                channels=self.channels(equation, data, variable),
                base=self.base(equation, data),
                compared=self.compared(equation, data),
                scalar=self.scalar(equation),
            )

    def is_summed(self, name: str, data: list[Any]) -> bool:
        if name in ("reduce_sum", "psum"):
            return bool(data)
        return (
            name in _ELEMENTWISE | _MOVING
            and bool(data)
            and all(self.of(variable).summed for variable in data)
        )

    def base(self, equation: Any, data: list[Any]) -> Any:
        """Return the value of which an equation gives a multiple, or None."""
        name, bases = (
            equation.primitive.name,
            {self.of(variable).base or variable for variable in data},
        )
        others = [variable for variable in equation.invars if variable not in data]
        if len(bases) == 1 and (
            (
                name in _MULTIPLES
                and all(_is_scalar(variable, self.of(variable)) for variable in others)
            )
            or (name in ("add", "add_any", "sub") and not others)
        ):
            return bases.pop()
        return None

    def compared(self, equation: Any, data: list[Any]) -> Any:
        others = [variable for variable in equation.invars if variable not in data]
        if equation.primitive.name in _COMPARISONS and len(data) == len(others) == 1:
            return data[0] if self.of(others[0]).scalar == 0 else None
        if equation.primitive.name in _MOVING and len(data) == 1:
            return self.of(data[0]).compared
        return None

    def scalar(self, equation: Any) -> float | None:
        if equation.primitive.name in ("convert_element_type", "broadcast_in_dim", "copy"):
            return self.of(equation.invars[0]).scalar
        return None

    def channels(self, equation: Any, data: list[Any], result: Any) -> int | None:
        """Return the axis of the channels of what an equation gives, if it is known."""
        name, shape = equation.primitive.name, result.aval.shape
        if not data or not shape:
            return None
        params, first = equation.params, data[0]
        if name == "conv_general_dilated":
            return params["dimension_numbers"].out_spec[1]
        if name == "dot_general":
            # The axes of a product: those that both have, the left one's, the right one's.
            both = len(params["dimension_numbers"][1][0])
            return (
                None if len(data) == 2 else both if equation.invars[1] is first else -1 % len(shape)
            )
        known = [variable for variable in data if self.of(variable).channels is not None]
        if not known:
            return None
        before, axis = known[0].aval.shape, self.of(known[0]).channels
        assert axis is not None
        if name == "transpose":
            return params["permutation"].index(axis)
        if name == "broadcast_in_dim":
            return params["broadcast_dimensions"][axis]
        if name.startswith("reduce_") and "axes" in params:
            return (
                None
                if axis in params["axes"]
                else axis - sum(variable < axis for variable in params["axes"])
            )
        if name in ("reshape", "squeeze"):
            # The axis of as many entries behind as many others.
            places = [math.prod(shape[:place]) for place in range(len(shape))]
            matches = [
                place
                for place, size in enumerate(shape)
                if size == before[axis] and places[place] == math.prod(before[:axis])
            ]
            return matches[-1] if matches else None
        return axis if len(before) == len(shape) else None

    # Activations and normalizations.

    def look(self, equation: Any, data: list[Any]) -> None:
        """Add what an equation rectifies or normalizes to what was found."""
        name, first = equation.primitive.name, data[0]
        operands = equation.invars
        zeros = [variable for variable in operands if self.of(variable).scalar == 0]
        called = _name(equation)
        if called:
            self.activation(called, first)
        elif any(_has_activation(one) for one in programs_in(equation.params)):
            if name not in _CUSTOM:
                raise ValueError(
                    "The activations of a network must be in its program, or in a scan of at most "
                    f"{_MAX_STEPS} steps: got one inside {name}; score a network without such "
                    "control flow, or one that offers jaxnas.types.Staged."
                )
        elif name in _SMOOTH:
            # The function within a GELU is one of a multiple of its input.
            base = self.of(first).base
            self.activation("gelu" if base and name == "tanh" else _SMOOTH[name], base or first)
        # A variance is kept positive in the same way.
        elif name in ("max", "clamp") and zeros and not self.of(first).summed:
            self.activation("relu", first)
        elif name == "max" and len(data) == 2 and len(self.bases(data)) == 1:
            self.activation("leaky_relu", first)
        elif name == "select_n":
            chosen = self.of(operands[0]).compared
            is_own = chosen is not None and self.bases([chosen]) <= self.bases(data[1:])
            if is_own and not self.of(chosen).summed:
                self.activation("leaky_relu", chosen)
        elif name in ("rsqrt", "sqrt", "pow") and self.of(first).summed:
            self.add("variance", "", first)
            if not self.normalized:
                self.replaced[id(equation)] = "one"
        # A mean is taken away from what it is the mean of.
        elif not self.normalized and name == "sub" and len(data) == 2 and self.is_centered(data):
            self.replaced[id(equation)] = "first"

    def is_centered(self, data: list[Any]) -> bool:
        return self.of(data[1]).summed and not self.of(data[0]).summed

    def bases(self, values: list[Any]) -> set[Any]:
        return {self.of(variable).base or variable for variable in values}

    def activation(self, name: str, value: Any) -> None:
        if value.aval.ndim > 1 and self.is_of_examples(value) and is_floating(value.aval):
            self.add("preactivation", name, value)

    def add(self, kind: str, name: str, value: Any) -> None:
        self.found.append(Found(kind, name, value, self.axis(value), self.written[value]))

    # Blocks.

    def pieces(self) -> list[Piece]:
        tokens = [variable for variable in self.inputs if not is_floating(variable.aval)]
        pieces, before, start = [], None, -2  # an input is found in front of equation 0, at -1
        for cut in [*self.cuts(), None]:
            end = self.written[cut] if cut else len(self.equations)
            found = [one for one in self.found if start < one.written <= end]
            takes = [*tokens, before] if before else self.inputs
            gives = [*tokens, cut] if cut else self.outputs
            equations = self.behind(takes, [*gives, *(one.value for one in found)])
            read = {
                variable
                for equation in equations
                for variable in equation.invars
                if is_variable(variable)
            }
            constants = {
                variable: it
                for variable, it in self.constants.items()
                if variable in {*read, *gives}
            }
            axes = before and self.axis(before), cut and self.axis(cut)
            parts = equations, constants, self.params, takes, gives, axes, found, self.replaced
            pieces.append(Piece(*parts))
            before, start = cut, end
        return pieces

    def axis(self, value: Any) -> int:
        channels = self.of(value).channels
        return value.aval.ndim - 1 if channels is None else channels

    def behind(self, takes: list[Any], gives: list[Any]) -> list[Any]:
        """Return the equations between what a piece takes and what it gives."""
        given = set(takes)
        wanted = {variable for variable in gives if is_variable(variable)} - given
        kept = []
        for equation in reversed(self.equations):
            if wanted.intersection(equation.outvars):
                kept.append(equation)
                wanted.update(
                    variable
                    for variable in equation.invars
                    if is_variable(variable) and variable not in given
                )
        return kept[::-1]

    def cuts(self) -> list[Any]:
        """Return the value behind each block but the last, in order."""
        last_read: dict[Any, int] = {}
        for number, equation in enumerate(self.equations):
            last_read |= {variable: number for variable in equation.invars if is_variable(variable)}
        last_read |= {
            variable: len(self.equations) for variable in self.outputs if is_variable(variable)
        }

        # Values on which alone everything later depends, by the layers in front of them.
        runs: dict[int, list[Any]] = collections.defaultdict(list)
        alive = {
            variable
            for variable in self.inputs
            if self.of(variable).of_inputs and variable in last_read
        }
        layers = 0
        for number, equation in enumerate(self.equations):
            layers += number in self.behind_layers
            alive.update(
                variable
                for variable in equation.outvars
                if self.of(variable).of_inputs and variable in last_read
            )
            alive = {variable for variable in alive if last_read[variable] > number}
            if len(alive) == 1 and alive <= set(equation.outvars):
                (only,) = alive
                if is_floating(only.aval) and only.aval.ndim > 1 and self.is_of_examples(only):
                    runs[layers].append(only)
        return [
            max(run, key=lambda variable: (variable.aval.ndim > 2, self.written[variable]))
            for layer, run in sorted(runs.items())
            if 0 < layer < layers
        ]

    def is_of_examples(self, variable: Any) -> bool:
        return bool(variable.aval.shape) and variable.aval.shape[0] == self.examples


def _is_scalar(variable: Any, facts: Facts) -> bool:
    return facts.scalar is not None or not (
        variable.aval.shape if is_variable(variable) else np.shape(variable.val)
    )
