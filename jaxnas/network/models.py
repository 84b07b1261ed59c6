"""Models of other libraries as networks: Flax linen and nnx, Equinox, Haiku, Hugging Face, JAX.

No library is imported: a model of one says that it has been.
"""

import copy
import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import core as flax_core
from flax import linen as nn

from jaxnas import equations, gradients
from jaxnas.network.linen import LinenNetwork, initial
from jaxnas.network.summary import Summarized
from jaxnas.types import Array, Outputs, Params, is_floating

Apply = Callable[[Params, Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class ModelNetwork(Summarized):
    """A model of any library but linen as a network; see `as_network`.

    Attributes:
        library: of the model.
        apply: `apply(params, inputs)`: what the model gives for a batch.
        of_example: the same for a batch of one, inside a map over the axis `gradients.EXAMPLES`,
            across which it normalizes.
        eager: as of `LinenNetwork`.
    """

    library: str
    apply: Apply
    of_example: Apply
    eager: bool = False

    def __call__(self, params: Params, inputs: Any) -> Outputs | Array:
        """Return what the model gives for `inputs` `[B, ...]`."""
        return self.apply(params, inputs)

    def logits_of_example(self, params: Params, example: Any) -> Array:
        """Return the logits `[K]` of one example, inside a map over the axis of the examples."""
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        of_example = equations.with_fast_convolutions(self.of_example)
        return gradients.as_outputs(of_example(params, batch)).logits[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.library}): summary(params, inputs) says what is in it"


def as_network(
    model: Any,
    variables: Any = None,
    *,
    max_bytes: int = gradients.MAX_BYTES,
    **call_kwargs: Any,
) -> tuple[LinenNetwork | ModelNetwork, Params]:
    """Return a model of any JAX library as a network for all scores, and its parameters.

    The parameters are the floating arrays that the model trains; its state, random keys and other
    arrays stay in the network. Make it once and keep it: it is compiled for itself, and its
    programs end with it. `network.summary(params, inputs)` says what was found.

        >>> import jax, jaxnas
        >>> from flax import linen as nn
        >>> images, labels = jax.numpy.ones((4, 8, 8, 3)), jax.numpy.arange(4)
        >>> model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, lambda x: x.mean((1, 2))])
        >>> variables = model.init(jax.random.key(0), images)
        >>> network, params = jaxnas.as_network(model, variables)
        >>> list(jaxnas.score(network, params, (images, labels), "grad_norm"))
        ['grad_norm']

    Dropout is off, save that of a linen model which is given a key, `rngs={"dropout": key}`. A
    BatchNorm runs in the mode that the model says: `train=True` and the like of a linen model,
    `train()` or `eval()` of an nnx one, `inference` of Equinox. In training mode it couples the
    examples. For the BatchNorm of linen, nnx and Equinox, gradients of examples are then what each
    contributes to the gradient of the batch, input times back-propagated error layer by layer; a
    network that couples examples otherwise has no scores of single examples.

    Args:
        model: gives logits `[B, K]`, or `Outputs`, for inputs `[B, ...]`, an array or a pytree:
            a linen module, an nnx module, an Equinox module (which takes one example, without the
            axis `B`), a pair of Haiku's `transform` or `transform_with_state`, a Flax model of
            Hugging Face, or a function `apply_fn(params, inputs)`.
        variables: of a linen module what `init` gave; of a Haiku pair `params` or `(params,
            state)`; of an Equinox module its `State`, if it has one; of a function its parameters.
        max_bytes: bound of the per-example gradients of a linen model that exist together.
        **call_kwargs: what the model is called with besides, such as `train=False`, `method`,
            `rngs`.

    Raises:
        ValueError: a model of no known kind, missing variables, or arguments that do not belong.
    """
    gradients.validate_max_bytes(max_bytes)
    nnx, equinox, haiku = map(sys.modules.get, ("flax.nnx", "equinox", "haiku"))
    if isinstance(model, nn.Module):
        return _linen(model, variables, max_bytes, call_kwargs)
    if nnx is not None and isinstance(model, nnx.Module):
        _need_none(variables, "an nnx module")
        return _nnx(nnx, model, call_kwargs)
    if equinox is not None and isinstance(model, equinox.Module):
        return _equinox(equinox, model, variables, call_kwargs)
    if haiku is not None and isinstance(model, haiku.Transformed | haiku.TransformedWithState):
        return _haiku(haiku, model, variables, call_kwargs)
    if isinstance(getattr(model, "module", None), nn.Module) and hasattr(model, "params"):
        _need_none(variables, "a Hugging Face model")
        return _hugging_face(model, call_kwargs)
    if isinstance(model, type) or not callable(model):
        raise ValueError(
            "A model is a linen, nnx or Equinox module, a Haiku pair or a function of (params, "
            f"inputs): got {_kind(model)}; pass an instance."
        )
    if variables is None:
        raise ValueError(
            "A function needs its parameters: got none; pass as_network(apply_fn, params)."
        )
    return _function(model, variables, call_kwargs)


def eager_network(
    model: Any, key: Array, inputs: Any
) -> tuple[LinenNetwork | ModelNetwork, Params]:
    """Return a model that may lack its variables as a network run eagerly, and its parameters.

    Args:
        model: as of `as_network`, a pair `(model, variables)`, or what `as_network` gave.
        key: for the initial values of a linen module or a Haiku pair that has none.
        inputs: `[B, ...]`, for which they are.
    """
    if type(model) is tuple and len(model) == 2:
        first, variables = model
        is_network = isinstance(first, LinenNetwork | ModelNetwork)
        network, params = model if is_network else as_network(first, variables)
    elif isinstance(model, nn.Module) and model.scope is None:
        network, params = as_network(model, initial(model, key, inputs))
    elif hasattr(model, "_fields") and hasattr(model, "init"):
        network, params = as_network(model, model.init(key, inputs))
    else:
        network, params = as_network(model)
    return dataclasses.replace(network, eager=True), params


def _need_none(variables: Any, kind: str) -> None:
    if variables is not None:
        raise ValueError(
            f"The variables of {kind} are in the model: got {_kind(variables)} besides; "
            "leave them out."
        )


def _kind(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _linen(
    model: nn.Module, variables: Any, max_bytes: int, call_kwargs: dict[str, Any]
) -> tuple[LinenNetwork, Params]:
    if variables is None and model.scope is not None:
        model, variables = model.unbind()
    if "mutable" in call_kwargs:
        raise ValueError("What a network writes is dropped: got mutable; leave it out.")
    if not isinstance(variables, Mapping) or "params" not in variables:
        found = sorted(variables) if isinstance(variables, Mapping) else _kind(variables)
        raise ValueError(
            f"A linen module needs all of its variables: got {found}; "
            "pass what model.init(key, inputs) gave."
        )
    collections = dict(flax_core.unfreeze(nn.meta.unbox(variables)))
    params = collections.pop("params")
    return LinenNetwork(model, collections, call_kwargs, max_bytes), params


def _nnx(nnx: Any, model: Any, call_kwargs: dict[str, Any]) -> tuple[ModelNetwork, Params]:
    def is_trained(path: Any, variable: Any) -> bool:
        is_param = isinstance(variable, nnx.Param) or issubclass(
            getattr(variable, "type", object), nnx.Param
        )
        return is_param and all(map(is_floating, jax.tree.leaves(variable)))

    graph, params, rest = nnx.split(model, is_trained, ...)

    def apply(params: Params, inputs: Any, axis_name: str | None = None) -> Any:
        merged = nnx.merge(graph, params, jax.tree.map(jnp.asarray, rest))
        for _, module in nnx.iter_modules(merged):
            if hasattr(module, "deterministic"):
                module.deterministic = True
            if isinstance(module, nnx.BatchNorm) and module.axis_name is None:
                module.axis_name = axis_name
        return merged(inputs, **call_kwargs)

    def of_example(params: Params, inputs: Any) -> Any:
        return apply(params, inputs, gradients.EXAMPLES)

    return ModelNetwork("Flax nnx", apply, of_example), params


def _equinox(
    equinox: Any, model: Any, state: Any, call_kwargs: dict[str, Any]
) -> tuple[ModelNetwork, Params]:
    # Dropout is off, and a BatchNorm takes its statistics over the axis of the examples.
    def is_changed(part: Any) -> bool:
        return isinstance(part, equinox.nn.Dropout | equinox.nn.BatchNorm)

    def changed(part: Any) -> Any:
        if isinstance(part, equinox.nn.Dropout):
            return equinox.nn.Dropout(part.p, inference=True)
        if isinstance(part, equinox.nn.BatchNorm):
            part = copy.copy(part)
            object.__setattr__(part, "axis_name", gradients.EXAMPLES)
        return part

    model = jax.tree.map(changed, model, is_leaf=is_changed)
    params, rest = equinox.partition(model, equinox.is_inexact_array)
    asked = inspect.signature(type(model).__call__).parameters
    others = {"key": jax.random.key(0), "inference": True}
    kwargs = {name: other for name, other in others.items() if name in asked} | call_kwargs

    def alone(params: Params, example: Any) -> Any:
        # Equinox takes a state once only: this is a copy of it.
        given = (example,) if state is None else (example, jax.tree.map(lambda leaf: leaf, state))
        result = equinox.combine(params, rest)(*given, **kwargs)
        return result if state is None else result[0]

    def apply(params: Params, inputs: Any) -> Any:
        return jax.vmap(alone, (None, 0), axis_name=gradients.EXAMPLES)(params, inputs)

    def of_example(params: Params, batch: Any) -> Any:
        result = alone(params, jax.tree.map(lambda leaf: leaf[0], batch))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return ModelNetwork("Equinox", apply, of_example), params


def _haiku(
    haiku: Any, model: Any, variables: Any, call_kwargs: dict[str, Any]
) -> tuple[ModelNetwork, Params]:
    if variables is None:
        raise ValueError(
            "A Haiku pair needs its parameters: got none; pass what model.init(key, inputs) gave."
        )
    has_state = isinstance(model, haiku.TransformedWithState)
    given, state = variables if has_state else (variables, None)
    kwargs = dict(call_kwargs)
    key = kwargs.pop("rng", None)

    def apply(params: Params, inputs: Any) -> Any:
        if has_state:
            return model.apply(params, state, key, inputs, **kwargs)[0]
        return model.apply(params, key, inputs, **kwargs)

    return _of_function("Haiku", apply, given)


def _hugging_face(model: Any, call_kwargs: dict[str, Any]) -> tuple[ModelNetwork, Params]:
    # With a BatchNorm, what the model calls its parameters are all of its variables.
    variables = dict(flax_core.unfreeze(model.params))
    has_state = "batch_stats" in variables

    def apply(params: Params, inputs: Any) -> Any:
        given = {**variables, "params": params} if has_state else params
        args, named = ((), inputs) if isinstance(inputs, Mapping) else ((inputs,), {})
        return model(*args, **named, params=given, train=False, **call_kwargs).logits

    return _of_function("Hugging Face", apply, variables["params"] if has_state else variables)


def _function(
    apply_fn: Apply, params: Params, call_kwargs: dict[str, Any]
) -> tuple[ModelNetwork, Params]:
    def apply(params: Params, inputs: Any) -> Any:
        return apply_fn(params, inputs, **call_kwargs)

    return _of_function("JAX", apply, params)


def _of_function(library: str, apply: Apply, params: Params) -> tuple[ModelNetwork, Params]:
    """Return a network of a function, and those of its parameters that are floating."""
    leaves, structure = jax.tree.flatten(params)
    if all(map(is_floating, leaves)):
        return ModelNetwork(library, apply, apply), params
    frozen = [None if is_floating(leaf) else leaf for leaf in leaves]
    trained = jax.tree.unflatten(
        structure, [leaf if is_floating(leaf) else None for leaf in leaves]
    )

    def with_frozen(trained: Params, inputs: Any) -> Any:
        remaining = iter(jax.tree.leaves(trained))
        merged = [next(remaining) if each is None else each for each in frozen]
        return apply(jax.tree.unflatten(structure, merged), inputs)

    return ModelNetwork(library, with_frozen, with_frozen), trained
