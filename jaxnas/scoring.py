"""Scoring one network, of your own or of a space, by any set of proxies."""

import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import engine, gradients
from jaxnas.proxies import resolve
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy


def score(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch | tuple[ArrayLike, ArrayLike],
    proxies: str | Proxy | Iterable[str | Proxy],
    *,
    key: Array | None = None,
) -> dict[str, float]:
    """Return the scores of one network; larger is better.

    Args:
        apply_fn: any `apply_fn(params, inputs)` that gives logits `[B, K]` or `Outputs`: Flax
            (linen, nnx), Equinox or plain JAX.
        params: its parameters, a pytree of arrays.
        batch: `(inputs [B, ...], labels [B])`.
        proxies: names from `jaxnas.proxies.BY_NAME`, or `Proxy` values.
        key: for scores that draw random numbers.

    Returns:
        Scores by name: `-inf` if no gradient reaches any tensor, nan if the network is not finite.

    Raises:
        ValueError: an unknown proxy, or a batch or a network that does not fit (see
            `validate_batch`).
    """
    resolved = resolve(proxies)
    batch = validate_batch(batch)
    validate_network(apply_fn, params, batch)
    key = jax.random.key(0) if key is None else key
    values = engine.values(resolved, apply_fn, params, batch, key)
    return dict(zip((proxy.name for proxy in resolved), values.tolist(), strict=True))


def validate_batch(batch: Batch | tuple[ArrayLike, ArrayLike]) -> Batch:
    """Return the batch as arrays, checked.

    Raises:
        ValueError: no example, another number of labels, labels that are not integers `[B]` from 0,
            or inputs that are not finite numbers.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"A batch is (inputs, labels): got {type(batch).__name__}; pass a pair.")
    inputs, labels = batch
    if not isinstance(labels, jax.Array):
        labels = np.asarray(labels)  # JAX would wrap 64-bit integers before they can be checked
    inputs = jax.tree.map(jnp.asarray, inputs)
    arrays = jax.tree.leaves(inputs)
    for own in arrays:
        if own.ndim < 2 or own.shape[:1] != arrays[0].shape[:1] or not own.shape[0]:
            raise ValueError(
                f"A batch needs examples [B, ...]: got inputs {own.shape}; pass B > 0."
            )
    count = len(arrays[0])
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels are integers [{count}], one an example: "
            f"got {labels.dtype}{list(labels.shape)}; pass class numbers, not one-hot rows."
        )
    if int(labels.min()) < 0:
        raise ValueError(f"Labels count from 0: got {int(labels.min())}; shift or drop them.")
    if int(labels.max()) >= 2**31:
        raise ValueError(f"Labels are class numbers: got {int(labels.max())}; count from 0.")
    for own in arrays:
        if jnp.issubdtype(own.dtype, jnp.floating) and not bool(jnp.isfinite(own).all()):
            raise ValueError(
                "Inputs must be finite: got nan or inf; clean or normalise the images."
            )
    return Batch(inputs, jnp.asarray(labels, jnp.int32))


def validate_network(apply_fn: ApplyFn, params: Params, batch: Batch) -> None:
    """Raise `ValueError` unless the network can be scored on the batch.

    It needs parameters that can be differentiated, and gives logits `[B, K]` for any number of
    examples, of as many classes as the labels have.
    """
    leaves = jax.tree.leaves(params)
    kinds = {str(jnp.result_type(leaf)) for leaf in leaves}
    if not leaves or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(
            f"A score needs parameters, floating arrays: got {', '.join(sorted(kinds)) or 'none'}; "
            "pass a pytree of them as params and close over the rest."
        )
    if isinstance(params, Mapping) and "batch_stats" in params:
        raise ValueError(
            "params must be parameters alone: got batch_stats too; pass variables['params'] and "
            "close over the statistics in apply_fn."
        )
    classes = 0
    for count in (len(batch.labels), 1):
        inputs = jax.tree.map(lambda own, count=count: own[:count], batch.inputs)
        given = jax.eval_shape(functools.partial(gradients.outputs, apply_fn), params, inputs)
        shape: tuple[int, ...] = getattr(given.logits, "shape", ())
        if len(shape) != 2 or shape[0] != count:
            raise ValueError(
                f"apply_fn must give logits [{count}, K] for {count} examples: got "
                f"{list(shape) or type(given.logits).__name__}; return one row of class scores "
                "an example, whatever their number."
            )
        classes = shape[1]
    if int(batch.labels.max()) >= classes:
        raise ValueError(
            f"Labels must be below the {classes} logits: got {int(batch.labels.max())}; "
            "match the number of classes."
        )
