"""How well a trained network does: its loss, and how often it is right."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnas.gradients import as_outputs, losses
from jaxnas.tasks import Targets
from jaxnas.training.epoch import KEPT, is_correct
from jaxnas.types import Array, Outputs, Params

EvalFn = Callable[[Params, Any, Array], Outputs | Array]
"""`eval_fn(params, statistics, inputs)`: `Outputs`, or the bare logits `[B, K]`."""


class Evaluation(NamedTuple):
    """How well a network does on some examples.

    Attributes:
        loss: the mean, in nats if it is the cross-entropy.
        accuracy: percent; nan where labels are not class numbers.
    """

    loss: float
    accuracy: float


def evaluate(
    eval_fn: EvalFn,
    params: Params,
    statistics: Any,
    inputs: ArrayLike,
    labels: ArrayLike | Targets,
    batch_size: int,
) -> Evaluation:
    """Return the mean loss of some examples, and the share that is classified correctly.

    Args:
        eval_fn: the network with running statistics.
        params: its parameters.
        statistics: its running statistics, or ().
        inputs: `[N, ...]`, normalized.
        labels: `int[N]`, or `tasks.Targets` of N examples.
        batch_size: examples at a time; the last batch is filled up with examples that do not count,
            so that one program serves all batches.

    Raises:
        ValueError: if there are no examples, not one label each, or `batch_size` is below 1.
    """
    inputs = jnp.asarray(inputs)
    labels = labels if isinstance(labels, Targets) else jnp.asarray(labels)
    shapes = [leaf.shape for leaf in jax.tree.leaves(labels)]
    if not inputs.size or any(shape[:1] != inputs.shape[:1] for shape in shapes):
        raise ValueError(
            "An evaluation needs inputs [N, ...] and labels [N, ...], N > 0: got shapes "
            f"{list(inputs.shape)} and {', '.join(str(list(shape)) for shape in shapes)}."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}.")
    batch_size = min(batch_size, len(inputs))
    loss, correct = _compiled(eval_fn, batch_size)(params, statistics, inputs, labels)
    return Evaluation(float(loss) / len(inputs), 100 * float(correct) / len(inputs))


def accuracy(
    eval_fn: EvalFn,
    params: Params,
    statistics: Any,
    inputs: ArrayLike,
    labels: ArrayLike,
    batch_size: int,
) -> float:
    """Return the share of correctly classified examples, in percent; see `evaluate`."""
    return evaluate(eval_fn, params, statistics, inputs, labels, batch_size).accuracy


@lru_cache(maxsize=KEPT)
def _compiled(eval_fn: EvalFn, batch_size: int) -> Callable[..., tuple[Array, Array]]:
    """Return the evaluation, compiled for one network; the program goes with it."""
    return jax.jit(partial(_sums, eval_fn, batch_size))


def _sums(
    eval_fn: EvalFn,
    batch_size: int,
    params: Params,
    statistics: Any,
    inputs: Array,
    labels: Any,
) -> tuple[Array, Array]:
    """Return the sum of the losses, and how many examples are classified correctly or nan."""
    count = len(inputs)
    positions = jnp.arange(-(-count // batch_size) * batch_size).reshape(-1, batch_size)

    def of_batch(chosen: Array) -> tuple[Array, Array]:
        present, counts = jnp.minimum(chosen, count - 1), chosen < count
        logits = as_outputs(eval_fn(params, statistics, inputs[present])).logits
        wanted = jax.tree.map(lambda leaf: leaf[present], labels)
        loss = jnp.where(counts, losses(logits.astype(jnp.float32), wanted), 0).sum()
        return loss, jnp.sum(is_correct(logits, wanted), where=counts)

    return jax.tree.map(jnp.sum, jax.lax.map(of_batch, positions))
