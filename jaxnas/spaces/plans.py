"""The plans to run a network of operations: walk it, or compile it whole, for one or for many.

One picture: a network is blocks of operations, **chosen** by decisions and **repeated** over cells.
What an architecture is when it arrives decides the plan, here and nowhere else:

- **walk**: a concrete architecture (`StaticArch`). `choose` calls the one chosen operation and
  `repeat` is a Python loop: only what is alive runs, each operation a small jitted kernel that all
  architectures share. Fastest on CPU; inside `jax.jit` it unrolls into the static network.
- **traced**: an architecture that is a traced array. `choose` is `lax.switch` and `repeat` is
  `lax.scan`: one compiled program is all architectures. Made for GPU and TPU.
- **bucket**: traced, many at once. `jax.vmap` turns a switch into all of its branches; so the
  architectures of a `Bucket` agree in their heavy operations and switch between them together,
  and only what is light is computed in all its forms.

A `SuperArch` is walked too; each of its decisions is a set of operations, whose outputs are added.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxnas.spaces.operations import Backward, Forward, Operation, Residuals, Weights
from jaxnas.types import Array, Readings, Site


@jax.tree_util.register_static
class StaticArch(tuple[int, ...]):
    """A concrete architecture; static under every JAX transformation, so it stays concrete."""

    __slots__ = ()


@jax.tree_util.register_static
class SuperArch(tuple[tuple[int, ...], ...]):
    """A concrete super-network: on each edge the operations that are alive, in order."""

    __slots__ = ()


class Decision(NamedTuple):
    """A decision in a bucket: `own`, and `shared` by the bucket where that is a heavy operation."""

    own: Array
    shared: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bucket:
    """A traced architecture that stands, under `jax.vmap`, for many with the same pattern.

    Attributes:
        decisions: `int32[D]`, mapped.
        pattern: `int32[D]`, not mapped; the decisions, but for which light operation they name.
    """

    decisions: Array
    pattern: Array

    def __getitem__(self, position: int) -> Decision:
        return Decision(self.decisions[position], self.pattern[position])


Arch = StaticArch | SuperArch | Array | Bucket


def decisions(arch: Arch) -> ArrayLike:
    """Return the decisions of an architecture `int32[D]`, whichever form it has.

    Raises:
        ValueError: a super-network, whose decisions are still open.
    """
    if isinstance(arch, SuperArch):
        raise ValueError(f"A super-network has no decisions: got {arch}; choose an operation each.")
    if isinstance(arch, StaticArch):
        return np.array(arch)
    return arch.decisions if isinstance(arch, Bucket) else arch


def validate_traced(arch: Array, num_decisions: int) -> None:
    """Raise `ValueError` unless a traced architecture is one, `int32[D]`."""
    if arch.shape != (num_decisions,) or arch.dtype.kind not in "iu":
        raise ValueError(
            f"An architecture of this space is int32[{num_decisions}]: got "
            f"{arch.dtype}{list(arch.shape)}; use jax.vmap or jax.lax.map for many."
        )


def validate_statistics(statistics: Any, mode: str, arch: Any) -> None:
    """Raise `ValueError` for running statistics but those of one trained network in eval mode."""
    if statistics is not None and not (mode == "eval" and isinstance(arch, StaticArch)):
        raise ValueError(
            "Running statistics belong to one trained network in eval mode: got them in mode "
            f"{mode!r} for a {type(arch).__name__}; bind a concrete architecture."
        )


class Block(NamedTuple):
    """A part of a network: operations and the wiring between them.

    Inputs and outputs are activations: an array, or a pytree of arrays that are passed on together.

    Attributes:
        forward: `forward(weights, inputs, statistics) -> (outputs, saved)`.
        backward: `backward(saved, cotangent, readings) -> (input_gradient, kept)`.
        see: `see(saved)`: its operations as sites.
    """

    forward: Callable[[Weights, Any, Any], tuple[Any, Any]]
    backward: Callable[[Any, Any, Readings], tuple[Any, dict[str, Any]]]
    see: Callable[[Any], tuple[Site, ...]]


def block(operation: Operation) -> Block:
    """Return the block that is just `operation`."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> tuple[Array, Residuals]:
        outputs, normalized = operation.forward(weights, inputs, statistics)
        return outputs, Residuals(weights, inputs, normalized)

    return Block(forward, operation.backward, lambda residuals: (operation.see(residuals),))


def mixture(operations: Mapping[str, Operation], alive: Sequence[int]) -> Block:
    """Return the sum of the operations at `alive`, one at least, each with weights of its name."""
    parts = {name: block(operations[name]) for name in (list(operations)[at] for at in alive)}

    def forward(weights: Weights, inputs: Array, statistics: Any) -> tuple[Array, Any]:
        outputs, saved = [], {}
        for name, part in parts.items():
            own, saved[name] = part.forward(
                weights.get(name, {}), inputs, (statistics or {}).get(name)
            )
            outputs.append(own)
        return add(*outputs), saved

    def backward(saved: Any, cotangent: Array, readings: Readings) -> tuple[Array, dict[str, Any]]:
        gradients: list[Array] = []
        kept: dict[str, Any] = {}
        for name, part in parts.items():
            own, of_part = part.backward(saved[name], cotangent, readings)
            gradients.append(own)
            kept |= {name: of_part} if of_part else {}
        return add(*gradients), kept

    def see(saved: Any) -> tuple[Site, ...]:
        return tuple(site for name, part in parts.items() for site in part.see(saved[name]))

    return Block(forward, backward, see)


