"""Gradients of a network: of a batch, of each example, and statistics of both in bounded memory.

A network is any `apply_fn(params, inputs)`; `as_network` makes one of a model of any library.
"""

import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import check, lifetimes
from jaxnas.tasks import Targets, cross_entropy
from jaxnas.types import (
    ApplyFn,
    Array,
    Batch,
    Outputs,
    Params,
    PerExampleDifferentiable,
    Pullback,
    Statistic,
    Statistics,
)

MAX_BYTES = 2**28
"""Default bound of the per-example gradients that exist at the same time, 256 MiB."""

EXAMPLES = "jaxnas_examples"
"""Name of the mapped axis of the examples, for what takes statistics across them."""


def _itself(tensor: Array, gradient: Array) -> Array:
    return gradient


GRADIENT = Statistic(_itself, per_example=False)
"""The gradient itself, summed over the examples."""

Cotangent = Callable[[Array, Any], Array]
"""`cotangent(logits, labels)`: the derivative `[B, K]` of what is differentiated."""


def outputs(apply_fn: ApplyFn, params: Params, inputs: Array) -> Outputs:
    """Return `Outputs`, also from a network that gives bare logits `[B, K]`."""
    return as_outputs(apply_fn(params, inputs))


def as_outputs(result: Outputs | Array) -> Outputs:
    """Return what a network gave as `Outputs`, be it bare logits."""
    return result if isinstance(result, Outputs) else Outputs(result)


def losses(logits: Array, labels: Any) -> Array:
    """Return the loss of each example, `[B]`: cross-entropy, or that of `tasks.Targets`."""
    return labels.losses(logits) if isinstance(labels, Targets) else cross_entropy(logits, labels)


@jax.jit
def loss_cotangent(logits: Array, labels: Any) -> Array:
    """Return the derivative of the summed loss; of cross-entropy softmax - one-hot, `[B, K]`."""
    if isinstance(labels, Targets):
        return jax.grad(lambda logits: labels.losses(logits).sum())(logits)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jax.nn.softmax(logits) - one_hot


def loss_gradient(apply_fn: ApplyFn, params: Params, batch: Batch) -> Params:
    """Return the gradient of the mean loss of the batch, a pytree like `params`."""
    check.tree("params", params, "f")
    (total,) = read(apply_fn, params, batch, {loss_cotangent: (GRADIENT,)})[loss_cotangent]
    return jax.tree.map(
        lambda leaf, tensor: (leaf / batch.size).astype(tensor.dtype), total, params
    )


def per_example_gradients(apply_fn: ApplyFn, params: Params, batch: Batch) -> Params:
    """Return the loss gradient of each example, a pytree of `[B, *shape]`: all of `B x P` numbers.

    Each example goes through the network alone, by `vmap` over `grad`.

    Examples:
        >>> import jax.numpy as jnp, jaxnas
        >>> batch = jaxnas.Batch(jnp.eye(3), jnp.array([0, 1, 1]))
        >>> grads = jaxnas.gradients.per_example_gradients(
        ...     lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, batch
        ... )
        >>> grads["w"].shape
        (3, 3, 2)
    """
    _check(apply_fn, batch)
    check.tree("params", params, "f")

    def loss(params: Params, example: Any, label: Any) -> Array:
        logits = _logits_of_one(apply_fn, params, example)
        return losses(logits[None], jax.tree.map(lambda leaf: leaf[None], label))[0]

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, batch.inputs, batch.labels)


def jacobian(apply_fn: ApplyFn, params: Params, inputs: Array) -> Params:
    """Return the Jacobian of the logits of each example, a pytree of `[B, K, *shape]`.

    Each example goes through the network alone, by `vmap` over `jacrev`.
    """
    check.instance("apply_fn", apply_fn, Callable, "a function of parameters and inputs")
    check.tree("params", params, "f")
    check.tree("inputs", inputs)
    one = functools.partial(_logits_of_one, apply_fn)
    return jax.vmap(jax.jacrev(one), in_axes=(None, 0))(params, inputs)


