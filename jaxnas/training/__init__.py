"""Training of one network: SGD, augmentation, running statistics, and checkpoints that resume.

The recipe of the field for small images: stochastic gradient descent with Nesterov momentum, weight
decay and a cosine schedule, random crops and mirror images.

A network is two functions, because normalization layers work differently while they learn:

- `train_fn(params, inputs)` normalizes with the batch and returns `Outputs` whose `statistics` are
  the means and variances of this batch, in any pytree (bare logits if there are none);
- `eval_fn(params, statistics, inputs)` normalizes with the running statistics instead.
"""

from jaxnas.training.epoch import augment, running_average
from jaxnas.training.evaluation import EvalFn, Evaluation, accuracy, evaluate
from jaxnas.training.loop import EpochRecord, TrainingResult, train
from jaxnas.training.options import TrainingOptions, learning_rate_schedule

__all__ = [
    "EpochRecord",
    "EvalFn",
    "Evaluation",
    "TrainingOptions",
    "TrainingResult",
    "accuracy",
    "augment",
    "evaluate",
    "learning_rate_schedule",
    "running_average",
    "train",
]
