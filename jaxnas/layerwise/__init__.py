"""Flax linen networks that read their per-example gradients layer by layer.

The gradient of a layer's parameters follows from what goes into the layer and the cotangent of what
it gives. `flax.linen.intercept_methods` shows each call of a layer: its arguments are kept, and
zeros are added to its results, so that one backward pass over the batch finds their cotangents.
Then each layer alone is called again for each example, differentiated, read and dropped: the
gradients of all examples by all parameters never exist.

A layer is a module with parameters of its own and none below it: `nn.Dense`, `nn.Conv`, `nn.Embed`,
`nn.LayerNorm`, yours. Whatever else reads a parameter (a module with submodules, a tied weight,
layers within `nn.scan`, `nn.remat` or `jax.vmap`) shows in the traced program; such a tensor is
read from the whole network, as `gradients.per_example_vjp` reads those of any other.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from jax.extend import core
from jax.tree_util import Partial

from jaxnas import gradients
from jaxnas.layerwise import layers
from jaxnas.types import Array, Outputs, Params, Pullback, Readings

_Calls = dict[layers.Path, list[Partial]]
_Results = dict[layers.Path, list[list[Any]]]
"""Something for each floating result of each call of each layer."""

_Pull = Callable[[Array], tuple[Params, _Results]]


@dataclasses.dataclass(frozen=True, eq=False)
class LinenNetwork:
    """A Flax linen module with a per-example backward pass; see `linen_network`."""

    module: nn.Module
    collections: Mapping[str, Any]
    call_kwargs: Mapping[str, Any]
    max_bytes: int

    def __call__(self, params: Params, inputs: Array) -> Outputs | Array:
        """Return what the module gives for `inputs` `[B, ...]`."""
        return self._apply({**self.collections, "params": params}, inputs)

    def per_example_vjp(self, params: Params, inputs: Array) -> tuple[Outputs, Pullback]:
        """Return the logits and the pullback to per-example gradients; see `types.Pullback`."""
        variables = {**self.collections, "params": params}
        logits, pull, calls = _forward(self, variables, inputs)

        def pullback(cotangent: Array, readings: Readings) -> tuple[Params, ...]:
            if not any(reading.per_example for reading in readings):
                return _read_sums(pull, params, cotangent, readings)
            read = functools.partial(
                gradients.read_in_groups, readings=readings, max_bytes=self.max_bytes
            )
            positions = _positions(variables)["params"]
            kept: dict[int, tuple[Any, ...]] = {}
            for path, of_results in _cotangents_of_results(pull, cotangent).items():
                layer = read(layers.replay, _at(params, path), calls[path], of_results)
                kept.update(zip(jax.tree.leaves(_at(positions, path)), layer, strict=True))
            rest = [position for position in jax.tree.leaves(positions) if position not in kept]
            others = read(self.logits_of_one, variables, inputs, cotangent, positions=rest)
            kept.update(zip(rest, others, strict=True))
            in_order = [kept[position] for position in jax.tree.leaves(positions)]
            return gradients.by_reading(in_order, readings, params)

        return Outputs(logits), pullback

    def logits_of_one(
        self,
        variables: Mapping[str, Any],
        example: Array,
        visit: layers.Visit = layers.leave,
    ) -> Array:
        """Return the logits `[K]` of one example, inside a map over the axis of the examples."""
        # In this order, what is seen of an `nn.BatchNorm` is the one that knows the axis.
        with (
            nn.intercept_methods(layers.normalise_across_examples),
            nn.intercept_methods(layers.each_layer(visit)),
        ):
            return gradients.as_outputs(self._apply(variables, example[None])).logits[0]

    def _apply(self, variables: Mapping[str, Any], inputs: Array) -> Outputs | Array:
        try:
            return self.module.apply(
                variables, inputs, mutable=list(self.collections), **self.call_kwargs
            )[0]
        except errors.FlaxError as error:
            raise ValueError(
                f"{type(self.module).__name__} cannot be applied: got from Flax "
                f"{str(error).split(' (https')[0]!r}; pass init(...)['params'] as params, and the "
                "other collections as linen_network(module, variables=...)."
            ) from error


def linen_network(
    module: nn.Module,
    *,
    variables: Mapping[str, Any] | None = None,
    max_bytes: int = gradients.MAX_BYTES,
    **call_kwargs: Any,
) -> LinenNetwork:
    """Return a Flax linen module as a network that reads its gradients layer by layer.

    Each example goes through alone, save that an `nn.BatchNorm` in training mode normalises by the
    whole batch, as it does in `module.apply`. That couples the examples: what is read are then the
    contributions of each to the gradient of the batch, input times back-propagated error layer by
    layer, and they sum to that gradient. Anything else that mixes examples sees one at a time.

    A network is compiled for itself: make it once and keep it.

    Args:
        module: gives logits `[B, K]`, or `Outputs`, for inputs `[B, ...]`.
        variables: collections that the module reads besides its parameters, such as `batch_stats`;
            what it writes into them is dropped.
        max_bytes: bound of the per-example gradients that exist at the same time; a larger tensor
            exists alone.
        **call_kwargs: for `module.apply`: `train=False`, `method`, `rngs`.

    Raises:
        ValueError: not a linen module, `max_bytes` is not positive, `params` among the variables or
            `mutable` among the arguments; and from the network, parameters that do not fit.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"linen_network takes a flax.linen module: got {type(module).__name__}; pass an "
            "instance, or score another network as apply_fn(params, inputs)."
        )
    gradients.validate_max_bytes(max_bytes)
    collections = {} if variables is None else dict(variables)
    if "params" in collections or "mutable" in call_kwargs:
        raise ValueError(
            f"Variables are neither trained nor kept: got variables {sorted(collections)} and "
            f"arguments {sorted(call_kwargs)}; leave out 'params' (the network is called with "
            "them) and 'mutable'."
        )
    return LinenNetwork(module, collections, call_kwargs, max_bytes)