def read(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch,
    wanted: Mapping[Cotangent, Statistics],
    *,
    max_bytes: int = MAX_BYTES,
) -> dict[Cotangent, tuple[Params, ...]]:
    """Return what all statistics keep, from one forward pass and one backward pass a cotangent.

    A network that brings its own backward pass (`PerExampleDifferentiable`) reads layer by layer.
    Of any other, gradients of examples are those of `per_example_vjp`, each example alone, and
    sums are those of the whole batch together; statistics of examples are refused if the network
    couples them.

    Args:
        apply_fn: any network.
        params: its parameters.
        batch: `B` labeled examples.
        wanted: statistics by what is differentiated, such as `loss_cotangent`.
        max_bytes: see `per_example_vjp`.

    Returns:
        For each cotangent and each of its statistics a pytree like `params`.
    """
    _check(apply_fn, batch)
    if isinstance(apply_fn, PerExampleDifferentiable):
        every = tuple(dict.fromkeys(one for item in wanted.values() for one in item))
        out, pullback = apply_fn.per_example_vjp(params, batch.inputs, every)
        return {of: pullback(of(out.logits, batch.labels), item) for of, item in wanted.items()}
    found: dict[Cotangent, tuple[Params, ...]] = {}
    for of, statistics in wanted.items():
        sums = tuple(statistic for statistic in statistics if not statistic.per_example)
        kept = iter(_read_sums(hashable(apply_fn), of, sums, params, batch) if sums else ())
        singles = tuple(statistic for statistic in statistics if statistic.per_example)
        if singles:
            out, pullback = per_example_vjp(
                apply_fn, params, batch.inputs, singles, max_bytes=max_bytes
            )
            of_examples = iter(pullback(of(out.logits, batch.labels), singles))
        found[of] = tuple(
            next(of_examples if statistic.per_example else kept) for statistic in statistics
        )
    return found


def per_example_vjp(
    apply_fn: ApplyFn,
    params: Params,
    inputs: Array,
    statistics: Statistics,
    *,
    max_bytes: int = MAX_BYTES,
) -> tuple[Outputs, Pullback]:
    """Return the outputs and the pullback to these statistics of the per-example gradients.

    A network that brings its own (`PerExampleDifferentiable`) reads layer by layer in one backward
    pass. For any other, examples go through alone under `vmap`, and tensors are differentiated in
    groups whose per-example gradients take at most `max_bytes` together (a larger tensor alone):
    one backward pass a group.

    A network with a method `logits_of_example(params, example)`, which is called inside a map over
    the axis `EXAMPLES`, normalizes across the examples there.

    Raises:
        ValueError: `max_bytes` is not positive, or the network couples the examples otherwise.
    """
    check.instance("apply_fn", apply_fn, Callable, "a function of parameters and inputs")
    validate_max_bytes(max_bytes)
    if isinstance(apply_fn, PerExampleDifferentiable):
        return apply_fn.per_example_vjp(params, inputs, statistics)
    network: Any = hashable(apply_fn)
    one = getattr(network, "logits_of_example", types.MethodType(_logits_of_one, network))
    logits = _one_by_one(one, params, inputs)
    validate_uncoupled(network, params, inputs, logits)

    def pullback(cotangent: Array, statistics: Statistics) -> tuple[Params, ...]:
        kept = read_in_groups(one, params, inputs, cotangent, statistics, max_bytes=max_bytes)
        return by_statistic(kept, statistics, params)

    return Outputs(logits), pullback


def read_in_groups(
    function: Callable[[Params, Any], Any],
    params: Params,
    examples: Any,
    cotangents: Any,
    statistics: Statistics,
    *,
    positions: Sequence[int] | None = None,
    max_bytes: int = MAX_BYTES,
) -> list[tuple[Any, ...]]:
    """Return what statistics keep of the per-example gradients of a function, tensor by tensor.

    Args:
        function: `function(params, example)`; under a map over the axis `EXAMPLES`.
        params: a pytree of tensors.
        examples: a pytree of `[B, ...]`, arguments of the function.
        cotangents: a pytree of `[B, ...]`, as what the function gives for the examples.
        statistics: what to keep of each tensor's gradients.
        positions: which leaves of `params` to differentiate; all if None.
        max_bytes: see `per_example_vjp`.
    """
    leaves = jax.tree.leaves(params)
    positions = range(len(leaves)) if positions is None else positions
    count = jax.tree.leaves(cotangents)[0].shape[0]
    kept: list[tuple[Any, ...]] = []
    for run in groups([leaves[position].nbytes * count for position in positions], max_bytes):
        group = tuple(positions[place] for place in run)
        kept += _read_group(function, statistics, group, params, examples, cotangents)
    return kept


def by_statistic(
    kept: list[tuple[Any, ...]], statistics: Statistics, params: Params
) -> tuple[Any, ...]:
    """Return a pytree like `params` for each statistic, given what all keep of each tensor."""
    structure = jax.tree.structure(params)
    return tuple(
        jax.tree.unflatten(structure, [of_tensor[position] for of_tensor in kept])
        for position in range(len(statistics))
    )


def _check(apply_fn: ApplyFn, batch: Batch) -> None:
    check.instance("apply_fn", apply_fn, Callable, "a function of parameters and inputs")
    check.instance("batch", batch, Batch, "a jaxnas.Batch")


