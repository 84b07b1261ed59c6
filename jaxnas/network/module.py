"""A network of a space as a Flax module that takes the architecture as data."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from jaxnas import gradients
from jaxnas.network import architectures, compiled, eager, graph, tensors
from jaxnas.network.architectures import Arch, StaticArch, SuperArch
from jaxnas.network.graph import Graph, Net, Value
from jaxnas.network.normalization import Mode
from jaxnas.network.operations import Context
from jaxnas.network.tensors import Tensor
from jaxnas.types import (
    Array,
    Outputs,
    Params,
    Passed,
    Pullback,
    Shown,
    Stage,
    Statistics,
    is_floating,
)

MOMENTUM = 0.9
"""Share of the running statistics that survives a call of the Flax module in training."""


class Network(nn.Module):
    """All networks of a space in one; a space's class derives from it and says `forward`.

    `init(key, x, arch)` draws the parameters of all operations, `apply(variables, x, arch)` runs
    one architecture. With `norm="batch"` and `mutable=["batch_stats"]` the running statistics of a
    concrete architecture are updated; `norm="eval"` reads them.

    Attributes:
        norm: mode of the normalization layers.
        colors: channels of the images.
    """

    norm: Mode = "batch"
    colors: int = 3

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        raise NotImplementedError

    def num_decisions(self) -> int:
        """Return how many decisions an architecture has."""
        raise NotImplementedError

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless the network can read the inputs."""

    @nn.compact
    def __call__(self, inputs: Array, arch: ArrayLike) -> Outputs:
        """Return the outputs of an architecture for `inputs` `[B, ...]`.

        Args:
            inputs: images.
            arch: `int32[D]`; a concrete one reads only the parameters of its operations, a traced
                one switches between all.
        """
        if self.is_initializing():
            self.declare(inputs)
        return _apply(self, self.bound(arch), inputs)

    @nn.compact
    def declare(self, inputs: Array) -> None:
        """Declare the parameters of all operations, for inputs of that shape."""
        self.validate(inputs)
        _declare(self, whole(self, _shape(inputs)).tensors, inputs)

    def bound(self, arch: ArrayLike | Arch) -> "BoundNetwork":
        """Return the network of one architecture, which takes parameters and inputs."""
        if isinstance(arch, StaticArch | SuperArch | architectures.Bucket):
            return BoundNetwork(self.clone(parent=None), arch)
        if isinstance(arch, jax.core.Tracer):
            architectures.validate_traced(arch, self.num_decisions())
            return BoundNetwork(self.clone(parent=None), arch)
        return BoundNetwork(self.clone(parent=None), StaticArch(np.asarray(arch).tolist()))


class Architecture(nn.Module):
    """One architecture of a space alone: a Flax module with no parameters but its own.

    Attributes:
        network: of the space.
        arch: the decisions.
    """

    network: Network
    arch: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: Array) -> Outputs:
        """Return the outputs for `inputs` `[B, ...]`; see `Network`."""
        network = self.network.clone(parent=None)
        bound = BoundNetwork(network, StaticArch(self.arch))
        if self.is_initializing():
            network.validate(inputs)
            _declare(self, bound.graph(_shape(inputs)).tensors, inputs)
        return _apply(self, bound, inputs)


def _declare(module: nn.Module, spec: tensors.Tensors, inputs: Array) -> None:
    dtype = inputs.dtype if is_floating(inputs) else jnp.float32
    for name, declared in spec.items():
        module.param(name, functools.partial(tensors.initialize, declared, dtype))


def _apply(module: nn.Module, bound: "BoundNetwork", inputs: Array) -> Outputs:
    running = module.variables.get("batch_stats")
    mode = bound.module.norm
    params = module.variables["params"]
    if not architectures.is_traced(bound.arch):
        params = pick(params, bound.graph(_shape(inputs)).tensors)
    outputs = bound(params, inputs, running if mode == "eval" else None)
    if mode == "batch" and module.is_mutable_collection("batch_stats"):
        for name, new in dict(outputs.statistics).items():
            initial = functools.partial(_start, new)
            old = module.variable("batch_stats", name, initial)
            if not module.is_initializing():
                old.value = jax.tree.map(
                    lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new, old.value, new
                )
    return outputs


