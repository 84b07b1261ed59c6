"""The few types that every floor knows: architectures, networks, scores and strategies.

Letters in shapes, everywhere in jaxnas: `A` architectures, `D` decisions, `B` examples of a batch,
`K` classes, `L` parameter tensors, `S` seeds, `T` evaluations of a search.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array
Params = Any
"""A pytree of arrays."""


def is_floating(value: Any) -> bool:
    """Return whether an array, or the shape of one, holds floating numbers, and not tokens."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def wide(array: Array) -> Array:
    """Return an array in float32 or more, so that sums of half precision are not rounded."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


class Batch(NamedTuple):
    """Labeled examples.

    Attributes:
        inputs: `[B, ...]`; images are `[B, H, W, C]`, already normalized.
        labels: `int32[B]`, in `[0, K)`; or `tasks.Targets`, labels of another kind with their loss.
    """

    inputs: Any
    labels: Any

    def __repr__(self) -> str:
        return f"Batch(inputs={_shapes(self.inputs)}, labels={_shapes(self.labels)})"

    @property
    def size(self) -> int:
        """The number of examples, B."""
        return int(jax.tree.leaves(self.inputs)[0].shape[0])


def _shapes(tree: Any) -> str:
    """Return the types and shapes of the arrays of a tree, in a line."""
    found = [
        f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
        for leaf in jax.tree.leaves(tree)
    ]
    return found[0] if len(found) == 1 else f"({', '.join(found)})"


class Outputs(NamedTuple):
    """What a network gives for a batch; fields that nobody reads vanish under `jax.jit`.

    Attributes:
        logits: `[B, K]`, before any softmax.
        features: `[B, F]`, the input of the classifier, or None.
        statistics: a pytree of the batch statistics of the normalization layers, or (); no
            gradient passes through it.
    """

    logits: Array
    features: Array | None = None
    statistics: Any = ()


ApplyFn = Callable[[Params, Array], Outputs | Array]
"""`apply_fn(params, inputs)`: `Outputs`, or the bare logits `[B, K]`."""


class Statistic(NamedTuple):
    """What to keep of the gradients of one parameter tensor, taken while they exist.

    Static under `jax.jit`: use a module-level function.

    Attributes:
        keep: `keep(tensor, gradients)`: a pytree of floating arrays.
        per_example: whether `gradients` are those of each example, `[B, *shape]`, or their sum.
        additive: whether what it keeps of a tensor is the sum of what it keeps of its parts, of
            any shape, as of a Gram matrix; then large gradients need not exist as a whole.
    """

    keep: Callable[[Array, Array], Any]
    per_example: bool = True
    additive: bool = False

    def __call__(self, tensor: Array, gradients: Array) -> Any:
        """Return what is kept, taken in float32 or more, whatever the network computes in."""
        return self.keep(wide(tensor), wide(gradients))


Statistics = tuple[Statistic, ...]

Pullback = Callable[[Array, Statistics], tuple[Params, ...]]
"""`pullback(cotangent, statistics)`: for each statistic a pytree like the parameters, of what it
keeps of the gradients of `sum(logits * cotangent)`; `cotangent` is `[B, K]`. One backward pass."""


@runtime_checkable
class PerExampleDifferentiable(Protocol):
    """An `ApplyFn` that brings a per-example backward pass.

    Statistics are taken layer by layer during the pass, so the per-example gradients of the whole
    network never exist at the same time. `gradients.per_example_vjp` uses it where it is offered.
    """

    def __call__(self, params: Params, inputs: Array) -> Outputs | Array:
        """Return the outputs for `inputs` `[B, ...]`."""

    def per_example_vjp(
        self, params: Params, inputs: Array, statistics: Statistics
    ) -> tuple[Outputs, Pullback]:
        """Return the outputs, and the pullback to any of these statistics."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value", "alive"], meta_fields=["kind", "path"]
)
@dataclasses.dataclass(frozen=True)
class Shown:
    """A value inside a network that somebody wanted to see.

    Attributes:
        kind: `preactivation`, the input `[B, ...]` of an activation; `map`, what a layer gives;
            `variance`, `[C]` or of other groups, what a normalization takes out; or `running`, the
            statistics of a batch.
        path: of the weights beside it.
        value: an array, or a pytree of arrays.
        alive: `bool[]`; False if the architecture does not have the operation. `bool[C]` where it
            has some of the channels. A compiled program shows everything that its architectures
            could have.
    """

    kind: str
    path: tuple[str, ...]
    value: Any
    alive: Any = True

    def under(self, path: tuple[str, ...]) -> "Shown":
        """Return the same at a longer path."""
        return dataclasses.replace(self, path=(*path, *self.path))


