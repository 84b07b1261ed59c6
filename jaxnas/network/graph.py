"""A network, written forwards once: a function of `net`, activations and an architecture.

    def forward(net, x, arch):
        x = net.stage("stem", conv_norm(features=16), x)
        x = net.repeat("cell", 5, functools.partial(cell, arch), x)
        return net.stage("classifier", dense(features=10), x)

`record` calls it on shapes and keeps the steps: which operation is applied to what, and where its
weights are. Everything else follows from the steps: which tensors there are, what the network
costs, and the ways to run it (`eager`, `compiled`).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.network import architectures
from jaxnas.network.normalization import Mode
from jaxnas.network.operations import (
    IDENTITY,
    NONE,
    Description,
    Operation,
    Weights,
    describe,
    of_input,
)
from jaxnas.types import Array

Path = tuple[str, ...]
Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """Activations that will be: what a forward function passes on.

    Attributes:
        shape: of the activations, `(B, ...)`.
        dtype: of the activations.
        is_zero: whether they are zeros, because nothing leads to them.
        given: a number that follows from an architecture, instead of activations; or None.
    """

    shape: tuple[int, ...]
    dtype: Any
    is_zero: bool = False
    given: Array | np.ndarray | None = None


class Add:
    """The sum of what leads to a node; it has no weights, and its gradient is no computation."""

    def __call__(self, weights: Weights, *xs: Array) -> Array:
        """Return the sum."""
        return sum(xs[1:], start=xs[0])


class Switch(NamedTuple):
    """An operation that a traced decision chooses; see `compiled.switch`.

    Attributes:
        operations: in order, each with the name of its weights; some may share weights.
        decision: `int32[]`, or the `Decision` of a bucket.
    """

    operations: tuple[tuple[str, Operation], ...]
    decision: Any


class Repeat(NamedTuple):
    """A part of a network, one time after the other; see `compiled.repeat`.

    Attributes:
        names: of the weights of each time.
        body: the steps of one time.
    """

    names: tuple[str, ...]
    body: "Graph"


ADD = Add()
Part = Operation | Add | Switch | Repeat


class Step(NamedTuple):
    """One step of a network.

    Attributes:
        part: what is done.
        path: of the weights of the step.
        inputs: what the step reads.
        outputs: what it gives; several of a `Repeat` that passes several on.
        stage: name of the stage that it belongs to.
        reads: names of the weights at the path that an `Operation` reads; others are not its.
    """

    part: Part
    path: Path
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    stage: str
    reads: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The steps of a network, or of a part of it.

    Attributes:
        inputs: what it is given.
        outputs: what it gives.
        steps: all steps, in order.
        norm: mode of its normalization layers.
        macs: multiply-accumulates of one example besides those that the operations count.
        names: of its stages, in order, also of those that compute nothing.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    norm: Mode
    macs: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()

    @functools.cached_property
    def live(self) -> tuple[Step, ...]:
        """The steps that the outputs depend on."""
        needed = set(self.outputs)
        found = []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs):
                needed.update(step.inputs)
                found.append(step)
        return tuple(found[::-1])

    def start(self, inputs: tuple[Array, ...]) -> dict[Value, Any]:
        """Return the activations that are there before the first step, of `run` and the like."""
        values: dict[Value, Any] = dict(zip(self.inputs, inputs, strict=True))
        for value in self._constants:
            values[value] = _zeros(value.shape, value.dtype) if value.given is None else value.given
        return values

    @functools.cached_property
    def _constants(self) -> tuple[Value, ...]:
        """The values that no step gives: zeros, and numbers that follow from an architecture."""
        read = (*self.outputs, *(value for step in self.live for value in step.inputs))
        constant = (value for value in read if value.is_zero or value.given is not None)
        return tuple(dict.fromkeys(constant))

    @functools.cached_property
    def with_features(self) -> "Graph":
        """The same network, which also gives what its last step reads: the features."""
        features = self.steps[-1].inputs[0]
        return dataclasses.replace(self, outputs=(*self.outputs, features))

    @functools.cached_property
    def is_traced(self) -> bool:
        """Whether steps depend on a traced architecture."""
        return any(isinstance(step.part, Switch | Repeat) for step in self.steps)

    @functools.cached_property
    def tensors(self) -> dict[str, Any]:
        """The tensors of all steps, also of those that are not live: nested `Tensor`s."""
        found: dict[str, Any] = {}
        for step in self.steps:
            for path, description in described(step, self.norm):
                at = found
                for name in path if description.tensors else ():
                    at = at.setdefault(name, {})
                at.update(description.tensors)
        return found

    def costs(self, of: Callable[[Description], int]) -> list[Any]:
        """Return what each step costs; traced where a traced decision chooses.

        Those of all steps count, also of those that are not live, as benchmarks count them.
        """
        return [cost for step in self.steps for cost in _costs(step, self.norm, of)]

    def stages(self) -> "list[Graph]":
        """Return the live steps of each stage as a network of its own, first to last."""
        groups = [[step for step in self.live if step.stage == name] for name in self.names]
        found = []
        given = self.inputs
        for position, steps in enumerate(groups):
            later = {value for group in groups[position + 1 :] for s in group for value in s.inputs}
            passed = [value for step in steps for value in step.outputs]
            wanted = later.union(self.outputs)
            kept = tuple(value for value in (*given, *passed) if value in wanted)
            if kept:  # or nothing so far leads to the outputs
                found.append(Graph(given, kept, tuple(steps), self.norm))
                given = kept
        return found


def described(step: Step, norm: Mode) -> Iterator[tuple[Path, Description]]:
    """Yield the path and the description of each operation of a step."""
    part = step.part
    shapes = tuple(Shape(value.shape, value.dtype) for value in step.inputs)
    if isinstance(part, Operation):
        yield step.path, describe(part, shapes, norm)
    elif isinstance(part, Switch):
        for name, chosen in part.operations:
            yield (*step.path, *filter(None, [name])), describe(chosen, shapes, norm)
    elif isinstance(part, Repeat):
        for name in part.names:
            for inner in part.body.steps:
                for path, description in described(inner, norm):
                    yield (name, *path[1:]), description


def _costs(step: Step, norm: Mode, of: Callable[[Description], int]) -> list[Any]:
    if isinstance(step.part, Repeat):
        return len(step.part.names) * step.part.body.costs(of)
    each = [of(description) for _, description in described(step, norm)]
    if isinstance(step.part, Switch):
        return [jnp.array(each)[architectures.each(step.part.decision)]]
    return each


class Net:
    """What a forward function is written with; it records the steps.

    Attributes:
        scans: whether repetitions are one step, a scan; of a traced architecture they may be.
    """

    def __init__(self, norm: Mode, *, scans: bool = False) -> None:
        """Start without any step."""
        self.norm = norm
        self.scans = scans
        self.steps: list[Step] = []
        self.macs: list[Any] = []
        self._path: Path = ()
        self._stage = ""
        self.names: list[str] = []

    def __call__(self, part: Operation, *xs: Value, name: str = "") -> Value:
        """Apply an operation, whose weights have that name (with slashes) in the present stage."""
        shapes = tuple(Shape(x.shape, x.dtype) for x in xs)
        description = describe(part, shapes, self.norm)
        reads = tuple(description.tensors)
        return self._step(part, self._at(name), xs, description.output, reads)

    def add(self, *xs: Value) -> Value:
        """Add the activations that meet in a node."""
        terms = [x for x in xs if not x.is_zero]
        if len(terms) < 2:
            return terms[0] if terms else xs[0]
        return self._step(ADD, self._at(""), tuple(terms), terms[0])

    def zeros(self, like: Value | Shape, features: int | None = None) -> Value:
        """Return zeros: what a node is that nothing leads to; with so many channels if not None."""
        shape = like.shape if features is None else (*like.shape[:-1], features)
        return Value(shape, like.dtype, is_zero=True)

    def given(self, number: Any) -> Value:
        """Return a number that follows from an architecture, for operations to read."""
        array = number if isinstance(number, jax.Array) else np.asarray(number)
        return Value(array.shape, array.dtype, given=array)

    def cost(self, macs: Any) -> None:
        """Count multiply-accumulates of one example that follow from a traced architecture."""
        self.macs.append(macs)

    def choose(
        self,
        name: str,
        offered: Mapping[str, Operation] | Sequence[tuple[str, Operation]],
        decision: Any,
        *xs: Value,
    ) -> Value:
        """Apply the operation of a decision, whose weights are `name/operation`.

        Args:
            name: of the place.
            offered: the operations in order, by name; in pairs where some share a name, and so
                weights. One without a name has its weights under `name` itself.
            decision: the position of one, concrete or traced; or those of several, to be added.
            *xs: what the operation reads.
        """
        pairs = tuple(offered.items() if isinstance(offered, Mapping) else offered)
        if isinstance(decision, tuple) and not isinstance(decision, architectures.Decision):
            return self.add(*(self.choose(name, pairs, alive, *xs) for alive in decision))
        if not isinstance(decision, int):
            shapes = tuple(Shape(x.shape, x.dtype) for x in xs)
            given = describe(pairs[-1][1], shapes, self.norm).output
            return self._step(Switch(pairs, decision), self._at(name), xs, given)
        of_weights, chosen = pairs[decision]
        if chosen.function is NONE.function:
            shapes = tuple(Shape(x.shape, x.dtype) for x in xs)
            return self.zeros(describe(chosen, shapes, self.norm).output)
        if chosen == IDENTITY:
            return xs[0]
        return self(chosen, *xs, name=f"{name}/{of_weights}")

    def select(self, decision: Any, *xs: Value) -> Value:
        """Return the activations at the position that a decision names, of several of one shape."""
        if isinstance(decision, int):
            return xs[decision]
        offered = [("", of_input(position=position)) for position in range(len(xs))]
        return xs[0] if len(xs) == 1 else self.choose("", offered, decision, *xs)

    def stage(self, name: str, part: Any, *xs: Value, scoped: bool = True) -> Any:
        """Apply a stage of the network: an operation, or a function of `net` and activations.

        Its weights are under its name and number, such as `01_cell`; if it is not scoped, under
        the names of its operations alone.
        """
        self._stage = self._named(name)
        self._path = (self._stage,) if scoped else ()
        outputs = self(part, *xs) if isinstance(part, Operation) else part(self, *xs)
        self._path = ()
        return outputs

    def repeat(self, name: str, count: int, part: Callable[..., Any], *xs: Value) -> Any:
        """Apply a stage that gives what it is given so many times, each with weights of its own.

        Args:
            name: of the stages.
            count: how many there are.
            part: a function of `net` and activations.
            *xs: what the first is given.
        """
        if count < 2 or not self.scans:
            given: Any = xs if len(xs) > 1 else xs[0]
            for _ in range(count):
                given = self.stage(name, part, *xs)
                xs = given if isinstance(given, tuple) else (given,)
            return given
        names = tuple(self._named(name) for _ in range(count))
        inner = Net(self.norm)
        inputs = tuple(Value(x.shape, x.dtype) for x in xs)
        inner._path, inner._stage = (name,), name
        given = part(inner, *inputs)
        outputs = given if isinstance(given, tuple) else (given,)
        body = Graph(inputs, outputs, tuple(inner.steps), self.norm)
        results = tuple(Value(x.shape, x.dtype) for x in xs)
        stage = names[0]
        self.steps.append(Step(Repeat(names, body), (stage,), xs, results, stage))
        self.macs += count * inner.macs
        return results if isinstance(given, tuple) else results[0]

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put the weights of what is applied inside under a name (with slashes)."""
        before = self._path
        self._path = self._at(name)
        yield
        self._path = before

    def _named(self, stage: str) -> str:
        self.names.append(f"{len(self.names):02d}_{stage}")
        return self.names[-1]

    def _at(self, name: str) -> Path:
        return (*self._path, *filter(None, name.split("/")))

    def _step(
        self,
        part: Part,
        path: Path,
        inputs: tuple[Value, ...],
        given: Any,
        reads: tuple[str, ...] = (),
    ) -> Value:
        output = Value(given.shape, given.dtype)
        self.steps.append(Step(part, path, inputs, (output,), self._stage, reads))
        return output


@functools.partial(jax.jit, static_argnums=(0, 1))
def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.zeros(shape, dtype)


Forward = Callable[[Net, Value, Any], Value | tuple[Value, ...]]


def record(
    forward: Forward, arch: Any, inputs: Shape, norm: Mode, *, unrolled: bool = False
) -> Graph:
    """Return the steps of a network for inputs `[B, ...]`; `unrolled` ones have no scan."""
    net = Net(norm, scans=architectures.is_traced(arch) and not unrolled)
    given = Value(inputs.shape, inputs.dtype)
    output = forward(net, given, arch)
    outputs = output if isinstance(output, tuple) else (output,)
    return Graph((given,), outputs, tuple(net.steps), norm, tuple(net.macs), tuple(net.names))
