"""Gradients of a network: of a batch, of each example, and readings in bounded memory.

A network is any `apply_fn(params, inputs)`: Flax linen or nnx, Equinox, plain JAX.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.types import (
    ApplyFn,
    Array,
    Batch,
    Outputs,
    Params,
    PerExampleDifferentiable,
    Pullback,
    Reading,
)

MAX_BYTES = 2**28
"""Default bound of the per-example gradients that exist at the same time, 256 MiB."""


def outputs(apply_fn: ApplyFn, params: Params, inputs: Array) -> Outputs:
    """Return `Outputs`, also from a network that gives bare logits `[B, K]`."""
    return as_outputs(apply_fn(params, inputs))


def as_outputs(result: Outputs | Array) -> Outputs:
    """Return what a network gave as `Outputs`, be it bare logits."""
    return result if isinstance(result, Outputs) else Outputs(result)


@jax.jit
def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy of each example in nats, `[B]`."""
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]


@jax.jit
def cross_entropy_cotangent(logits: Array, labels: Array) -> Array:
    """Return the derivative of the summed cross-entropy, softmax - one-hot, `[B, K]`."""
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jax.nn.softmax(logits) - one_hot


def loss_gradient(apply_fn: ApplyFn, params: Params, batch: Batch) -> Params:
    """Return the gradient of the mean cross-entropy of the batch, a pytree like `params`."""
    if isinstance(apply_fn, PerExampleDifferentiable):
        # Not `jax.grad`: it costs a walk (many little operations) as much as the arithmetic.
        out, pullback = apply_fn.per_example_vjp(params, batch.inputs)
        cotangent = cross_entropy_cotangent(out.logits, batch.labels)
        return pullback(cotangent / batch.labels.size, None)

    def loss(params: Params) -> Array:
        logits = outputs(apply_fn, params, batch.inputs).logits
        return cross_entropy(logits, batch.labels).mean()

    return jax.grad(loss)(params)


def per_example_gradients(apply_fn: ApplyFn, params: Params, batch: Batch) -> Params:
    """Return the loss gradient of each example, a pytree of `[B, *shape]`: all of `B x P` numbers.

    Each example goes through the network alone, by `vmap` over `grad`.
    """

    def loss(params: Params, image: Array, label: Array) -> Array:
        logits = outputs(apply_fn, params, image[None]).logits
        return cross_entropy(logits, label[None])[0]

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, batch.inputs, batch.labels)


def jacobian(apply_fn: ApplyFn, params: Params, inputs: Array) -> Params:
    """Return the Jacobian of the logits of each example, a pytree of `[B, K, *shape]`.

    Each example goes through the network alone, by `vmap` over `jacrev`.
    """
    one = functools.partial(_logits_of_one, apply_fn)
    return jax.vmap(jax.jacrev(one), in_axes=(None, 0))(params, inputs)


def per_example_vjp(
    apply_fn: ApplyFn, params: Params, inputs: Array, *, max_bytes: int = MAX_BYTES
) -> tuple[Outputs, Pullback]:
    """Return the outputs and the pullback to readings of the per-example gradients.

    A network that brings its own (`PerExampleDifferentiable`) reads layer by layer in one backward
    pass. For any other, examples go through alone under `vmap`, and tensors are differentiated in
    groups whose per-example gradients take at most `max_bytes` together (a larger tensor alone):
    one backward pass a group.

    Raises:
        ValueError: `max_bytes` is not positive.
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be positive: got {max_bytes}; the default is 2**28.")
    if isinstance(apply_fn, PerExampleDifferentiable):
        return apply_fn.per_example_vjp(params, inputs)
    network = _hashable(apply_fn)
    leaves, structure = jax.tree.flatten(params)
    logits = _logits_one_by_one(network, params, inputs)

    def pullback(cotangent: Array, reading: Reading | None) -> Params:
        readings: list[Any] = []
        for group in _groups([leaf.nbytes * inputs.shape[0] for leaf in leaves], max_bytes):
            readings += _read_group(network, reading, group, params, inputs, cotangent)
        return jax.tree.unflatten(structure, readings)

    return Outputs(logits), pullback


def _logits_of_one(apply_fn: ApplyFn, params: Params, image: Array) -> Array:
    return outputs(apply_fn, params, image[None]).logits[0]


@functools.partial(jax.jit, static_argnames="apply_fn")
def _logits_one_by_one(apply_fn: ApplyFn, params: Params, inputs: Array) -> Array:
    one = functools.partial(_logits_of_one, apply_fn)
    return jax.vmap(one, in_axes=(None, 0))(params, inputs)


@functools.partial(jax.jit, static_argnames=("apply_fn", "reading", "group"))
def _read_group(
    apply_fn: ApplyFn,
    reading: Reading | None,
    group: tuple[int, ...],
    params: Params,
    inputs: Array,
    cotangent: Array,
) -> list[Any]:
    """Return the readings of the tensors numbered by `group`."""
    leaves, structure = jax.tree.flatten(params)

    def gradients(image: Array, image_cotangent: Array) -> list[Array]:
        def logits(chosen: list[Array]) -> Array:
            merged = list(leaves)
            for position, leaf in zip(group, chosen, strict=True):
                merged[position] = leaf
            return _logits_of_one(apply_fn, jax.tree.unflatten(structure, merged), image)

        return jax.vjp(logits, [leaves[position] for position in group])[1](image_cotangent)[0]

    per_example = jax.vmap(gradients)(inputs, cotangent)
    return [leaf.sum(0) if reading is None else reading(leaf) for leaf in per_example]


def _groups(sizes: list[int], limit: int) -> Iterator[tuple[int, ...]]:
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
    """A callable compared by identity, for networks that cannot be hashed."""

    def __init__(self, apply_fn: ApplyFn) -> None:
        self.apply_fn = apply_fn

    def __call__(self, params: Params, inputs: Array) -> Outputs | Array:
        return self.apply_fn(params, inputs)


def _hashable(apply_fn: ApplyFn) -> ApplyFn:
    try:
        hash(apply_fn)
    except TypeError:
        return _ById(apply_fn)
    return apply_fn