class Passed(NamedTuple):
    """What a stage of a network gave for its inputs.

    Attributes:
        outputs: the inputs of the next stage, a tuple; of the last one, the logits `[B, K]` alone.
        shown: the inputs of its activations, and what its layers normalize, in order.
        pullback: `pullback(cotangents, statistics) -> (input_gradients, kept)`: tuples like the
            outputs and the inputs, None for what does not count; and what statistics keep of the
            tensors of the stage, a pytree.
    """

    outputs: tuple[Array, ...]
    shown: list[Shown]
    pullback: Callable[[tuple[Array | None, ...], Statistics], tuple[Any, Any]]


Stage = Callable[[tuple[Array, ...]], Passed]


@runtime_checkable
class Staged(Protocol):
    """An `ApplyFn` that can be run stage by stage, and looked into. See `activations.stages`."""

    def __call__(self, params: Params, inputs: Array) -> Outputs | Array:
        """Return the outputs for `inputs` `[B, ...]`."""

    def stages(
        self, params: Params, inputs: Array, statistics: Statistics, *, normalized: bool = True
    ) -> list[Stage]:
        """Return the stages, first to last, for inputs of that shape.

        Args:
            params: of the network.
            inputs: an array, or its shape.
            statistics: what their pullbacks may be asked to keep.
            normalized: False leaves out the normalization layers, and shows nothing.
        """


