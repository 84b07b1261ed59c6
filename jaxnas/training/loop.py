"""The training of one network from its initial parameters to its result."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnas.tasks import Targets, loss_name
from jaxnas.training import checkpoints
from jaxnas.training.epoch import State, epoch_size, initial_state, learn
from jaxnas.training.evaluation import EvalFn, Evaluation, evaluate
from jaxnas.training.options import TrainingOptions, check_options, learning_rate_schedule
from jaxnas.types import ApplyFn, Array, Params


class EpochRecord(NamedTuple):
    """What happened in one epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss of its steps, in nats if it is the cross-entropy.
        train_accuracy: percent, of the augmented examples while they were learned.
        valid_accuracy: percent, after the epoch, with the running statistics; nan if it diverged,
            or if labels are `tasks.Targets`.
        valid_loss: the mean, of the same; nan if it diverged.
        learning_rate: of its first step.
    """

    epoch: int
    loss: float
    train_accuracy: float
    valid_accuracy: float
    valid_loss: float
    learning_rate: float


class TrainingResult(NamedTuple):
    """A trained network.

    Attributes:
        params: after the last epoch; if training diverged, after the last finite one.
        statistics: running statistics for `eval_fn`, of the same moment.
        history: one record an epoch, the diverged one included.
        diverged: whether loss, parameters or statistics became infinite or NaN, which ended the
            training.
    """

    params: Params
    statistics: Any
    history: tuple[EpochRecord, ...]
    diverged: bool


def train(
    train_fn: ApplyFn,
    eval_fn: EvalFn,
    params: Params,
    x_train: ArrayLike,
    y_train: ArrayLike | Targets,
    x_valid: ArrayLike,
    y_valid: ArrayLike | Targets,
    options: TrainingOptions,
    *,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> TrainingResult:
    """Return the trained parameters of a network, and how the training went.

    With `checkpoint_dir`, every epoch is saved, and a run that was killed goes on after its last
    epoch; where the operations are deterministic (they are on CPU), it ends at the same bits as a
    run that was not. Options, data and initial parameters must be those of the interrupted run.
    The folder cannot tell one `train_fn` from another: use one folder a network.

    Args:
        train_fn: the network while it learns; see `jaxnas.training`.
        eval_fn: the network with running statistics.
        params: initial parameters, floating.
        x_train: `[N, ...]`, normalized inputs; images are `[N, H, W, C]`.
        y_train: `int[N]`, labels in `[0, K)`; or `tasks.Targets`, values `[N, ...]` with the loss
            that is minimized.
        x_valid: `[M, ...]`.
        y_valid: `int[M]`, or `tasks.Targets`.
        options: see `TrainingOptions`.
        checkpoint_dir: where to save and from where to resume; None saves nothing.
        progress: called with the record of each epoch, after the epoch was saved.

    Raises:
        ValueError: if an option is out of range, the data do not fit together, or the folder holds
            another run.
    """
    check_options(options)
    train_set = _examples("training", x_train, y_train)
    valid_set = _examples("validation", x_valid, y_valid)
    _check_inputs(train_set[0], valid_set[0], options)
    initial = initial_state(train_fn, params, *train_set, options)
    run = options._asdict() | {
        "params": checkpoints.digest(params),
        "data": checkpoints.digest(jax.tree.leaves((train_set, valid_set))),
        "loss": loss_name(y_train),
    }
    steps, batch_size = epoch_size(options, len(train_set[0]))
    schedule = learning_rate_schedule(options, steps)
    # The seed is in the keys; without it here, all seeds share one compiled epoch.
    unseeded = options._replace(seed=0)

    def epoch(state: State, history: Sequence[EpochRecord]) -> tuple[State, EpochRecord, bool]:
        index, valid = len(history), Evaluation(math.nan, math.nan)
        key = jax.random.fold_in(jax.random.key(options.seed), index)
        learned = learn(train_fn, unseeded, state, key, *train_set)
        after, finite = learned.state, bool(learned.finite)
        if finite:
            valid = evaluate(eval_fn, after.params, after.statistics, *valid_set, batch_size)
        learning = float(learned.loss), float(learned.accuracy)
        rate = float(schedule(index * steps))
        return after, EpochRecord(index + 1, *learning, valid.accuracy, valid.loss, rate), finite

    state, history, diverged = checkpoints.train_in_rounds(
        epoch,
        initial,
        EpochRecord,
        is_done=lambda history: len(history) >= options.epochs,
        run=run,
        folder=checkpoint_dir,
        progress=progress,
    )
    return TrainingResult(state.params, state.statistics, history, diverged)


def _examples(purpose: str, inputs: ArrayLike, labels: Any) -> tuple[Array, Any]:
    """Return inputs and labels on the device."""
    inputs = jnp.asarray(inputs)
    labels = labels if isinstance(labels, Targets) else jnp.asarray(labels)
    shapes = [leaf.shape for leaf in jax.tree.leaves(labels)]
    is_task = isinstance(labels, Targets)
    is_each = all(shape[:1] == inputs.shape[:1] for shape in shapes)
    if inputs.ndim < 2 or not inputs.size or not is_each or not (is_task or labels.ndim == 1):
        raise ValueError(
            f"The {purpose} set must hold inputs [N, ...] and labels [N], N > 0: got shapes "
            f"{list(inputs.shape)} and {', '.join(str(list(shape)) for shape in shapes)}."
        )
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"The {purpose} inputs must be floating: got {inputs.dtype}; normalize them first."
        )
    if not is_task and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"The {purpose} labels must be integers: got {labels.dtype}; labels of another kind "
            "are jaxnas.tasks.Targets, with their loss."
        )
    return inputs, labels


def _check_inputs(x_train: Array, x_valid: Array, options: TrainingOptions) -> None:
    if x_train.shape[1:] != x_valid.shape[1:]:
        raise ValueError(
            "Training and validation inputs must have one shape: got "
            f"{list(x_train.shape[1:])} and {list(x_valid.shape[1:])}."
        )
    if (options.crop_padding != 0 or options.flip) and x_train.ndim != 4:
        raise ValueError(
            f"crop_padding and flip need images [N, H, W, C]: got inputs {list(x_train.shape)}; "
            "set crop_padding=0 and flip=False."
        )