def validate_max_bytes(max_bytes: int) -> None:
    """Raise `ValueError` unless `max_bytes` is a positive integer."""
    check.integer("max_bytes", max_bytes, 1, 2**63, "; the default is 2**28.")


def validate_uncoupled(network: Any, params: Params, inputs: Any, alone: Array) -> None:
    """Raise `ValueError` if the examples of a batch see each other, and nobody knows how.

    Checked once a network, on concrete values: the logits `alone` `[B, K]`, of one example after
    the other, must be those of the batch. Where they are not, as with random numbers that each
    row of a batch draws, the first example must not care what the others are.
    """
    leaves = [*jax.tree.leaves((params, inputs)), alone]
    if len(alone) > 1 and not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        lifetimes.remember(network, "uncoupled", lambda: _compare(network, params, inputs, alone))


def _compare(network: Any, params: Params, inputs: Any, alone: Array) -> None:
    together = logits_of_batch(network, params, inputs)
    if isinstance(together, jax.core.Tracer) or are_close(alone, together):
        return
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), inputs)
    if not are_close(logits_of_batch(network, params, same)[:1], together[:1]):
        raise ValueError(
            "Scores of single examples need examples that do not see each other: got a network "
            "whose logits of one example change with the rest of the batch; set its normalization "
            "to evaluation mode, or let jaxnas.as_network wrap the linen, nnx or Equinox model."
        )


def are_close(found: Array, other: Array) -> bool:
    """Return whether logits agree up to rounding; nan agrees with everything."""
    gap, size = jnp.abs(found - other).max(), jnp.abs(other).max()
    return not bool(gap > jnp.sqrt(jnp.finfo(other.dtype).eps) * size)


@lifetimes.for_each_network()
def logits_of_batch(network: ApplyFn, params: Params, inputs: Any) -> Array:
    """Return the logits `[B, K]` of a whole batch, by a program that ends with the network."""
    return outputs(network, params, inputs).logits


def _logits_of_one(apply_fn: ApplyFn, params: Params, example: Any) -> Array:
    """Return the logits `[K]` of one example."""
    batch = jax.tree.map(lambda leaf: leaf[None], example)
    return outputs(apply_fn, params, batch).logits[0]


@lifetimes.for_each_network()
def _one_by_one(function: Callable[[Params, Any], Any], params: Params, examples: Any) -> Any:
    return jax.vmap(function, in_axes=(None, 0), axis_name=EXAMPLES)(params, examples)


@lifetimes.for_each_network(1, 2)
def _read_sums(
    apply_fn: ApplyFn, of: Cotangent, statistics: Statistics, params: Params, batch: Batch
) -> tuple[Params, ...]:
    """Return what statistics of summed gradients keep: one backward pass of the whole batch."""

    def logits(params: Params) -> Array:
        return outputs(apply_fn, params, batch.inputs).logits

    found, pullback = jax.vjp(logits, params)
    (gradients,) = pullback(of(found, batch.labels))
    return tuple(jax.tree.map(statistic.__call__, params, gradients) for statistic in statistics)


@lifetimes.for_each_network(1, 2)
def _read_group(
    function: Callable[[Params, Any], Any],
    statistics: Statistics,
    group: tuple[int, ...],
    params: Params,
    examples: Any,
    cotangents: Any,
) -> list[tuple[Any, ...]]:
    """Return what the statistics keep of the tensors numbered by `group`."""
    leaves, structure = jax.tree.flatten(params)

    def gradients(example: Any, cotangent: Any) -> list[Array]:
        def result(chosen: list[Array]) -> Any:
            merged = list(leaves)
            for position, leaf in zip(group, chosen, strict=True):
                merged[position] = leaf
            return function(jax.tree.unflatten(structure, merged), example)

        return jax.vjp(result, [leaves[position] for position in group])[1](cotangent)[0]

    per_example = jax.vmap(gradients, axis_name=EXAMPLES)(examples, cotangents)
    return [
        tuple(
            statistic(leaves[position], each if statistic.per_example else each.sum(0))
            for statistic in statistics
        )
        for position, each in zip(group, per_example, strict=True)
    ]


def groups(sizes: list[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Yield runs of positions whose sizes sum to at most `limit`, or single larger ones."""
    group: list[int] = []
    total = 0
    for position, size in enumerate(sizes):
        if group and total + size > limit:
            yield tuple(group)
            group, total = [], 0
        group.append(position)
        total += size
    if group:
        yield tuple(group)


class _ById:
    """A callable compared by identity, for those that cannot be hashed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def hashable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, compared by identity if it cannot be hashed."""
    try:
        hash(function)
    except TypeError:
        return _ById(function)
    return function
