"""One pass over a training set."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxnas.gradients import as_outputs, losses
from jaxnas.tasks import Targets
from jaxnas.training.options import TrainingOptions, make_optimizer, smoothed_cross_entropy
from jaxnas.types import ApplyFn, Array, Params

KEPT = 2
"""Networks whose compiled programs are kept: each takes up to a thousand memory maps, and XLA ends
the process at the 65,530 that Linux allows by default."""


class State(NamedTuple):
    """What one training step hands to the next.

    Attributes:
        params: of the network.
        optimizer: momentum and step counter of optax.
        statistics: running statistics of the normalization layers.
        step: `int32[]`, number of steps done.
    """

    params: Params
    optimizer: Any
    statistics: Any
    step: Array


class Epoch(NamedTuple):
    """What one epoch gives.

    Attributes:
        state: after its last step.
        loss: `float32[]`, mean over its steps, in nats if it is the cross-entropy.
        accuracy: `float32[]`, percent of its augmented examples, while they were learned; nan of
            `tasks.Targets`.
        finite: `bool[]`, whether losses, parameters and statistics all are.
    """

    state: State
    loss: Array
    accuracy: Array
    finite: Array


def initial_state(
    train_fn: ApplyFn, params: Params, inputs: Array, labels: Any, options: TrainingOptions
) -> State:
    """Return the state before the first step.

    Raises:
        ValueError: if a label is not one of the network's classes.
    """
    # An explicit type, because a Python number would change its own after the first step.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), params)
    steps, batch_size = epoch_size(options, len(inputs))
    outputs = as_outputs(jax.eval_shape(train_fn, params, inputs[:batch_size]))
    classes = outputs.logits.shape[-1]
    if not isinstance(labels, Targets) and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"Labels must be in 0..{classes - 1}, the classes of the network: got "
            f"{labels.min()}..{labels.max()}."
        )
    statistics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs.statistics)
    return State(params, make_optimizer(options, steps).init(params), statistics, jnp.int32(0))


def learn(
    train_fn: ApplyFn,
    options: TrainingOptions,
    state: State,
    key: Array,
    inputs: Array,
    labels: Any,
) -> Epoch:
    """Return what one epoch over `inputs` `[N, ...]` and their labels gives.

    On an accelerator the epoch is one compiled call, a scan over its steps. On CPU it is one call a
    step: XLA rearranges the convolutions of a backward pass for its fast routines only outside of
    loops, and inside a scan they take about 30 times as long.
    """
    draws = _draws(options, key, len(inputs))
    step, scan = _compiled(train_fn, options)
    if {device.platform for device in inputs.devices()} == {"cpu"}:
        reports = []
        for draw in zip(*draws, strict=True):
            state, report = step(inputs, labels, state, draw)
            reports.append(report)
        losses, correct = map(jnp.stack, zip(*reports, strict=True))
    else:
        state, (losses, correct) = scan(inputs, labels, state, draws)
    finite = _all_finite((state.params, state.statistics, losses))
    return Epoch(state, losses.mean(), 100 * correct.mean(), finite)


@lru_cache(maxsize=KEPT)
def _compiled(
    train_fn: ApplyFn, options: TrainingOptions
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a step, and the scan over all steps of an epoch, compiled for one network.

    With these two functions their programs go; a function that is compiled for all networks would
    keep those of each.
    """
    return jax.jit(partial(_step, train_fn, options)), jax.jit(partial(_scan, train_fn, options))


