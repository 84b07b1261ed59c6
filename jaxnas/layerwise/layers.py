"""Calls of the layers of a Flax linen network: seen as they happen, and called again alone."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import DenyList, tracers
from jax.tree_util import Partial, PyTreeDef

from jaxnas import gradients
from jaxnas.types import Array, Params

Path = tuple[str, ...]
"""Names of the modules from the network down to a layer."""

Visit = Callable[[Path, Partial, list[Array]], list[Array]]


def leave(path: Path, call: Partial, results: list[Array]) -> list[Array]:
    """Return the results of a layer as they are, a `Visit`."""
    return results


def each_layer(visit: Visit) -> Callable[..., Any]:
    """Return an interceptor: the floating results of a layer become `visit(path, call, results)`.

    Left alone are layers in another trace than the network's, or on transformed variables, and
    what a layer calls of its own.
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
        places = [place for place, leaf in enumerate(leaves) if _is_floating(leaf)]
        if places:
            visited = visit(layer.path, call, [leaves[place] for place in places])
            for place, leaf in zip(places, visited, strict=True):
                leaves[place] = leaf
        return jax.tree.unflatten(structure, leaves)

    return intercept


def normalise_across_examples(
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


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A call of a layer without its arrays: equal calls of equal layers compile once.

    Attributes:
        module: unbound.
        method: name of what is called.
        structure: of its variables but the parameters, and of its arguments.
        constants: leaves of `structure`; None for arrays.
    """

    module: nn.Module
    method: str
    structure: PyTreeDef
    constants: tuple[Any, ...]

    def __call__(self, arrays: list[Array], params: Params) -> list[Array]:
        remaining = iter(arrays)
        leaves = [next(remaining) if own is None else own for own in self.constants]
        variables, args, kwargs = jax.tree.unflatten(self.structure, leaves)
        bound = self.module.bind({**variables, "params": params}, mutable=DenyList("params"))
        results = getattr(bound, self.method)(*args, **kwargs)
        return [leaf for leaf in jax.tree.leaves(results) if _is_floating(leaf)]


def _call(layer: nn.Module, method: str, args: Any, kwargs: Any) -> Partial:
    """Return `call(params)` for the floating results of a layer again, a pytree of its arrays."""
    module, variables = layer.unbind()
    others = {name: own for name, own in variables.items() if name != "params"}
    leaves, structure = jax.tree.flatten((others, args, kwargs))
    constants = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    return Partial(gradients.hashable(_Layer(module, method, structure, constants)), arrays)


def _is_layer(module: nn.Module) -> bool:
    own = module.variables.get("params", {})
    fields = [getattr(module, field.name) for field in dataclasses.fields(module)]
    return (
        bool(own)
        and not any(isinstance(tensor, Mapping) for tensor in own.values())
        # Called again, it would be in another trace than a field of this one.
        and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(fields))
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_floating(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def replay(params: Params, calls: list[Partial]) -> list[list[Array]]:
    """Return what all calls of one layer give; their gradients sum before any reading."""
    return [call(params) for call in calls]
