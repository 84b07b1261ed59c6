"""How to fine-tune: the options, their checks, the learning rate and the optimizer they stand for.

The recipe of the field for text: Devlin et al., "BERT", NAACL 2019, arXiv 1810.04805, appendix A.3;
AdamW of Loshchilov and Hutter, 2019, arXiv 1711.05101; with bias correction, because small sets
often fail to train without (Mosbach et al., 2021, arXiv 2006.04884).
"""

import math
from typing import NamedTuple

import optax

from jaxnas.training.options import is_weight


class FineTuneOptions(NamedTuple):
    """How to fine-tune.

    Attributes:
        epochs: at most; the learning rate reaches 0 after the last.
        learning_rate: the highest of the schedule.
        warmup: share of all steps in which it rises linearly from 0.
        weight_decay: of tensors of rank 2 and more.
        clip_norm: largest norm of the gradient of a step.
        patience: epochs without a better one on the dev set before training ends; 0 for all epochs.
        seed: of the order of examples and of the dropout.
    """

    epochs: int = 4
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    patience: int = 0
    seed: int = 0


def check_options(options: FineTuneOptions) -> None:
    """Check every option.

    Raises:
        ValueError: one is out of its range; the message names it.
    """
    for name, least in {"epochs": 1, "patience": 0, "seed": 0}.items():
        value = getattr(options, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}: got {value!r}.")
    for name in ("learning_rate", "clip_norm"):
        value = getattr(options, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite: got {value}.")
    if not 0 <= options.warmup < 1:
        raise ValueError(f"warmup must be at least 0 and below 1: got {options.warmup}.")
    if not 0 <= options.weight_decay < math.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite: got {options.weight_decay}.")


def learning_rate(options: FineTuneOptions, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step: from 0 up to its highest, down to 0."""
    rise = round(options.warmup * steps)
    up = optax.linear_schedule(0.0, options.learning_rate, rise)
    down = optax.linear_schedule(options.learning_rate, 0.0, steps - rise)
    return optax.join_schedules([up, down], [rise])


def make_optimizer(options: FineTuneOptions, steps: int) -> optax.GradientTransformation:
    """Return AdamW with clipped gradients and the schedule of `steps` steps."""
    return optax.chain(
        optax.clip_by_global_norm(options.clip_norm),
        optax.adamw(
            learning_rate(options, steps), weight_decay=options.weight_decay, mask=is_weight
        ),
    )
