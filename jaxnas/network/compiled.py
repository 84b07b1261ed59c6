"""Running a network as JAX sees it: one function, which it differentiates, maps and compiles."""

import collections
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import dtypes, lax

from jaxnas.network import architectures, layers
from jaxnas.network.architectures import Decision
from jaxnas.network.graph import Graph, Path, Repeat, Step, Switch, Value
from jaxnas.network.operations import IDENTITY, Context, Operation, Weights, describe
from jaxnas.types import Array, Passed, Shown, Statistics

Tree = Mapping[str, Any]


def run(
    graph: Graph,
    context: Context,
    params: Tree,
    slots: Tree | None,
    inputs: tuple[Array, ...],
    key: Array | None = None,
) -> tuple[tuple[Array, ...], list[Shown]]:
    """Return the outputs of a network, and what its operations show.

    Args:
        graph: its steps.
        context: how they are carried out.
        params: its tensors.
        slots: as `params`, `layers.slots` of each tensor; None if there are no statistics.
        inputs: one for each of the graph's.
        key: of the dropout, in training; None drops nothing.
    """
    values = graph.start(inputs)
    shown: list[Shown] = []
    alive = liveness(graph) if context.watched else {}
    for position, step in enumerate(graph.live):
        xs = tuple(values[value] for value in step.inputs)
        step_key = None if key is None else jax.random.fold_in(key, position)
        if isinstance(step.part, Repeat):
            outputs = repeat(step.part, context, params, slots, xs, step_key)
        else:
            tensors = at(params, step.path)
            step_slots = None if slots is None else at(slots, step.path)
            weights = Weights(context, tensors, step_slots, path=step.path, key=step_key)
            if isinstance(step.part, Switch):
                outputs = (switch(step.part, weights, xs),)
            else:
                outputs = (step.part(weights, *xs),)
            for value in weights.shown:
                has_a_say = value.alive & alive[position]
                shown.append(dataclasses.replace(value, alive=has_a_say))
        values.update(zip(step.outputs, outputs, strict=True))
    return tuple(values[value] for value in graph.outputs), shown


def differentiate(
    graph: Graph, context: Context, params: Tree, inputs: tuple[Array, ...]
) -> Passed:
    """Return what a network gives, with its pullback: an ordinary `jax.vjp` by slots and inputs."""

    def outputs_and_shown(slots: Tree, inputs: tuple[Array, ...]) -> Any:
        return run(graph, context, params, slots, inputs)

    examples = inputs[0].shape[0]
    slots = jax.tree.map(lambda tensor: layers.slots(context.statistics, tensor, examples), params)
    outputs, pull, shown = jax.vjp(outputs_and_shown, slots, inputs, has_aux=True)

    def pullback(cotangents: tuple[Array | None, ...], chosen: Statistics) -> tuple[Any, Any]:
        filled = tuple(
            jnp.zeros_like(output) if cotangent is None else cotangent
            for cotangent, output in zip(cotangents, outputs, strict=True)
        )
        kept, of_inputs = pull(filled)
        # Tokens have no gradient.
        of_inputs = tuple(None if of.dtype == dtypes.float0 else of for of in of_inputs)
        return of_inputs, only(kept, context.positions(chosen))

    return Passed(outputs, shown, pullback)


def only(kept: Any, positions: tuple[int, ...]) -> Any:
    """Return what some of the statistics keep of each tensor, of what all of them keep."""
    return jax.tree.map(
        lambda of_tensor: tuple(of_tensor[position] for position in positions),
        kept,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def at(tree: Tree, path: Path) -> Tree:
    """Return the part of nested dictionaries at a path; nothing where there is none."""
    for name in path:
        tree = tree.get(name, {})
    return tree


def subtree(params: Tree, graph: Graph) -> Tree:
    """Return the parameters of the stages of a network."""
    names = [name for step in graph.steps for name in getattr(step.part, "names", step.path[:1])]
    return {name: params[name] for name in dict.fromkeys(names) if name in params}


def repeat(
    part: Repeat,
    context: Context,
    params: Tree,
    slots: Tree | None,
    xs: tuple[Array, ...],
    key: Array | None,
) -> tuple[Array, ...]:
    """Return what comes out after all times: a scan over the weights."""
    stage = part.body.steps[0].path[0]

    def stacked(tree: Tree) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree[name] for name in part.names])

    def once(xs: tuple[Array, ...], weights: Any) -> tuple[tuple[Array, ...], None]:
        each, each_slots, each_key = weights
        inner = None if slots is None else {stage: each_slots}
        return run(part.body, context, {stage: each}, inner, xs, each_key)[0], None

    each_slots = None if slots is None else stacked(slots)
    keys = None if key is None else jax.random.split(key, len(part.names))
    return lax.scan(once, xs, (stacked(params), each_slots, keys))[0]