def _start(statistics: Any) -> Any:
    """Return running statistics before the first batch: mean 0 and variance 1."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, float(path[-1].key == "var")), statistics
    )


@dataclasses.dataclass(frozen=True)
class BoundNetwork:
    """A network with its architecture filled in: `PerExampleDifferentiable`, and `Staged`.

    Attributes:
        module: all networks of the space.
        arch: the architecture.
        frozen: tensors that it reads beside its parameters, nested by name, of which no score reads
            the gradient; None if there are none.
    """

    module: Network
    arch: Arch
    frozen: Params | None = None

    def __call__(
        self, params: Params, inputs: Array, statistics: Any = None, key: Array | None = None
    ) -> Outputs:
        """Return the outputs for `inputs` `[B, ...]`.

        Args:
            params: those that the architecture reads; a traced one reads those of all operations.
            inputs: images.
            statistics: running statistics (as in `Outputs.statistics`) for the mode `eval` of a
                concrete architecture; mean 0 and variance 1 if None.
            key: of the dropout in training, where there are no running statistics; None drops
                nothing.

        Raises:
            ValueError: `statistics` in another mode, or for a traced architecture.
        """
        self.module.validate(inputs)
        mode = self.module.norm
        if statistics is not None and not (mode == "eval" and isinstance(self.arch, StaticArch)):
            raise ValueError(
                "Running statistics belong to one trained network in eval mode: got them in mode "
                f"{mode!r} for a {type(self.arch).__name__}; bind a concrete architecture."
            )
        steps = self.graph(_shape(inputs)).with_features
        params = self._all(params)
        if steps.is_traced or key is not None:
            (logits, features), _ = compiled.run(steps, Context(mode), params, None, (inputs,), key)
            return Outputs(logits, features)
        watched = () if mode == "none" else ("running",)
        context = Context(mode, watched=watched)
        (logits, features), shown = eager.run(steps, context, params, (inputs,), statistics)
        return Outputs(logits, features, _nested(shown))

    def per_example_vjp(
        self, params: Params, inputs: Array, statistics: Statistics
    ) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients; see `types.Pullback`.

        In the mode that couples examples (`batch`) these are the contributions of each example to
        the gradient of the batch, input times back-propagated error layer by layer; in all others
        they are what a loop over the examples gives.
        """
        self.module.validate(inputs)
        steps = self.graph(_shape(inputs)).with_features
        context = Context(self.module.norm, statistics)
        passed = _run_stage(steps, context, self._all(params), (inputs,))

        def pullback(cotangent: Array, chosen: Statistics) -> tuple[Params, ...]:
            kept = passed.pullback((cotangent, None), chosen)[1]
            nothing = functools.partial(_of_nothing, statistics=chosen, examples=len(inputs))
            return gradients.by_statistic(_fill(params, kept, nothing), chosen, params)

        return Outputs(*passed.outputs), pullback

    def stages(
        self, params: Params, inputs: Array, statistics: Statistics, *, normalized: bool = True
    ) -> list[Stage]:
        """Return the stages of the network; see `types.Staged`."""
        mode = self.module.norm if normalized else "none"
        whole = self.graph(_shape(inputs), mode, unrolled=True)
        watched = ("preactivation", "variance") if normalized else ()
        context = Context(mode, statistics, watched)
        params = self._all(params)
        return [
            functools.partial(_run_stage, steps, context, compiled.subtree(params, steps))
            for steps in whole.stages()
        ]

    def maps(self, params: Params, inputs: Array) -> list[Shown]:
        """Return the outputs `[B, ...]` of all layers, and behind them that of each stage.

        Of several that a stage passes on it is the last. A layer is a convolution, a normalization,
        a ReLU or a pooling. What a traced architecture does not have is not alive.
        """
        context = Context(self.module.norm, watched=("map",))
        found: list[Shown] = []
        given: tuple[Array, ...] = (inputs,)
        params = self._all(params)
        for steps in self.graph(_shape(inputs), unrolled=True).stages():
            weights = compiled.subtree(params, steps)
            if steps.is_traced:
                given, shown = compiled.run(steps, context, weights, None, given)
            else:
                given, shown = eager.run(steps, context, weights, given)
            found += [*shown, Shown("map", (), given[-1])]
        return found

    def num_macs(self, params: Params, inputs: Any) -> ArrayLike:
        """Return the multiply-accumulates for one example, of dead operations too.

        Those of a traced architecture are added as floats: they may exceed 32 bits.
        """
        steps = self.graph(_shape(inputs))
        costs = [*steps.costs(lambda described: described.macs), *steps.macs]
        return sum(cost if isinstance(cost, int) else cost.astype(float) for cost in costs)

    def _all(self, params: Params) -> Params:
        return params if self.frozen is None else {**params, **self.frozen}

    def graph(
        self, inputs: jax.ShapeDtypeStruct, norm: Mode | None = None, *, unrolled: bool = False
    ) -> Graph:
        """Return the steps of the network for inputs of that shape."""
        norm = self.module.norm if norm is None else norm
        if architectures.is_traced(self.arch):
            return graph.record(self.module.forward, self.arch, inputs, norm, unrolled=unrolled)
        return _record(self.module, self.arch, inputs, norm)


