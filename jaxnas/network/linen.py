"""Anybody's Flax linen network, whose layers take statistics of their per-example gradients.

Each example goes through the network alone, by `jax.vmap`. `flax.linen.intercept_methods` sees each
call of a layer and puts `layers.apply` in its place, for all examples together: one ordinary
`jax.vjp` then gives what the statistics keep, and the gradients of all examples by all parameters
never exist.

A layer is a module with parameters and none below it: `nn.Dense`, `nn.Conv`, `nn.Embed`,
`nn.LayerNorm`, yours. Whatever else reads a parameter (a module with submodules, a tied weight,
layers within `nn.scan`, `nn.remat` or `jax.vmap`) shows in the traced program; the gradients of
such a tensor are those of the whole network, as of any other `apply_fn`.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from flax import linen as nn
from flax.core import DenyList, tracers
from jax import dtypes, lax
from jax.extend import core
from jax.tree_util import PyTreeDef

from jaxnas import equations, gradients, lifetimes
from jaxnas.network import layers, linen_kernels
from jaxnas.network.layers import TensorGradient, Tensors
from jaxnas.network.summary import Summarized
from jaxnas.types import Array, Outputs, Params, Pullback, Statistic, Statistics

Path = tuple[str, ...]
"""Names of the modules from the network down to a layer."""

Visit = Callable[[Path, "Call", list[Array]], list[Array]]
"""`visit(path, call, results)`: what takes the place of the floating results of a layer."""


@dataclasses.dataclass(frozen=True, eq=False)
class LinenNetwork(Summarized):
    """A Flax linen module whose layers take statistics of their gradients; see `as_network`.

    Each example goes through alone, save that an `nn.BatchNorm` in training mode normalizes by the
    whole batch, as it does in `module.apply`. That couples the examples: what is kept are then the
    contributions of each to the gradient of the batch, input times back-propagated error layer by
    layer, and they sum to that gradient.

    Attributes:
        module: gives logits `[B, K]`, or `Outputs`, for inputs `[B, ...]`.
        collections: that the module reads besides its parameters, such as `batch_stats`; what it
            writes into them is dropped.
        call_kwargs: for `module.apply`: `train=False`, `method`, `rngs`.
        max_bytes: bound of the per-example gradients of tensors that several calls read; a larger
            tensor exists alone, and so does that of a layer.
        eager: whether it is run operation by operation, each a program that all networks share,
            and no program is compiled for this network alone.
    """

    module: nn.Module
    collections: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_bytes: int = gradients.MAX_BYTES
    eager: bool = False

    def __repr__(self) -> str:
        name = type(self.module).__name__
        return f"{type(self).__name__}({name}): summary(params, inputs) says what is in it"

    def __call__(self, params: Params, inputs: Array) -> Outputs | Array:
        """Return what the module gives for `inputs` `[B, ...]`."""
        return self._apply({**self.collections, "params": params}, inputs)

    def per_example_vjp(
        self, params: Params, inputs: Array, statistics: Statistics
    ) -> tuple[Outputs, Pullback]:
        """Return the logits and the pullback to per-example gradients; see `types.Pullback`."""
        variables = {**self.collections, "params": params}
        of_examples = tuple(statistic for statistic in statistics if statistic.per_example)
        logits, pull = _forward(self, of_examples, variables, inputs)
        if of_examples:
            gradients.validate_uncoupled(self, params, inputs, logits)

        def pullback(cotangent: Array, chosen: Statistics) -> tuple[Params, ...]:
            kept = _keep(self, of_examples, chosen, pull, params, cotangent)
            # What no layer could show is differentiated through the whole network.
            unseen = [place for place, found in enumerate(kept) if any(k is None for k in found)]
            positions = jax.tree.leaves(_numbered(variables)["params"])
            others = gradients.read_in_groups(
                self.logits_of_one,
                variables,
                inputs,
                cotangent,
                tuple(statistic for statistic in chosen if statistic.per_example),
                positions=[positions[place] for place in unseen],
                max_bytes=self.max_bytes,
            )
            for place, found in zip(unseen, others, strict=True):
                remaining = iter(found)
                kept[place] = tuple(next(remaining) if k is None else k for k in kept[place])
            return gradients.by_statistic(kept, chosen, params)

        return Outputs(logits), pullback

    def logits_of_one(
        self, variables: Mapping[str, Any], example: Array, visit: Visit | None = None
    ) -> Array:
        """Return the logits `[K]` of one example, inside a map over the axis of the examples."""
        visit = _leave if visit is None else visit
        # In this order, what is seen of an `nn.BatchNorm` is the one that knows the axis.
        with (
            nn.intercept_methods(_normalize_across_examples),
            nn.intercept_methods(_each_layer(visit)),
        ):
            batch = jax.tree.map(lambda leaf: leaf[None], example)
            return gradients.as_outputs(self._apply(variables, batch)).logits[0]

    def _apply(self, variables: Mapping[str, Any], inputs: Array) -> Outputs | Array:
        try:
            with self._dropout():
                return self.module.apply(
                    variables, inputs, mutable=list(self.collections), **self.call_kwargs
                )[0]
        except errors.FlaxError as error:
            raise ValueError(
                f"{type(self.module).__name__} cannot be applied: got from Flax "
                f"{str(error).split(' (https')[0]!r}; pass "
                "to as_network what init gave, and to the network its parameters."
            ) from error

    def _dropout(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which Dropout is off, unless a key was given for it."""
        if "dropout" in (self.call_kwargs.get("rngs") or {}):
            return contextlib.nullcontext()
        return nn.intercept_methods(_without_dropout)


