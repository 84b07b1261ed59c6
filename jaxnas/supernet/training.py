"""Training of a supernet: several paths a step on the same images, one update for all of them.

Everything that a step draws is a function of the seed and of the number of the step, so that a run
that was interrupted anywhere goes on as it would have. One program serves all paths.

Sources: Chu et al., "FairNAS", ICCV 2021, arXiv 1907.01845, algorithm 1 (strictly fair steps);
"Dynamical Isometry based Rigorous Fair Neural Architecture Search", arXiv 2307.02263 (frozen
weights). Differs from both: the gradients of the paths are averaged, not summed, so that a learning
rate means the same for any number of paths.
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas.spaces.mobilenetv2_space import SearchedNetwork
from jaxnas.supernet import indicators, parameters, sampling
from jaxnas.supernet.parameters import Flat, Split
from jaxnas.training import TrainingOptions, augment, checkpoints
from jaxnas.training.epoch import epoch_size
from jaxnas.training.options import check_options, make_optimizer, smoothed_cross_entropy
from jaxnas.types import Array

_HOPELESS = 10
"""How many times the loss of guessing ends a run."""


class SupernetRecord(NamedTuple):
    """What happened since the record before.

    Attributes:
        step: number of steps done.
        loss: mean over steps and paths, nats.
        drift: mean change of the block indicators.
    """

    step: int
    loss: float
    drift: float


class Supernet(NamedTuple):
    """A trained supernet.

    Attributes:
        params: as the network reads them.
        history: one record each `record_every` steps.
        diverged: whether the loss became infinite, NaN, or ten times that of guessing, which ended
            the training.
    """

    params: Any
    history: tuple[SupernetRecord, ...]
    diverged: bool


class _State(NamedTuple):
    trained: Flat
    optimizer: Any
    step: Array


def train(
    module: SearchedNetwork,
    split: Split,
    inputs: ArrayLike,
    labels: ArrayLike,
    options: TrainingOptions,
    *,
    paths: sampling.Paths,
    record_every: int = 50,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[SupernetRecord], None] | None = None,
) -> Supernet:
    """Return the supernet after `options.epochs` passes over the images.

    Args:
        module: the supernet, of norm `batch`.
        split: its parameters, see `parameters.split`.
        inputs: `[N, H, W, C]`, normalized.
        labels: `int[N]`.
        options: see `TrainingOptions`; an epoch visits each image once, with all paths of a step.
        paths: which paths a step trains, such as `sampling.strict_fair(num_choices)`.
        record_every: steps between records; a killed run loses no more than these.
        checkpoint_dir: where to save and from where to resume; None saves nothing. The folder holds
            one run.
        progress: called with each record, after it was saved.

    Raises:
        ValueError: an option out of range, images or labels that do not fit, nothing to train, or a
            folder that holds another run.
    """
    check_options(options)
    images, classes = jnp.asarray(inputs), jnp.asarray(labels)
    _check(module, split, images, classes, record_every)
    steps, _ = epoch_size(options, len(classes))
    total = steps * options.epochs
    unseeded = options._replace(seed=0)
    optimizer = make_optimizer(unseeded, steps)
    state = _State(split.trained, optimizer.init(split.trained), jnp.int32(0))
    key = jax.random.key(options.seed)
    run = options._asdict() | {
        "params": checkpoints.digest(split),
        "data": checkpoints.digest((images, classes)),
        "paths": checkpoints.digest(np.stack([paths(key, step) for step in range(2)])),
        "record_every": record_every,
    }
    update = functools.partial(_update, unseeded, steps)
    gradient = functools.partial(_gradient, module, unseeded, split.frozen)
    pick = functools.partial(_pick, unseeded, steps, key, images, classes)

    def some_steps(
        state: _State, history: Sequence[SupernetRecord]
    ) -> tuple[_State, SupernetRecord, bool]:
        before, losses = state, []
        stop = min(total, int(state.step) + record_every)
        for step in range(int(state.step), stop):
            batch = pick(state.step)
            pairs = [gradient(state.trained, path, *batch) for path in paths(key, step)]
            state = update(state, [each for _, each in pairs])
            losses += [loss for loss, _ in pairs]
        mean = float(np.mean(jax.device_get(losses)))
        finite = mean < _HOPELESS * math.log(module.classes)
        drift = _drift(module, split.frozen, before, state if finite else before)
        return state, SupernetRecord(stop, mean, drift), finite

    state, history, diverged = checkpoints.train_in_rounds(
        some_steps,
        state,
        SupernetRecord,
        is_done=lambda history: bool(history) and history[-1].step >= total,
        run=run,
        folder=checkpoint_dir,
        progress=progress,
    )
    params = parameters.merge(Split(state.trained, split.frozen))
    return Supernet(params, history, diverged)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(
    module: SearchedNetwork,
    options: TrainingOptions,
    frozen: Flat,
    trained: Flat,
    path: Array,
    images: Array,
    labels: Array,
) -> tuple[Array, Flat]:
    """Return the loss of a path, and its gradient with respect to what is trained.

    And to every scale and bias: the program that XLA makes for a CPU takes 1.5 to 2 times as long
    for the gradients of the last ones alone as for those of all.
    """
    others = {path: leaf for path, leaf in frozen.items() if path.endswith(("/scale", "/bias"))}

    def loss(trained: Flat) -> Array:
        params = parameters.nest(frozen | trained)
        logits = module.bound(path)(params, images).logits
        return smoothed_cross_entropy(logits, labels, options.label_smoothing)

    return jax.value_and_grad(loss)(trained | others)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _update(options: TrainingOptions, steps: int, state: _State, gradients: list[Flat]) -> _State:
    wanted = [{path: gradient[path] for path in state.trained} for gradient in gradients]
    mean = jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]) / len(leaves), *wanted)
    updates, moments = make_optimizer(options, steps).update(mean, state.optimizer, state.trained)
    trained = jax.tree.map(lambda leaf, change: leaf + change, state.trained, updates)
    return _State(trained, moments, state.step + 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pick(
    options: TrainingOptions, steps: int, key: Array, images: Array, labels: Array, step: Array
) -> tuple[Array, Array]:
    """Return the augmented images of a step, and their labels."""
    order_key, augment_key = jax.random.split(jax.random.fold_in(key, 1))
    order = jax.random.permutation(jax.random.fold_in(order_key, step // steps), len(labels))
    size = epoch_size(options, len(labels))[1]
    chosen = jax.lax.dynamic_slice(order, (step % steps * size,), (size,))
    augmented = augment(
        jax.random.fold_in(augment_key, step),
        images[chosen],
        crop_padding=options.crop_padding,
        flip=options.flip,
    )
    return augmented, labels[chosen]


def _drift(module: SearchedNetwork, frozen: Flat, before: _State, after: _State) -> float:
    first, second = (
        indicators.read(module, parameters.merge(Split(each.trained, frozen))).block
        for each in (before, after)
    )
    return float(np.nanmean(np.abs(second - first)))


def _check(
    module: SearchedNetwork, split: Split, images: Array, labels: Array, record_every: int
) -> None:
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
        raise ValueError(
            "A supernet learns from images [N, H, W, C] and labels [N], N > 0: got shapes "
            f"{list(images.shape)} and {list(labels.shape)}."
        )
    if labels.min() < 0 or labels.max() >= module.classes:
        raise ValueError(
            f"Labels must be in 0..{module.classes - 1}, the classes of the supernet: got "
            f"{labels.min()}..{labels.max()}."
        )
    if record_every < 1:
        raise ValueError(f"record_every is at least 1 step: got {record_every}.")
    if not split.trained:
        raise ValueError("Nothing is trained: got no parameters; see parameters.split.")
