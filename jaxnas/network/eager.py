"""Running a concrete architecture step by step: a tape of small compiled programs.

Each operation is a jitted forward and a jitted backward program for each shape that it meets,
shared by all architectures and all spaces that have it. The tape remembers who read what; the
backward pass is one loop over it.
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax

from jaxnas.network import layers
from jaxnas.network.compiled import Tree, at, only
from jaxnas.network.graph import ADD, Graph, Step, Value
from jaxnas.network.operations import Context, Operation, Weights
from jaxnas.types import Array, Passed, Shown, Statistics, is_floating


def run(
    graph: Graph,
    context: Context,
    params: Tree,
    inputs: tuple[Array, ...],
    running: Tree | None = None,
) -> tuple[tuple[Array, ...], list[Shown]]:
    """Return the outputs of a network without traced decisions, and what its operations show.

    Args:
        graph: its steps.
        context: how they are carried out.
        params: its tensors.
        inputs: one for each of the graph's.
        running: statistics of its normalization layers by path, for the mode `eval`.
    """
    values = graph.start(inputs)
    shown: list[Shown] = []
    for step in graph.live:
        xs = [values[value] for value in step.inputs]
        if step.part is ADD:
            outputs = add(*xs)
        else:
            program = _forward(step.part, context)
            own_running = at(running, step.path) if running else None
            outputs, seen = program(_weights(params, step), own_running or None, *xs)
            shown += [value.under(step.path) for value in seen]
        values[step.outputs[0]] = outputs
    return tuple(values[value] for value in graph.outputs), shown


def differentiate(
    graph: Graph, context: Context, params: Tree, inputs: tuple[Array, ...]
) -> Passed:
    """Return what a network gives, with its pullback: the tape of its steps, and a loop over it."""
    values = graph.start(inputs)
    tape: list[tuple[Step, Any]] = []
    shown: list[Shown] = []
    # Forwards: each step leaves the pullback to its slots and inputs; a sum needs none.
    for step in graph.live:
        xs = [values[value] for value in step.inputs]
        if step.part is ADD:
            outputs, pull = add(*xs), None
        else:
            (outputs, seen), pull = _linearize(step.part, context)(_weights(params, step), *xs)
            shown += [value.under(step.path) for value in seen]
        values[step.outputs[0]] = outputs
        tape.append((step, pull))

    def pullback(cotangents: tuple[Array | None, ...], chosen: Statistics) -> tuple[Any, Any]:
        positions = context.positions(chosen)
        arrived: dict[Value, list[Array]] = {}
        for value, cotangent in zip(graph.outputs, cotangents, strict=True):
            if cotangent is not None:
                arrived.setdefault(value, []).append(cotangent)
        kept: dict[str, Any] = {}
        # Backwards: what has arrived at an output is pulled back to the inputs of its step.
        for step, pull in reversed(tape):
            if step.outputs[0] not in arrived:
                continue
            total = add(*arrived.pop(step.outputs[0]))
            of_inputs: Sequence[Array | None] = [total] * len(step.inputs)  # of a sum
            if pull is not None:
                of_tensors, *of_inputs = _pull(pull, total, chosen=positions)
                _put(kept, step.path, of_tensors)
            for value, cotangent in zip(step.inputs, of_inputs, strict=True):
                if cotangent is not None:  # tokens have no gradient
                    arrived.setdefault(value, []).append(cotangent)
        of_graph = [arrived.get(value) for value in graph.inputs]
        return tuple(None if parts is None else add(*parts) for parts in of_graph), kept

    given = tuple(values[value] for value in graph.outputs)
    return Passed(given, shown, pullback)


def _weights(params: Tree, step: Step) -> Tree:
    """Return the tensors of a step, and none of those that others have at its path."""
    if not step.reads:
        return {}
    there = functools.reduce(operator.getitem, step.path, params)
    return there if len(there) == len(step.reads) else {name: there[name] for name in step.reads}


def add(first: Array, *others: Array) -> Array:
    """Return the sum of activations that meet, by programs of two and of three terms alone.

    A program for each number of terms would be compiled late, in the middle of a pool.
    """
    for start in range(0, len(others), 2):
        first = _sum(first, *others[start : start + 2])
    return first


@jax.jit
def _sum(first: Array, *others: Array) -> Array:
    return sum(others, start=first)


@functools.cache
def _forward(operation: Operation, context: Context) -> Any:
    """Return the program of an operation, `(tensors, running, *xs) -> (outputs, shown)`."""

    def forward(tensors: Tree, running: Tree | None, *xs: Array) -> tuple[Array, list[Shown]]:
        weights = Weights(context, tensors, running=running)
        return operation(weights, *xs), weights.shown

    return jax.jit(forward)


@functools.cache
def _linearize(operation: Operation, context: Context) -> Any:
    """Return the program that also gives the pullback to the slots and the inputs."""

    def linearize(tensors: Tree, *xs: Array) -> Any:
        def forward(slots: Tree, *floating: Array) -> tuple[Array, list[Shown]]:
            weights = Weights(context, tensors, slots)
            remaining = iter(floating)
            filled = [next(remaining) if is_floating(x) else x for x in xs]
            return operation(weights, *filled), weights.shown

        examples = xs[0].shape[0]
        slots = jax.tree.map(
            lambda tensor: layers.slots(context.statistics, tensor, examples), tensors
        )
        outputs, pull, shown = jax.vjp(forward, slots, *filter(is_floating, xs), has_aux=True)
        leaves, structure = jax.tree.flatten(pull)
        floating = tuple(map(is_floating, xs))
        return (outputs, shown), _Saved(leaves, _Structure(structure), floating)

    return jax.jit(linearize)


class _Structure:
    """The structure of a pullback, compared by identity: to compare two takes as long as a step."""

    def __init__(self, structure: Any) -> None:
        self.structure = structure


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["leaves"],
    meta_fields=["structure", "floating"],
)
@dataclasses.dataclass(frozen=True)
class _Saved:
    """A pullback of JAX as its arrays; `floating` says which inputs have a gradient."""

    leaves: list[Array]
    structure: _Structure
    floating: tuple[bool, ...]


@functools.partial(jax.jit, static_argnames="chosen")
def _pull(pull: _Saved, cotangent: Array, *, chosen: tuple[int, ...]) -> Any:
    """Return the gradients, None of tokens; statistics that are not chosen are not computed."""
    of_slots, *of_inputs = jax.tree.unflatten(pull.structure.structure, pull.leaves)(cotangent)
    remaining = iter(of_inputs)
    return only(of_slots, chosen), *(next(remaining) if one else None for one in pull.floating)


def _put(kept: dict[str, Any], path: tuple[str, ...], of_tensors: Any) -> None:
    """Put what is kept of the tensors of a step at its path."""
    if not of_tensors:
        return
    for name in path:
        kept = kept.setdefault(name, {})
    kept.update(of_tensors)