def initial(module: nn.Module, key: Array, inputs: Any) -> Any:
    """Return the initial variables of a module for inputs `[B, ...]`; the network is not run.

    The programs of its initializers are shared by all modules with tensors of these shapes.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), inputs)
    with nn.intercept_methods(_without_dropout):
        try:
            return module.lazy_init(key, shapes)
        except errors.LazyInitError:  # some values depend on the inputs
            return module.init(key, inputs)


# One pass forward and one backward.


_Pull = Callable[[Array], tuple[Params, dict[str, tuple[Any, ...]]]]


@lifetimes.for_each_network(1)
def _forward(
    network: LinenNetwork, statistics: Statistics, variables: Mapping[str, Any], inputs: Array
) -> tuple[Array, _Pull]:
    """Return the logits `[B, K]` and their pullback to the parameters and the slots."""
    params, count = variables["params"], len(jax.tree.leaves(inputs)[0])
    names = _names(params)

    # Which layers can show their gradients, and a slot for each of their tensors.
    calls = _calls_of_layers(network, variables, inputs) if statistics else {}
    slots: dict[str, Any] = {}
    for path in calls:
        for name, tensor in _of_layer(path, names, params, {})[0].items():
            slots[name] = layers.slots(statistics, tensor, count)

    # The network, with each call of a layer open to the statistics.
    def logits(params: Params, slots: Mapping[str, Any]) -> Array:
        # Without statistics of examples, these go through together.
        if not statistics:
            return gradients.outputs(network, params, inputs).logits

        # A tensor that several calls read: the statistics look at the sum of its gradients.
        gathered = {
            path: _gather(statistics, count, *_of_layer(path, names, params, slots))
            for path in calls
            if calls[path] > 1
        }

        def visit(path: Path, call: Call, results: list[Array]) -> list[Array]:
            if path not in calls:
                return results
            tensors, of_layer = _of_layer(path, names, params, slots)
            if path in gathered:
                return _open(call, (_EACH,), tensors, gathered[path], network.eager)
            return _open(call, statistics, tensors, of_layer, network.eager)

        def one(example: Array) -> Array:
            return network.logits_of_one({**variables, "params": params}, example, visit)

        return jax.vmap(one, axis_name=gradients.EXAMPLES)(inputs)

    if network.eager:
        logits = _by_equations(logits, params, slots)
    return jax.vjp(logits, params, slots)


def _by_equations(function: Callable[..., Array], *args: Any) -> Callable[..., Array]:
    """Return a function as the equations on which its result depends, evaluated one by one."""
    program = jax.make_jaxpr(function)(*args)
    kept = core.ClosedJaxpr(
        program.jaxpr.replace(eqns=equations.live(program.jaxpr)[0]), program.consts
    )

    def evaluate(*args: Any) -> Array:
        (result,) = core.jaxpr_as_fun(kept)(*jax.tree.leaves(args))
        return result

    return evaluate


@lifetimes.for_each_network(1, 2)
def _keep(
    network: LinenNetwork,
    statistics: Statistics,
    chosen: Statistics,
    pull: _Pull,
    params: Params,
    cotangent: Array,
) -> list[tuple[Any, ...]]:
    """Return what is kept of each tensor; None for gradients of examples that no layer shows."""
    totals, of_slots = pull(cotangent)
    leaves = jax.tree.leaves
    kept = []
    for name, tensor, total in zip(
        leaves(_names(params)), leaves(params), leaves(totals), strict=True
    ):
        seen = dict(zip(statistics, of_slots.get(name, ()), strict=False))
        kept.append(
            tuple(
                seen.get(statistic) if statistic.per_example else statistic(tensor, total)
                for statistic in chosen
            )
        )
    return kept


def _calls_of_layers(
    network: LinenNetwork, variables: Mapping[str, Any], inputs: Array
) -> dict[Path, int]:
    """Return how often each layer is called, if nothing but these calls reads its parameters.

    With the parameters of the layers taken for constants, the logits depend on a parameter only if
    something else reads it: then its layer is left out. So are layers called several times whose
    gradients, of all examples, are larger than the network allows.
    """
    calls: dict[Path, int] = collections.defaultdict(int)
    params = variables["params"]

    # The network with the parameters of its layers cut off.

    def cut(path: Path, call: Call, results: list[Array]) -> list[Array]:
        try:
            zeros = [jnp.zeros_like(leaf) for leaf in _leaves_at(params, path)]
            again = _again(call.layer, zeros, call.arrays, network.eager)
        except (errors.FlaxError, AttributeError):
            # It draws random numbers, or needs more of the network than it was called with.
            return results
        calls[path] += 1
        return again

    def logits(params: Params) -> Array:
        def one(example: Array) -> Array:
            return network.logits_of_one({**variables, "params": params}, example, cut)

        return jax.vmap(one, axis_name=gradients.EXAMPLES)(inputs)

    # What it still reads, and what is too large, is left out.
    program = jax.make_jaxpr(logits)(params).jaxpr
    is_read = jax.tree.unflatten(jax.tree.structure(params), equations.live(program)[1])
    found, room = {}, network.max_bytes
    count = len(jax.tree.leaves(inputs)[0])
    for path, times in calls.items():
        size = sum(leaf.nbytes for leaf in _leaves_at(params, path)) * count
        room -= size if times > 1 else 0
        if not any(_leaves_at(is_read, path)) and (times == 1 or room >= 0):
            found[path] = times
    return found


def _itself(tensor: Array, each: Array) -> Array:
    return each


_EACH = Statistic(_itself)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(
    statistics: Statistics, count: int, tensors: Tensors, slots: Any
) -> dict[str, tuple[Array]]:
    """Return slots `[B, *shape]` for the gradients themselves, which add up over their readers."""
    return {name: layers.slots((_EACH,), tensor, count) for name, tensor in tensors.items()}


def _gather_forward(statistics: Statistics, count: int, tensors: Tensors, slots: Any) -> Any:
    return _gather(statistics, count, tensors, slots), tensors


def _gather_backward(statistics: Statistics, count: int, tensors: Tensors, gathered: Any) -> Any:
    kept = {
        name: tuple(statistic(tensor, gathered[name][0]) for statistic in statistics)
        for name, tensor in tensors.items()
    }
    return jax.tree.map(jnp.zeros_like, tensors), kept


_gather.defvjp(_gather_forward, _gather_backward)


def _of_layer(path: Path, names: Params, params: Params, slots: Any) -> tuple[Tensors, Any]:
    """Return the tensors of a layer by name, and their slots."""
    tensors = dict(zip(_leaves_at(names, path), _leaves_at(params, path), strict=True))
    return tensors, {name: slots[name] for name in tensors if name in slots}


def _names(params: Params) -> Params:
    """Return a pytree like `params` of names, each different."""
    return jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path), params)


def _numbered(tree: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), range(len(jax.tree.leaves(tree))))


def _leaves_at(tree: Any, path: Path) -> list[Any]:
    for name in path:
        tree = tree[name]
    return jax.tree.leaves(tree)


# Calls of layers, seen as they happen.


def _leave(path: Path, call: "Call", results: list[Array]) -> list[Array]:
    return results


def _each_layer(visit: Visit) -> Callable[..., Any]:
    """Return an interceptor: the floating results of a layer become `visit(path, call, results)`.

    Left alone are layers in another trace than the network's, or on transformed variables, and
    what a layer calls itself.
    """
    home: Any = None
    inside = False

    def intercept(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal home, inside
        layer = context.module
        here = layer.scope and (layer.scope.root, tracers.current_trace())
        home = home or here
        if inside or here is None or here != home or not _is_layer(layer):
            return next_fun(*args, **kwargs)
        call = _call(layer, context.method_name, args, kwargs)
        inside = True
        try:
            leaves, structure = jax.tree.flatten(next_fun(*args, **kwargs))
        finally:
            inside = False
        places = [place for place, leaf in enumerate(leaves) if _is_inexact(leaf)]
        if places:
            visited = visit(layer.path, call, [leaves[place] for place in places])
            for place, leaf in zip(places, visited, strict=True):
                leaves[place] = leaf
        return jax.tree.unflatten(structure, leaves)

    return intercept


def _without_dropout(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
        return args[0] if args else kwargs["inputs"]
    return next_fun(*args, **kwargs)


def _normalize_across_examples(
    next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any
) -> Any:
    """Intercept `nn.BatchNorm`, and tell it the axis over which the examples are mapped."""
    layer = context.module
    if (
        isinstance(layer, nn.BatchNorm)
        and layer.axis_name is None
        and context.method_name == "__call__"
    ):
        return layer.clone(parent=layer.scope, axis_name=gradients.EXAMPLES)(*args, **kwargs)
    return next_fun(*args, **kwargs)


def _call(layer: nn.Module, method: str, args: Any, kwargs: Any) -> "Call":
    """Return a call of a layer of a network, to be made again alone."""
    module, variables = layer.unbind()
    others = {name: leaves for name, leaves in variables.items() if name != "params"}
    leaves, structure = jax.tree.flatten((others, args, kwargs))
    constants = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    params = jax.tree.structure(variables["params"])
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    return Call(_Layer(_nameless(module), method, params, structure, constants), arrays)


def _nameless(layer: nn.Module) -> nn.Module:
    """Return a layer as equal as can be to another one that computes the same."""
    # Its initializers, each perhaps a function of its own, have done their work.
    defaults: dict[str, Any] = {
        field.name: field.default
        for field in dataclasses.fields(layer)
        if field.name.endswith("_init") and type(layer).__module__.startswith("flax.linen.")
    }
    return layer.clone(name=None, parent=None, **defaults)


def _is_layer(module: nn.Module) -> bool:
    params = module.variables.get("params", {})
    fields = [getattr(module, field.name) for field in dataclasses.fields(module)]
    return (
        bool(params)
        and not any(isinstance(tensor, Mapping) for tensor in params.values())
        # Called again, it would be in another trace than a field of this one.
        and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(fields))
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_inexact(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer and what it is called with for one example, without its arrays; equal by value.

    Attributes:
        module: unbound, without its name.
        method: name of what is called.
        params: structure of its parameters.
        structure: of its other variables, and of its arguments.
        constants: leaves of `structure`; None for arrays.
    """

    module: nn.Module
    method: str
    params: PyTreeDef
    structure: PyTreeDef
    constants: tuple[Any, ...]

    def __call__(self, leaves: Sequence[Array], arrays: Sequence[Array]) -> list[Array]:
        """Return the floating results, given the parameters and all other arrays."""
        remaining = iter(arrays)
        filled = [next(remaining) if leaf is None else leaf for leaf in self.constants]
        variables, args, kwargs = jax.tree.unflatten(self.structure, filled)
        params = jax.tree.unflatten(self.params, leaves)
        bound = self.module.bind({**variables, "params": params}, mutable=DenyList("params"))
        results = getattr(bound, self.method)(*args, **kwargs)
        return [leaf for leaf in jax.tree.leaves(results) if _is_inexact(leaf)]


