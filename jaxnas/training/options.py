"""How to train: the options, their checks, the learning rate and the optimizer they stand for."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnas.types import Array, Params


class TrainingOptions(NamedTuple):
    """How to train.

    Attributes:
        epochs: passes over the training set.
        batch_size: examples a step; a smaller training set is one batch.
        learning_rate: the highest of the schedule.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty, added to the gradient as `weight_decay * weight`, of tensors of
            rank 2 and more: biases and scales of normalization are left alone.
        warmup_epochs: epochs of linear rise from 0 to `learning_rate`, before the cosine to 0.
        clip_value: largest magnitude of an entry of a gradient; 0 clips nothing.
        label_smoothing: share of the target that is spread over all classes.
        crop_padding: pixels of zeros around an image before a random crop of its own size; None is
            an eighth of its side, 4 of 32. Inputs are normalized, so zero is the mean color.
        flip: mirror half of the images left to right.
        statistics_momentum: share of the running statistics that survives a step.
        seed: of the order of examples and of the augmentation.
    """

    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 0
    clip_value: float = 0.0
    label_smoothing: float = 0.0
    crop_padding: int | None = None
    flip: bool = True
    statistics_momentum: float = 0.9
    seed: int = 0


def check_options(options: TrainingOptions) -> None:
    """Check every option.

    Raises:
        ValueError: if one is out of its range; the message names it.
    """
    if options.crop_padding is None:
        options = options._replace(crop_padding=0)
    for name, value in options._asdict().items():
        if not isinstance(value, int | float):
            raise ValueError(f"{name} must be a plain Python number: got {value!r}.")
    least = {"epochs": 1, "batch_size": 1, "warmup_epochs": 0, "crop_padding": 0, "seed": 0}
    for name, lowest in least.items():
        value = getattr(options, name)
        if not isinstance(value, int) or value < lowest:
            raise ValueError(f"{name} must be an int of at least {lowest}: got {value!r}.")
    for name in ("momentum", "label_smoothing", "statistics_momentum"):
        value = getattr(options, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1: got {value}.")
    if not 0 < options.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be above 0 and finite: got {options.learning_rate}.")
    for name in ("weight_decay", "clip_value"):
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite: got {value}.")
    if options.warmup_epochs >= options.epochs:
        raise ValueError(
            f"warmup_epochs must be below epochs={options.epochs}: got {options.warmup_epochs}."
        )


def learning_rate_schedule(options: TrainingOptions, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    It rises linearly from 0 at step 0 to `learning_rate` at the end of the warm-up, and falls along
    half a cosine (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5) to 0 after the last step.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=options.learning_rate,
        warmup_steps=options.warmup_epochs * steps_per_epoch,
        decay_steps=options.epochs * steps_per_epoch,
    )


def make_optimizer(options: TrainingOptions, steps_per_epoch: int) -> optax.GradientTransformation:
    """Return stochastic gradient descent with Nesterov momentum, weight decay and schedule.

    Gradients are clipped before the weight decay is added.
    """
    return optax.chain(
        optax.clip(options.clip_value) if options.clip_value else optax.identity(),
        optax.add_decayed_weights(options.weight_decay, mask=is_weight),
        optax.sgd(
            learning_rate_schedule(options, steps_per_epoch), options.momentum, nesterov=True
        ),
    )


def is_weight(params: Params) -> Any:
    """Return which tensors are matrices or filters, not biases or scales: those that decay."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def smoothed_cross_entropy(logits: Array, labels: Array, smoothing: float) -> Array:
    """Return the mean cross-entropy in nats of `logits` `[B, K]`, `float32[]`.

    Args:
        logits: before the softmax.
        labels: `int[B]`.
        smoothing: share of the target that is spread over all classes.
    """
    logits = logits.astype(jnp.float32)
    goal = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, goal).mean()
