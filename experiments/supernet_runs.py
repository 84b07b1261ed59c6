"""What the experiments on supernets share: their flags, the images, the training, the agreement."""

import functools
import itertools
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import datasets
from jaxnas.launch import say
from jaxnas.runs import Plot, figures
from jaxnas.spaces.mobilenetv2_space import SearchedNetwork
from jaxnas.supernet import (
    SupernetRecord,
    TrainedSupernet,
    indicators,
    parameters,
    recipes,
    train_recipe,
)
from jaxnas.supernet.recipes import Recipe

_RECIPE = flags.DEFINE_enum(
    "recipe", "fair", tuple(recipes.BY_NAME), "Recipe to train the supernet by."
)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Number of passes over the training images.", 1)
_TRAIN_BATCH = flags.DEFINE_integer("train_batch", 64, "Number of images of a training step.", 1)
_RATE = flags.DEFINE_float("learning_rate", None, "Learning rate. [the recipe's]")
_TRAINED = flags.DEFINE_enum(
    "trained", None, get_args(parameters.Trained), "Parameters to train. [the recipe's]"
)
_CLASSIFIER = flags.DEFINE_bool("classifier", None, "Train the classifier. [the recipe's]")
_VALID = flags.DEFINE_integer(
    "valid_size", 256, "Number of training images held out to judge paths by.", 1
)
_AUGMENT = flags.DEFINE_bool("augment", True, "Crop and mirror the training images at random.")
_INIT = flags.DEFINE_string(
    "initialization", None, "Initialization of the supernet's kernels. [the recipe's]"
)

SAME, OTHER = "same weights", "other weights"


class Images(NamedTuple):
    """Normalized images `[N, H, W, C]` and labels `int[N]`, to train by and to judge paths by."""

    train: tuple[Any, Any]
    valid: tuple[Any, Any]


Runs = dict[tuple[int, int], TrainedSupernet]
"""Supernets by the seed of their weights and the number of the order of their images."""


def recipe() -> Recipe:
    """Return the recipe that the flags name."""
    named = recipes.BY_NAME[_RECIPE.value]
    return named._replace(
        trained=cast(parameters.Trained, _TRAINED.value or named.trained),
        classifier=named.classifier if _CLASSIFIER.value is None else _CLASSIFIER.value,
        initialization=_INIT.value or named.initialization,
        options=named.options._replace(
            epochs=_EPOCHS.value,
            batch_size=_TRAIN_BATCH.value,
            learning_rate=_RATE.value or named.options.learning_rate,
            crop_padding=None if _AUGMENT.value else 0,
            flip=_AUGMENT.value,
        ),
    )


def describe(recipe: Recipe) -> str:
    """Return the training in words, for the subtitle of a report."""
    return (
        f"Recipe {recipe.name}: {recipe.options.epochs} epochs of {recipe.options.batch_size} "
        f"images a step, rate {recipe.options.learning_rate}; kernels drawn by "
        f"{recipe.initialization}, trained: {recipe.trained}, classifier "
        f"{'trained' if recipe.classifier else 'frozen'}, beside the blocks: {recipe.bypass}; "
        f"{_VALID.value} images held out."
    )


def images(setting: common.Setting) -> Images:
    """Return the training images, some of them held out: the same for all seeds."""
    dataset = setting.dataset
    inputs = datasets.resize(datasets.normalize(dataset, dataset.x_train), setting.image_size)
    if len(inputs) <= _VALID.value:
        raise ValueError(
            f"valid_size must leave training images: got {_VALID.value} of {len(inputs)}."
        )
    held_out = np.random.default_rng(0).permutation(len(inputs)) < _VALID.value
    return Images(*((inputs[part], dataset.y_train[part]) for part in (~held_out, held_out)))


def train(
    module: SearchedNetwork,
    recipe: Recipe,
    images: Images,
    folder: Path,
    seeds: tuple[int, ...],
    num_orders: int = 1,
) -> Runs:
    """Return trained supernets, by seed and order; a run that was interrupted goes on."""
    runs = {}
    for seed, order in itertools.product(seeds, range(num_orders)):
        runs[seed, order] = train_recipe(
            module,
            recipe._replace(options=recipe.options._replace(seed=1000 * seed + order)),
            *images,
            key=jax.random.key(seed),
            checkpoint_dir=folder / f"supernet_{seed}_{order}",
            progress=functools.partial(_tell, f"seed {seed}, order {order}"),
        )
    return runs


def _tell(label: str, record: SupernetRecord) -> None:
    say(f"{label}: step {record.step}, loss {record.loss:.3f}, drift {record.drift:.3f}")


def agreement(runs: Runs) -> dict[str, pd.Series]:
    """Return Kendall's tau of each pair of runs, of the same weights and of others."""
    taus: dict[str, list[float]] = {SAME: [], OTHER: []}
    for one, two in itertools.combinations(runs, 2):
        tau = indicators.agreement(runs[one].indicators, runs[two].indicators)
        taus[SAME if one[0] == two[0] else OTHER].append(tau)
    return {kind: pd.Series(each, dtype=float) for kind, each in taus.items()}


def loss_curves(runs: Runs) -> Plot:
    """Return the loss of training over its steps, of as many runs as there are colors."""
    curves = {}
    for (seed, order), run in list(runs.items())[: len(figures.PALETTE)]:
        history = pd.DataFrame(run.supernet.history).set_index("step")
        curves[f"seed {seed}, order {order}"] = history["loss"]
    figure = figures.curves(curves, x="step", y="loss (nats)")
    return Plot("Training", figure, "Mean loss of the paths, label smoothing included.")