class Call(NamedTuple):
    """A call of a layer for one example, `layer(leaves, arrays)`."""

    layer: _Layer
    arrays: list[Array]


def _open(
    call: Call, statistics: Statistics, tensors: Tensors, slots: Any, eager: bool
) -> list[Array]:
    """Return the results of a call, its tensors open to the statistics; see `layers.apply`.

    An eager network shares the program of the call with all that have the layer.

    The call is made for one example, inside a map over all. `custom_vmap` hands the rule all
    examples at once, whose gradients a statistic looks at together.
    """
    # Named by number: the layer of one place in a network is that of another.
    numbers = {name: str(number) for number, name in enumerate(tensors)}
    names = tuple(numbers.values())
    tensors = {numbers[name]: tensor for name, tensor in tensors.items()}
    slots = {numbers[name]: slot for name, slot in slots.items()}

    @jax.custom_batching.custom_vmap
    def apply(index: Array, tensors: Tensors, slots: Any, arrays: list[Array]) -> list[Array]:
        return _again(call.layer, [tensors[name] for name in names], arrays, eager)

    @apply.def_vmap
    def apply_to_all(count: int, is_mapped: Any, index: Array, *args: Any) -> Any:
        tensors, slots, arrays = args
        rule = _Rule(call.layer, names, tuple(is_mapped[-1]))
        run = _apply_shared if eager and _is_hashable(rule) else layers.apply
        results = run(rule, statistics, tensors, slots, (index, arrays))
        return results, [True] * len(results)

    # The number of the example is an argument, so that a layer without any other is mapped too.
    return apply(lax.axis_index(gradients.EXAMPLES), tensors, slots, call.arrays)