def switch(part: Switch, weights: Weights, xs: tuple[Array, ...]) -> Array:
    """Return what the chosen operation makes of the activations.

    A switch saves nothing for its backward pass but its inputs (`jax.checkpoint`): XLA would carry
    what each of its branches saves. What may only be left out saves what it saves anyway.
    """
    operations = [operation for _, operation in part.operations]
    branches: list[_Branch] = [
        functools.partial(_branch, operation, weights, name) for name, operation in part.operations
    ]
    if not isinstance(part.decision, Decision):
        is_optional = len(operations) == 2 and IDENTITY in operations
        return _switch(branches, part.decision, weights, xs, saves=is_optional)
    # Those of a bucket take one branch together; in one of the branches, each its light operation.
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in xs)
    norm = weights.context.norm
    every = range(len(operations))
    heavy = [number for number in every if describe(operations[number], shapes, norm).macs]
    light = [number for number in every if number not in heavy]
    position = jnp.array([light.index(number) if number in light else 0 for number in every])
    before = 1 if light else 0
    branch = jnp.array([before + heavy.index(number) if number in heavy else 0 for number in every])

    def any_light(*xs: Array) -> tuple[Array, list[Shown]]:
        inner = copy.copy(weights)
        inner.shown = []
        chosen = position[part.decision.each]
        return _switch([branches[number] for number in light], chosen, inner, xs), inner.shown

    together: list[_Branch] = [any_light] * before + [branches[number] for number in heavy]
    return _switch(together, branch[part.decision.shared], weights, xs)


_Branch = Callable[..., tuple[Array, list[Shown]]]


def _branch(chosen: Operation, weights: Weights, name: str, *xs: Array) -> Any:
    part = weights[name] if name else copy.copy(weights)
    part.shown = []
    return chosen(part, *xs), part.shown


def _switch(
    branches: Sequence[_Branch],
    decision: Array,
    weights: Weights,
    xs: Any,
    *,
    saves: bool = False,
) -> Array:
    """Return the outputs of a branch; what all branches show is shown, of the others as dead."""
    shapes = [jax.eval_shape(branch, *xs)[1] for branch in branches]
    places: collections.Counter[Any] = collections.Counter()
    for shown in shapes:
        places |= collections.Counter(map(_kind, shown))

    def alike(branch: _Branch, *xs: Array) -> tuple[Array, list[Shown]]:
        outputs, shown = branch(*xs)
        everything = []
        for kind, count in places.items():
            of_kind = [value for value in shown if _kind(value) == kind]
            name, shape, dtype, channels = kind
            nothing = Shown(name, (), jnp.zeros(shape, dtype), jnp.zeros(channels, bool))
            alive = [Shown(name, (), found.value, jnp.asarray(found.alive)) for found in of_kind]
            everything += alive + [nothing] * (count - len(alive))
        return outputs, everything

    parts = [functools.partial(alike, branch) for branch in branches]

    def choose(decision: Array, *xs: Array) -> tuple[Array, list[Shown]]:
        return lax.switch(decision, parts, *xs)

    outputs, shown = (choose if saves else jax.checkpoint(choose))(decision, *xs)
    weights.shown += shown
    return outputs


def _kind(shown: Shown) -> Any:
    return shown.kind, shown.value.shape, jnp.dtype(shown.value.dtype), jnp.shape(shown.alive)


def liveness(graph: Graph) -> dict[int, Any]:
    """Return for each switch, by its position in `graph.live`, whether the output depends on it.

    `bool[]`: nothing leads to it, it leads nowhere, or it is cut, says False. An operation with
    weights has a say even where nothing leads to it: the bias of its normalization.
    """
    fed: dict[Value, Any] = {value: jnp.array(True) for value in graph.inputs}
    alive: dict[int, Any] = {}
    for position, step in enumerate(graph.live):
        given = functools.reduce(
            jnp.logical_or, (~jnp.array(x.is_zero) & fed.get(x, True) for x in step.inputs)
        )
        alive[position] = _speaks(step, given, graph.norm)
        fed[step.outputs[0]] = alive[position]
    useful: dict[Value, Any] = {value: jnp.array(True) for value in graph.outputs}
    for position, step in reversed(list(enumerate(graph.live))):
        alive[position] = alive[position] & useful.get(step.outputs[0], jnp.array(False))
        for x in step.inputs:
            useful[x] = useful.get(x, jnp.array(False)) | alive[position]
    return alive


def _speaks(step: Step, given: Array, norm: Any) -> Array:
    """Return whether a step gives anything but zeros, `given` saying whether it is given it."""
    if not isinstance(step.part, Switch):
        is_none = isinstance(step.part, Operation) and step.part.is_none
        return jnp.array(False) if is_none else given
    each = architectures.each(step.part.decision)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in step.inputs)
    offered = [part for _, part in step.part.operations]
    present = jnp.array([not part.is_none for part in offered])[each]
    by_itself = jnp.array([bool(describe(part, shapes, norm).tensors) for part in offered])[each]
    return present & (given | by_itself)