def whole(module: Network, inputs: jax.ShapeDtypeStruct) -> Graph:
    """Return the steps of all networks of a space: those of a traced architecture."""
    found: list[Graph] = []

    def record(arch: Array) -> None:
        found.append(graph.record(module.forward, arch, inputs, module.norm))

    jax.eval_shape(record, jax.ShapeDtypeStruct((module.num_decisions(),), jnp.int32))
    return found[0]


@functools.lru_cache(64)
def count_params(module: Network, inputs: jax.ShapeDtypeStruct) -> Callable[[ArrayLike], int]:
    """Return `num_params(arch)` of concrete architectures, by one program for all of them."""

    @jax.jit
    def by_step(arch: Array) -> Array:
        steps = graph.record(module.forward, arch, inputs, module.norm)
        return jnp.stack(list(map(jnp.asarray, steps.costs(lambda described: described.params))))

    return lambda arch: int(np.asarray(by_step(np.asarray(arch, np.int32))).sum(dtype=np.int64))


def pick(params: Params, spec: tensors.Tensors) -> Params:
    """Return the parameters that have a name in `spec`, such as those that a network reads.

    A tensor that is larger than its specification is cut to its first entries. What was drawn from
    +- 1 / sqrt(fan_in) is then rescaled as if drawn for the smaller fan-in, the product of all axes
    but the last.
    """
    read = {
        name: params[name] if isinstance(wanted, Tensor) else pick(params[name], wanted)
        for name, wanted in spec.items()
    }
    larger = {
        name: wanted
        for name, wanted in spec.items()
        if isinstance(wanted, Tensor) and read[name].shape != wanted.shape
    }
    for name, wanted in larger.items():
        shape = read[name].shape
        if len(shape) != len(wanted.shape) or not all(map(operator.ge, shape, wanted.shape)):
            raise ValueError(
                f"Parameters must be those of the space: got {name!r} {list(shape)} where "
                f"{list(wanted.shape)} belongs; use the space's init."
            )
    if larger:
        read |= _cut({name: read[name] for name in larger}, tuple(larger.items()))
    return read


@functools.partial(jax.jit, static_argnames="wanted")
def _cut(whole: dict[str, Array], wanted: tuple[tuple[str, Tensor], ...]) -> dict[str, Array]:
    found = {}
    for name, tensor in wanted:
        found[name] = whole[name][tuple(slice(size) for size in tensor.shape)]
        if tensor.fan_in:
            ratio = math.prod(whole[name].shape[:-1]) / math.prod(tensor.shape[:-1])
            found[name] *= ratio**0.5
    return found


@functools.lru_cache(256)
def _record(module: Network, arch: Arch, inputs: jax.ShapeDtypeStruct, norm: Mode) -> Graph:
    return graph.record(module.forward, arch, inputs, norm)


def _run_stage(steps: Graph, context: Context, params: Params, inputs: tuple[Array, ...]) -> Passed:
    """Return what a network or a stage of it gives, with its pullback."""
    plan = compiled if steps.is_traced else eager
    return plan.differentiate(steps, context, params, inputs)


def _nested(shown: list[Shown]) -> dict[str, Any]:
    """Return the running statistics that were shown, nested by path."""
    found: dict[str, Any] = {}
    for value in shown:
        at = found
        for name in value.path[:-1]:
            at = at.setdefault(name, {})
        at[value.path[-1]] = value.value
    return found


def _fill(params: Params, kept: Any, nothing: Any) -> list[Any]:
    """Return what is kept of each tensor in order, `nothing(tensor)` where no gradient reaches."""
    if not isinstance(params, Mapping):
        return [nothing(params) if kept is None else kept]
    found = {} if kept is None else kept
    return [
        leaf for name in sorted(params) for leaf in _fill(params[name], found.get(name), nothing)
    ]


@functools.partial(jax.jit, static_argnames=("statistics", "examples"))
def _of_nothing(tensor: Array, *, statistics: Statistics, examples: int) -> Any:
    return tuple(
        statistic(
            tensor,
            jnp.zeros((examples,) * statistic.per_example + tensor.shape, tensor.dtype),
        )
        for statistic in statistics
    )


def _shape(inputs: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