@functools.partial(jax.jit, static_argnames="network")
def _forward(
    network: LinenNetwork, variables: Mapping[str, Any], inputs: Array
) -> tuple[Array, _Pull, _Calls]:
    """Return the logits `[B, K]`, their pullback to parameters and results, and the calls."""

    def logits_and_calls(params: Params, perturbations: _Results) -> tuple[Array, _Calls]:
        def one(example: Array, added: _Results) -> tuple[Array, _Calls]:
            calls: _Calls = {path: [] for path in added}

            def perturb(path: layers.Path, call: Partial, results: list[Array]) -> list[Array]:
                if path not in calls:
                    return results
                zeros = added[path][len(calls[path])]
                calls[path].append(call)
                return [result + zero for result, zero in zip(results, zeros, strict=True)]

            return network.logits_of_one({**variables, "params": params}, example, perturb), calls

        return jax.vmap(one, axis_name=gradients.EXAMPLES)(inputs, perturbations)

    zeros = jax.tree.map(
        lambda own: jnp.zeros((inputs.shape[0], *own.shape), own.dtype),
        _results_by_layer(network, variables, inputs),
    )
    return jax.vjp(logits_and_calls, variables["params"], zeros, has_aux=True)


@functools.partial(jax.jit, static_argnames="readings")
def _read_sums(
    pull: _Pull, params: Params, cotangent: Array, readings: Readings
) -> tuple[Params, ...]:
    summed = pull(cotangent)[0]
    return tuple(jax.tree.map(reading.keep, params, summed) for reading in readings)


@jax.jit
def _cotangents_of_results(pull: _Pull, cotangent: Array) -> _Results:
    return pull(cotangent)[1]


def _results_by_layer(
    network: LinenNetwork, variables: Mapping[str, Any], inputs: Array
) -> _Results:
    """Return the shapes of what each layer gives for one example.

    With the parameters of the layers taken for constants, the logits depend on a parameter only if
    something else reads it: then its layer is left out.
    """
    shapes: _Results = {}
    params = variables["params"]

    def cut(path: layers.Path, call: Partial, results: list[Array]) -> list[Array]:
        try:
            again = call(jax.tree.map(jnp.zeros_like, _at(params, path)))
        except (errors.FlaxError, AttributeError):
            # It draws random numbers, or needs more of the network than it was called with.
            return results
        of_call = [jax.ShapeDtypeStruct(own.shape, own.dtype) for own in again]
        shapes.setdefault(path, []).append(of_call)
        return again

    def logits(params: Params) -> Array:
        def one(example: Array) -> Array:
            return network.logits_of_one({**variables, "params": params}, example, cut)

        return jax.vmap(one, axis_name=gradients.EXAMPLES)(inputs)

    program = jax.make_jaxpr(logits)(params).jaxpr
    is_read = jax.tree.unflatten(jax.tree.structure(params), _is_read(program))
    return {
        path: own for path, own in shapes.items() if not any(jax.tree.leaves(_at(is_read, path)))
    }


def _is_read(program: core.Jaxpr) -> list[bool]:
    """Return for each argument of a program whether its results depend on it."""
    live = {own for own in program.outvars if isinstance(own, core.Var)}
    for equation in reversed(program.eqns):
        if live.intersection(equation.outvars):
            live.update(own for own in equation.invars if isinstance(own, core.Var))
    return [own in live for own in program.invars]


def _positions(tree: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), range(len(jax.tree.leaves(tree))))


def _at(tree: Any, path: layers.Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree
