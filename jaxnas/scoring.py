"""Scoring one network, of your own or of a space, by any set of proxies."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import gradients, proxies
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy


def score(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch | tuple[ArrayLike, ArrayLike],
    proxies: Iterable[str | Proxy],
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
    chosen = resolve(proxies)
    batch = validate_batch(batch)
    validate_logits(apply_fn, params, batch)
    key = jax.random.key(0) if key is None else key
    measured = [measure(apply_fn, params, batch, key) for measure in measures_of(chosen)]
    values = reduce_scores(chosen, jax.device_get(measured))
    return dict(zip((proxy.name for proxy in chosen), values.tolist(), strict=True))


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
    inputs = jnp.asarray(inputs)
    if inputs.ndim < 2 or not inputs.shape[0]:
        raise ValueError(f"A batch needs examples [B, ...]: got inputs {inputs.shape}; pass B > 0.")
    if labels.shape != inputs.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels are integers [{inputs.shape[0]}], one an example: "
            f"got {labels.dtype}{list(labels.shape)}; pass class numbers, not one-hot rows."
        )
    if int(labels.min()) < 0:
        raise ValueError(f"Labels count from 0: got {int(labels.min())}; shift or drop them.")
    if int(labels.max()) >= 2**31:
        raise ValueError(f"Labels are class numbers: got {int(labels.max())}; count from 0.")
    if jnp.issubdtype(inputs.dtype, jnp.floating) and not bool(jnp.isfinite(inputs).all()):
        raise ValueError("Inputs must be finite: got nan or inf; clean or normalise the images.")
    return Batch(inputs, jnp.asarray(labels, jnp.int32))


def validate_logits(apply_fn: ApplyFn, params: Params, batch: Batch) -> None:
    """Raise `ValueError` unless the network gives logits `[B, K]` that the labels fit."""
    if not jax.tree.leaves(params):
        raise ValueError("A score needs parameters: got none; pass a pytree of arrays as params.")
    shape = jax.eval_shape(functools.partial(gradients.outputs, apply_fn), params, batch.inputs)
    logits: tuple[int, ...] = getattr(shape.logits, "shape", ())
    if len(logits) != 2 or logits[0] != batch.labels.size:
        raise ValueError(
            f"apply_fn must give logits [{batch.labels.size}, K]: got {list(logits)}; "
            "return one row of class scores an example."
        )
    if int(batch.labels.max()) >= logits[1]:
        raise ValueError(
            f"Labels must be below the {logits[1]} logits: got {int(batch.labels.max())}; "
            "match the number of classes."
        )


def measures_of(chosen: Iterable[Proxy]) -> tuple[Any, ...]:
    """Return the measures, each once."""
    return tuple(dict.fromkeys(proxy.measure for proxy in chosen))


def reduce_scores(chosen: tuple[Proxy, ...], measured: Any) -> np.ndarray:
    """Return the scores in float64: differences and small eigenvalues are lost in float32."""
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: (
                leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            ),
            measured,
        )
        return np.asarray(_reduce_wide(chosen, wide))


@functools.partial(jax.jit, static_argnums=0)
def _reduce_wide(chosen: tuple[Proxy, ...], measured: Any) -> Array:
    by_measure = dict(zip(measures_of(chosen), measured, strict=True))
    scores = [proxy.reduce(by_measure[proxy.measure]) for proxy in chosen]
    return jnp.stack([jnp.asarray(own, jnp.float64) for own in scores])


def resolve(chosen: str | Iterable[str | Proxy]) -> tuple[Proxy, ...]:
    """Return proxies given by name or as they are; a single name will do."""
    if isinstance(chosen, str):
        chosen = [chosen]
    return tuple(proxies.resolve(chosen))
