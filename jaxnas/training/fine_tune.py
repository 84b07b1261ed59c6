"""Fine-tuning of a pre-trained network, and the choice of its best epoch by a dev set."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.gradients import as_outputs
from jaxnas.training import checkpoints
from jaxnas.training.adamw import FineTuneOptions, check_options, make_optimizer
from jaxnas.types import Array, Batch, Outputs, Params

TunedFn = Callable[[Any, Params, Array, Array | None], Outputs | Array]
"""`network(context, params, inputs, key)`: `context` is any pytree of arrays that is not trained,
such as an architecture; `key` is that of the dropout, None in evaluation. Compiled once for all."""

Epoch = Callable[[np.random.Generator], Iterable[Batch]]
"""`train(rng)`: the batches of one epoch, of a few shapes; the same number of them each time."""


class TunedEpoch(NamedTuple):
    """What happened in one epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss of its steps, nats.
        dev_accuracy: percent, after the epoch.
        dev_loss: mean over the examples, nats.
    """

    epoch: int
    loss: float
    dev_accuracy: float
    dev_loss: float


class FineTuned(NamedTuple):
    """A fine-tuned network.

    Attributes:
        params: after the best epoch: the highest accuracy on the dev set, and the lowest loss of
            those; the initial ones if the first epoch diverged.
        best: the record of that epoch, or None.
        history: one record an epoch.
        diverged: whether the loss became infinite or NaN, which ended the training.
    """

    params: Params
    best: TunedEpoch | None
    history: tuple[TunedEpoch, ...]
    diverged: bool


class _State(NamedTuple):
    params: Params
    optimizer: Any
    best: Params


def fine_tune(
    network: TunedFn,
    context: Any,
    params: Params,
    train: Epoch,
    dev: Sequence[Batch],
    options: FineTuneOptions,
    *,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[TunedEpoch], None] | None = None,
) -> FineTuned:
    """Return a network after fine-tuning, as it was after its best epoch.

    With `checkpoint_dir` every epoch is saved, and a run that was killed goes on after its last;
    the folder holds one run.

    Args:
        network: see `TunedFn`; hashable.
        context: its first argument.
        params: what is trained.
        train: see `Epoch`.
        dev: batches of the dev set; examples with the label -1 do not count.
        options: see `FineTuneOptions`.
        checkpoint_dir: where to save and from where to resume; None saves nothing.
        progress: called with the record of each epoch, after the epoch was saved.

    Raises:
        ValueError: an option is out of range, there are no batches, or the folder holds another
            run.
    """
    check_options(options)
    first = list(train(_rng(options, 0)))
    if not first or not dev:
        raise ValueError(
            f"Fine-tuning needs batches: got {len(first)} for training and {len(dev)} for the dev "
            "set; pass some of each."
        )
    steps = len(first) * options.epochs
    # The seed is in keys and batches; without it here, all seeds share one compiled step.
    unseeded = options._replace(seed=0)
    params = jax.tree.map(jnp.asarray, params)
    state = _State(params, make_optimizer(unseeded, steps).init(params), params)
    run = options._asdict() | {
        "params": checkpoints.digest(params),
        "data": checkpoints.digest((context, first, list(dev))),
    }

    def epoch(state: _State, history: Sequence[TunedEpoch]) -> tuple[_State, TunedEpoch, bool]:
        index = len(history)
        batches = train(_rng(options, index)) if index else first
        key = jax.random.fold_in(jax.random.key(options.seed), index)
        state, loss = _learn(network, unseeded, steps, context, state, batches, key)
        latest = TunedEpoch(index + 1, loss, *evaluate(network, context, state.params, dev))
        if _best([*history, latest]) is latest:
            state = state._replace(best=state.params)
        return state, latest, math.isfinite(loss + latest.dev_loss)

    state, history, diverged = checkpoints.train_in_rounds(
        epoch,
        state,
        TunedEpoch,
        is_done=lambda history: len(history) >= options.epochs or _stale(history, options),
        run=run,
        folder=checkpoint_dir,
        progress=progress,
    )
    return FineTuned(state.best, _best(history), history, diverged)


def evaluate(
    network: TunedFn, context: Any, params: Params, batches: Iterable[Batch]
) -> tuple[float, float]:
    """Return accuracy in percent and mean loss in nats; examples with label -1 do not count.

    Raises:
        ValueError: there are no examples that count.
    """
    counted = [_judge(network, context, params, batch) for batch in batches]
    correct, loss, count = (
        np.sum(np.array(jax.device_get(counted), float), 0) if counted else (0,) * 3
    )
    if not count:
        raise ValueError("Nothing to evaluate on: got no labeled example; pass some batches.")
    return float(100 * correct / count), float(loss / count)


@partial(jax.jit, static_argnames="network")
def _judge(
    network: TunedFn, context: Any, params: Params, batch: Batch
) -> tuple[Array, Array, Array]:
    """Return the number of correct examples, their summed loss, and how many count."""
    logits = as_outputs(network(context, params, batch.inputs, None)).logits
    counts = batch.labels >= 0
    losses = _losses(logits, batch.labels)
    correct = counts & (logits.argmax(-1) == batch.labels)
    return correct.sum(), jnp.where(counts, losses, 0).sum(), counts.sum()


def _losses(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), jnp.maximum(labels, 0)
    )


def _learn(
    network: TunedFn,
    options: FineTuneOptions,
    steps: int,
    context: Any,
    state: _State,
    batches: Iterable[Batch],
    key: Array,
) -> tuple[_State, float]:
    """Return the state after an epoch, and its mean loss."""
    params, moments, losses = state.params, state.optimizer, []
    for number, batch in enumerate(batches):
        own_key = jax.random.fold_in(key, number)
        params, moments, loss = _step(
            network, options, steps, context, params, moments, batch, own_key
        )
        losses.append(loss)
    return _State(params, moments, state.best), float(np.mean(jax.device_get(losses)))


@partial(jax.jit, static_argnames=("network", "options", "steps"))
def _step(
    network: TunedFn,
    options: FineTuneOptions,
    steps: int,
    context: Any,
    params: Params,
    moments: Any,
    batch: Batch,
    key: Array,
) -> tuple[Params, Any, Array]:
    def loss_fn(params: Params) -> Array:
        logits = as_outputs(network(context, params, batch.inputs, key)).logits
        return _losses(logits, batch.labels).mean()

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    updates, moments = make_optimizer(options, steps).update(gradients, moments, params)
    return optax.apply_updates(params, updates), moments, loss


def _best(history: Sequence[TunedEpoch]) -> TunedEpoch | None:
    finite = [each for each in history if math.isfinite(each.loss + each.dev_loss)]
    return max(finite, key=lambda epoch: (epoch.dev_accuracy, -epoch.dev_loss), default=None)


def _stale(history: Sequence[TunedEpoch], options: FineTuneOptions) -> bool:
    best = _best(history)
    return bool(options.patience and best and len(history) - best.epoch >= options.patience)


def _rng(options: FineTuneOptions, epoch: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, epoch])