class TrainableFn(Protocol):
    """One architecture of a search space as an `ApplyFn`, which can also be trained and judged."""

    def __call__(self, params: Params, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs; `statistics` are running ones (as in `Outputs`) for evaluation."""


class Cell(NamedTuple):
    """A part of a network as a graph, for a drawing: nodes, and operations on edges between them.

    Attributes:
        edges: `(source, target, operation)` with `source < target`; without those that carry
            nothing. The operation is "" where the nodes say what is done.
        nodes: names of the nodes along the flow; inputs come first, and the output is the last.
        operations: all operations of the space, so that each keeps its color from cell to cell;
            without them, colors follow those of this cell in alphabetical order.
        inputs: how many nodes are inputs.
    """

    edges: Sequence[tuple[int, int, str]]
    nodes: Sequence[str]
    operations: Sequence[str] = ()
    inputs: int = 1


class SearchSpace(NamedTuple):
    """A set of architectures, and one network that can be any of them.

    Attributes:
        name: the field's name of the space.
        num_choices: decision `i` of an architecture is in `[0, num_choices[i])`.
        init: `init(key, inputs) -> params`, for the whole space at once.
        bind: `bind(arch, params) -> (network, params)`: one architecture `int32[D]` as a network,
            and the parameters that it reads. A concrete architecture reads only its live tensors; a
            traced one, or a bucket of them, reads them all and switches inside the program.
        to_string: the space's own notation of a concrete architecture.
        from_string: its inverse; raises `ValueError` for anything else.
        is_connected: whether a gradient can pass from the output to the input; of one architecture,
            concrete or traced.
        representative: the architecture `int32[D]` that stands for all that are the same function
            of the input, up to the names of their weights; of a concrete architecture.
        num_params: exact number of trainable parameters of a concrete architecture.
        options: everything else that determines a score (width, depth, normalization, ...).
        pattern: architectures `int32[A, D]` without their light operations; those with one pattern
            are a `network.Bucket`, which a compiled program runs as a batch. None for a space
            whose `bind` knows no buckets: there any architectures are a batch.
        is_traceable: False where `bind` takes concrete architectures only, whose networks have
            different shapes: they are run eagerly, and each is validated by itself.
        num_params_for: `num_params_for(inputs)` gives `num_params` where it depends on the shape of
            the inputs; None where it does not.
        cells: what to draw of a concrete architecture, by title; None where its notation says all.
        module: `module(arch)`: a concrete architecture alone, as a model to train elsewhere: a Flax
            module, `module.init(key, inputs)`, or whatever builds a family. None where a network
            is more than that, as one that is pre-trained.
        is_legal: whether a concrete architecture is one of the space; None where all decisions are.
    """

    name: str
    num_choices: tuple[int, ...]
    init: Callable[[Array, Array], Params]
    bind: Callable[[Any, Params], tuple[TrainableFn, Params]]
    to_string: Callable[[ArrayLike], str]
    from_string: Callable[[str], Any]
    is_connected: Callable[[ArrayLike], ArrayLike]
    representative: Callable[[ArrayLike], np.ndarray]
    num_params: Callable[[ArrayLike], int]
    options: Mapping[str, Any]
    pattern: Callable[[ArrayLike], np.ndarray] | None = None
    is_traceable: bool = True
    num_params_for: Callable[[Any], Callable[[ArrayLike], int]] | None = None
    cells: Callable[[ArrayLike], Mapping[str, Cell]] | None = None
    module: Callable[[ArrayLike], Any] | None = None
    is_legal: Callable[[ArrayLike], ArrayLike] | None = None

    def legal(self, archs: np.ndarray) -> np.ndarray:
        """Return those of the architectures `int32[A, D]` that are networks of the space."""
        if self.is_legal is None:
            return archs
        return archs[np.array([self.is_legal(arch) for arch in archs], bool)]

    def __repr__(self) -> str:
        count = math.prod(self.num_choices)
        size = f"{count:,}" if count < 10**7 else f"about 10^{math.log10(count):.0f}"
        return f"SearchSpace({self.name}, {len(self.num_choices)} decisions, {size} architectures)"


Measure = Callable[[ApplyFn, Params, Batch, Array], Any]
"""`measure(apply_fn, params, batch, key)`: a pytree of arrays."""


class Proxy(NamedTuple):
    """A training-free score, in two steps; larger is better, always.

    Attributes:
        name: as in flags, tables and plots.
        measure: `measure(apply_fn, params, batch, key)`: the expensive step, a pytree of arrays.
            Proxies that share a measure share its cost.
        reduce: `reduce(measurement) -> float[]`: the mathematics. `-inf` says that there is nothing
            to score (no gradient reaches any tensor); `nan` that the network is not finite.
    """

    name: str
    measure: Measure
    reduce: Callable[[Any], Array]

    def __repr__(self) -> str:
        return f"Proxy({self.name})"

    def __call__(
        self, apply_fn: ApplyFn, params: Params, batch: Batch, *, key: Array | None = None
    ) -> Array:
        """Return the score of one network, `float[]`."""
        key = jax.random.key(0) if key is None else key
        return self.reduce(self.measure(apply_fn, params, batch, key))


class Kernels(NamedTuple):
    """Both kernels of one network of infinite width, as arrays of JAX or of NumPy.

    Attributes:
        nngp: `[B, B]` between inputs, `[B, B']` against others, or with the pixels of a node behind
            it, `[B, B, H, W, H, W]`: of the outputs over draws of the weights.
        ntk: of the same shape: of the gradients.
    """

    nngp: Any
    ntk: Any


class SearchStrategy(NamedTuple):
    """A black-box maximizer over architectures, as three pure functions.

    Attributes:
        init: `init(key) -> state`.
        ask: `ask(key, state) -> int32[D]`, the architecture to evaluate next.
        tell: `tell(state, arch, score) -> state`; a `-inf` score is legal and worst.
    """

    init: Callable[[Array], Any]
    ask: Callable[[Array, Any], Array]
    tell: Callable[[Any, Array, Array], Any]


FAILED = "failed: "
"""How the status of a score begins when something was raised; the reason follows."""

ScoreFn = Callable[[Any], Any]
"""`score_fn(archs)`: scores `[A]` of the architectures `int32[A, D]`; larger is better."""