def _again(layer: _Layer, leaves: list[Array], arrays: list[Array], eager: bool) -> list[Array]:
    """Return the results of a layer; that of an eager network is traced once for all."""
    if eager and _is_hashable(layer):
        return _trace_shared(layer, leaves, arrays)
    return layer(leaves, arrays)


_trace_shared = jax.jit(_Layer.__call__, static_argnums=0)
_apply_shared = jax.jit(layers.apply, static_argnums=(0, 1))


def _is_hashable(thing: Any) -> bool:
    try:
        hash(thing)
    except TypeError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The rule of a layer, for `(numbers of the examples, arrays)`; see `layers.Rule`.

    Attributes:
        layer: what it does with one example.
        names: of its tensors.
        is_mapped: whether each array is one for each example, `[B, ...]`.
    """

    layer: _Layer
    names: tuple[str, ...]
    is_mapped: tuple[bool, ...]

    def forward(self, tensors: Tensors, x: Any) -> tuple[list[Array], Any]:
        """Return the results, `[B, ...]` each."""
        results, pull = jax.vjp(self._map(self._one), tensors, x)
        return results, (pull, x)

    def backward(
        self, tensors: Tensors, residuals: Any, cotangent: list[Array]
    ) -> tuple[Any, dict[str, TensorGradient]]:
        """Return the gradients; those of each example by a map over the examples."""
        pull, x = residuals
        totals, of_inputs = pull(cotangent)
        floating = jax.tree.map(lambda x: None if x.dtype == dtypes.float0 else x, of_inputs)
        each = functools.cache(lambda: self._of_examples(tensors, x, cotangent))
        found = {
            name: TensorGradient(
                functools.partial(totals.__getitem__, name),
                functools.partial(lambda name: each()[name], name),
            )
            for name in self.names
        }
        if self.is_mapped == (True,):
            name = self.names[-1]
            of_kernel = linen_kernels.of_kernel(self.layer, x[1][0], tensors[name], cotangent[0])
            found[name] = found[name]._replace(**of_kernel)
        return floating, found

    def _map(self, function: Callable[..., Any], *others: Any) -> Callable[..., Any]:
        arrays = [0 if mapped else None for mapped in self.is_mapped]
        return jax.vmap(function, (None, (0, arrays), *others), axis_name=gradients.EXAMPLES)

    def _one(self, tensors: Tensors, x: Any) -> list[Array]:
        faster = equations.with_fast_convolutions(self.layer)
        results: list[Array] = faster([tensors[name] for name in self.names], x[1])
        return results

    def _of_examples(self, tensors: Tensors, x: Any, cotangent: list[Array]) -> Tensors:
        def one(tensors: Tensors, x: Any, cotangent: list[Array]) -> Tensors:
            return jax.vjp(lambda tensors: self._one(tensors, x), tensors)[1](cotangent)[0]

        return self._map(one, 0)(tensors, x, cotangent)