def choose(operations: Mapping[str, Operation], decision: int | Array | Decision) -> Operation:
    """Return the operation at `decision`, by a call when it is concrete, by a switch when traced.

    The weights of the result are those of the named operations, each under its name; a concrete
    choice needs only its own.
    """
    if isinstance(decision, Decision):
        return _choose_in_bucket(operations, decision)
    if not isinstance(decision, int):
        return _switch(operations, decision)
    name = list(operations)[decision]
    chosen = operations[name]

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return chosen.forward(weights.get(name, {}), inputs, statistics)

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        own = residuals._replace(weights=residuals.weights.get(name, {}))
        gradient, kept = chosen.backward(own, cotangent, readings)
        return gradient, {name: kept} if kept else {}

    def see(residuals: Residuals) -> Site:
        return chosen.see(residuals._replace(weights=residuals.weights.get(name, {})))

    return Operation(forward, backward, see)


def _choose_in_bucket(operations: Mapping[str, Operation], decision: Decision) -> Operation:
    """Return the switch that a bucket takes together; in one branch of it, each its light one."""
    heavy = {name: own for name, own in operations.items() if own.heavy}
    light = {name: own for name, own in operations.items() if not own.heavy}
    among_light = [list(light).index(name) if name in light else 0 for name in operations]
    branch = [1 + list(heavy).index(name) if name in heavy else 0 for name in operations]
    any_light = _switch(light, jnp.array(among_light)[decision.own])
    return _switch({"light": any_light} | heavy, jnp.array(branch)[decision.shared])


def _switch(operations: Mapping[str, Operation], decision: Array) -> Operation:
    """Return the operation that switches inside the compiled program.

    All branches save the same residuals, or XLA would carry those of every branch along.
    """

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        plain = [
            functools.partial(operation.forward, weights.get(name, {}), inputs, None)
            for name, operation in operations.items()
        ]
        shapes = [jax.eval_shape(branch)[1] for branch in plain]
        shape = next((shape for shape in shapes if shape is not None), None)

        def alike(branch: Callable[[], Forward]) -> Forward:
            outputs, normalized = branch()
            return outputs, zeros(shape) if normalized is None else normalized

        return lax.switch(decision, [functools.partial(alike, branch) for branch in plain])

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        plain = {
            name: functools.partial(
                operation.backward,
                residuals._replace(weights=residuals.weights.get(name, {})),
                cotangent,
                readings,
            )
            for name, operation in operations.items()
        }
        shapes = {name: jax.eval_shape(plain[name])[1] for name in residuals.weights}

        def alike(name: str) -> Backward:
            gradient, kept = plain[name]()
            return gradient, zeros(shapes) | ({name: kept} if kept else {})

        return lax.switch(decision, [functools.partial(alike, name) for name in operations])

    def see(residuals: Residuals) -> Site:
        plain = [
            functools.partial(
                operation.see, residuals._replace(weights=residuals.weights.get(name, {}))
            )
            for name, operation in operations.items()
        ]
        shapes = [jax.eval_shape(branch) for branch in plain]
        shown = [
            next((own for own in field if own is not None), None)
            for field in zip(*shapes, strict=True)
        ]

        def alike(branch: Callable[[], Site]) -> Site:
            pairs = zip(branch(), shown, strict=True)
            return Site(
                *(zeros(shape) if own is None else jnp.asarray(own) for own, shape in pairs)
            )

        return lax.switch(decision, [functools.partial(alike, branch) for branch in plain])

    return Operation(forward, backward, see)


def repeat_forward(
    repeated: Block,
    weights: Sequence[Weights],
    inputs: Any,
    statistics: Sequence[Any],
    walk: bool,
) -> tuple[Any, Any]:
    """Apply a block once for each of `weights`; what is saved is a list, or stacked if scanned."""
    if walk or len(weights) == 1:
        saved = []
        for own_weights, own_statistics in zip(weights, statistics, strict=True):
            inputs, own = repeated.forward(own_weights, inputs, own_statistics)
            saved.append(own)
        return inputs, saved
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
    return lax.scan(lambda x, own: repeated.forward(own, x, None), inputs, stacked)


def repeat_backward(
    repeated: Block, saved: Any, cotangent: Any, readings: Readings
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the input gradient and what is kept of each repetition, first to last."""
    if isinstance(saved, list):
        kept = []
        for own in reversed(saved):
            cotangent, kept_of_own = repeated.backward(own, cotangent, readings)
            kept.append(kept_of_own)
        return cotangent, kept[::-1]
    cotangent, stacked = lax.scan(
        lambda g, own: repeated.backward(own, g, readings), cotangent, saved, reverse=True
    )
    count = jax.tree.leaves(saved)[0].shape[0]
    return cotangent, [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)]


def add(first: Array, *others: Array) -> Array:
    """Return the sum of the activations that meet in a node."""
    return _sum(first, *others) if others else first


@jax.jit
def _sum(first: Array, *others: Array) -> Array:
    return sum(others, start=first)


def zeros(shapes: Any) -> Any:
    """Return zeros for a pytree of things with a shape and a dtype."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
