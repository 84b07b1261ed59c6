"""How well a trained network does."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnas.gradients import as_outputs
from jaxnas.training.epoch import KEPT
from jaxnas.types import Array, Outputs, Params

EvalFn = Callable[[Params, Any, Array], Outputs | Array]
"""`eval_fn(params, statistics, inputs)`: `Outputs`, or the bare logits `[B, K]`."""


def accuracy(
    eval_fn: EvalFn,
    params: Params,
    statistics: Any,
    inputs: ArrayLike,
    labels: ArrayLike,
    batch_size: int,
) -> float:
    """Return the share of correctly classified examples, in percent.

    Args:
        eval_fn: the network with running statistics.
        params: its parameters.
        statistics: its running statistics, or ().
        inputs: `[N, ...]`, normalised.
        labels: `int[N]`.
        batch_size: examples at a time; the last batch is filled up with examples that do not count,
            so that one program serves all batches.

    Raises:
        ValueError: if there are no examples, not one label each, or `batch_size` is below 1.
    """
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    if not inputs.ndim or labels.shape != inputs.shape[:1] or not len(labels):
        raise ValueError(
            "accuracy needs inputs [N, ...] and labels [N], N > 0: got shapes "
            f"{list(inputs.shape)} and {list(labels.shape)}."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}.")
    batch_size = min(batch_size, len(labels))
    correct = _compiled(eval_fn, batch_size)(params, statistics, inputs, labels)
    return 100.0 * int(correct) / len(labels)


@lru_cache(maxsize=KEPT)
def _compiled(eval_fn: EvalFn, batch_size: int) -> Callable[..., Array]:
    """Return the count of correct answers, compiled for one network; the program goes with it."""
    return jax.jit(partial(_count_correct, eval_fn, batch_size))


def _count_correct(
    eval_fn: EvalFn,
    batch_size: int,
    params: Params,
    statistics: Any,
    inputs: Array,
    labels: Array,
) -> Array:
    count = len(labels)
    positions = jnp.arange(-(-count // batch_size) * batch_size).reshape(-1, batch_size)

    def correct(chosen: Array) -> Array:
        present = jnp.minimum(chosen, count - 1)
        logits = as_outputs(eval_fn(params, statistics, inputs[present])).logits
        return jnp.sum((logits.argmax(-1) == labels[present]) & (chosen < count))

    return jax.lax.map(correct, positions).sum()