def _step(
    train_fn: ApplyFn,
    options: TrainingOptions,
    inputs: Array,
    labels: Any,
    state: State,
    draw: tuple[Array, Array],
) -> tuple[State, tuple[Array, Array]]:
    """Return the state after a step over the drawn examples, their loss and share of correct."""
    key, chosen = draw
    images = augment(key, inputs[chosen], crop_padding=options.crop_padding, flip=options.flip)
    wanted = jax.tree.map(lambda leaf: leaf[chosen], labels)

    def loss_fn(params: Params) -> tuple[Array, tuple[Any, Array]]:
        outputs = as_outputs(train_fn(params, images))
        if isinstance(wanted, Targets):
            loss = losses(outputs.logits, wanted).mean()
        else:
            loss = smoothed_cross_entropy(outputs.logits, wanted, options.label_smoothing)
        return loss, (outputs.statistics, is_correct(outputs.logits, wanted).mean())

    (loss, (statistics, correct)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    optimizer = make_optimizer(options, epoch_size(options, len(inputs))[0])
    updates, moments = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    statistics = running_average(
        state.statistics, statistics, state.step, options.statistics_momentum
    )
    return State(params, moments, statistics, state.step + 1), (loss, correct)


def _scan(
    train_fn: ApplyFn,
    options: TrainingOptions,
    inputs: Array,
    labels: Any,
    state: State,
    draws: tuple[Array, Array],
) -> tuple[State, tuple[Array, Array]]:
    """Return the state after all steps, and loss and share of correct of each."""
    return jax.lax.scan(partial(_step, train_fn, options, inputs, labels), state, draws)


def is_correct(logits: Array, labels: Any) -> Array:
    """Return 1 for each example that is classified correctly and 0 for others, `[B]`.

    Args:
        logits: `[B, K]`.
        labels: `int[B]`; of `tasks.Targets` nothing is correct or not: nan.
    """
    if isinstance(labels, Targets):
        return jnp.full(len(logits), jnp.nan)
    return (logits.argmax(-1) == labels).astype(jnp.float32)


@partial(jax.jit, static_argnames=("options", "count"))
def _draws(options: TrainingOptions, key: Array, count: int) -> tuple[Array, Array]:
    """Return an augmentation key and the example indices of each step of an epoch."""
    steps, batch_size = epoch_size(options, count)
    order_key, augment_key = jax.random.split(key)
    order = jax.random.permutation(order_key, count)[: steps * batch_size]
    return jax.random.split(augment_key, steps), order.reshape(steps, batch_size)


@jax.jit
def _all_finite(tree: Any) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def augment(key: Array, images: Array, *, crop_padding: int | None, flip: bool) -> Array:
    """Return randomly shifted and mirrored images `[B, H, W, C]`, of the same shape.

    Args:
        key: of the draw.
        images: `[B, H, W, C]`; of any shape if nothing is to be done.
        crop_padding: largest shift, in pixels; zeros move in. None is an eighth of the side.
        flip: whether to mirror each image left to right with probability 1/2.
    """
    crop_key, flip_key = jax.random.split(key)
    if crop_padding is None:
        crop_padding = images.shape[1] // 8
    if crop_padding:
        margin = (crop_padding, crop_padding)
        padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))
        corners = jax.random.randint(crop_key, (len(images), 2), 0, 2 * crop_padding + 1)

        def crop(image: Array, corner: Array) -> Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

        images = jax.vmap(crop)(padded, corners)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def running_average(average: Any, new: Any, step: ArrayLike, momentum: float) -> Any:
    """Return the exponential moving average of statistics, unbiased from the first step on.

    The plain average `m a + (1 - m) new`, started from zeros, is too small by `1 - m^(step + 1)`
    (Kingma and Ba, 2015, arXiv:1412.6980, section 3). Dividing that out at each step is the same as
    giving the new statistics the weight `(1 - m) / (1 - m^(step + 1))`: 1 at first, so that the
    average starts from the first batch, and `1 - m` in the long run.

    Args:
        average: pytree of arrays; of no influence at step 0.
        new: statistics of the batch.
        step: `int[]`, number of batches before this one.
        momentum: `m` in `[0, 1)`.
    """
    weight = (1 - momentum) / (1 - momentum ** (jnp.asarray(step, jnp.float32) + 1))
    return jax.tree.map(
        lambda old, batch: (old + weight * (batch - old)).astype(old.dtype), average, new
    )


def epoch_size(options: TrainingOptions, count: int) -> tuple[int, int]:
    """Return steps an epoch and examples a step; an incomplete last batch is left out."""
    batch_size = min(options.batch_size, count)
    return count // batch_size, batch_size
