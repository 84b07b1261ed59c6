"""A supernet of an experiment: its flags, its training by a recipe, the scores that it gives."""

from pathlib import Path
from typing import NamedTuple, cast, get_args

import jax
import numpy as np
from absl import flags

from experiments import common
from jaxnas import datasets
from jaxnas.launch import say
from jaxnas.spaces.mobilenetv2 import SearchedNetwork, num_choices
from jaxnas.supernet import Supernet, indicators, inherited, parameters, recipes, sampling, train
from jaxnas.supernet.recipes import Recipe
from jaxnas.types import Array

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


class Images(NamedTuple):
    """What a supernet learns from, and what its paths are judged by.

    Attributes:
        train: images `[N, H, W, C]`, normalised, and labels `int[N]`.
        valid: of others.
    """

    train: tuple[Array, np.ndarray]
    valid: tuple[Array, np.ndarray]


def images(setting: common.Setting) -> Images:
    """Return the training images, some of them held out: the same for all seeds."""
    dataset = setting.dataset
    inputs = datasets.resize(datasets.normalize(dataset, dataset.x_train), setting.image_size)
    if len(inputs) <= _VALID.value:
        raise ValueError(
            f"valid_size must leave training images: got {_VALID.value} of {len(inputs)}."
        )
    held_out = np.random.default_rng(0).permutation(len(inputs)) < _VALID.value
    learned, judged = ((inputs[part], dataset.y_train[part]) for part in (~held_out, held_out))
    return Images(learned, judged)


class TrainedSupernet(NamedTuple):
    """A trained supernet.

    Attributes:
        module: what it is.
        recipe: how it was trained.
        images: that it was trained and is judged with.
        seed: of the weights.
        order: of the images.
        supernet: see `Supernet`.
    """

    module: SearchedNetwork
    recipe: Recipe
    images: Images
    seed: int
    order: int
    supernet: Supernet

    @property
    def read(self) -> indicators.Indicators:
        """The indicators."""
        return indicators.read(self.module, self.supernet.params)

    def by_inheritance(self, archs: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the losses and accuracies that paths inherit say; minutes for thousands."""
        judged = inherited(self.module, self.supernet.params, archs, *self.images.valid)
        return {"inherited loss": -judged.loss, "inherited accuracy": judged.accuracy}

    def by_indicators(self, archs: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the indicators say, in each reading that the recipe has."""
        tables = {
            mode: indicators.score_table(self.read, mode) for mode in recipes.modes(self.recipe)
        }
        return {
            f"indicators, {mode}": indicators.score(table, archs) for mode, table in tables.items()
        }

    def signal(self, archs: np.ndarray) -> np.ndarray:
        """Return the score of the recipe."""
        by_loss = self.recipe.signal.startswith("inherited")
        read = self.by_inheritance if by_loss else self.by_indicators
        return read(archs)[self.recipe.signal]


def run(
    module: SearchedNetwork, recipe: Recipe, images: Images, folder: Path, seed: int, order: int = 0
) -> TrainedSupernet:
    """Return the supernet of a recipe, trained; a run that was interrupted goes on.

    Args:
        module: the supernet.
        recipe: how to train it.
        images: see `Images`.
        folder: of the experiment.
        seed: of the weights.
        order: which order of the images, for runs of the same weights.

    Raises:
        ValueError: it diverged.
    """
    params = parameters.draw(module, jax.random.key(seed), recipe.initialization)
    split = parameters.split(module, params, recipe.trained, classifier=recipe.classifier)
    label = f"seed {seed}, order {order}"
    supernet = train(
        module,
        split,
        *images.train,
        recipe.options._replace(seed=1000 * seed + order),
        paths=sampling.strict_fair(num_choices(module.layout)),
        checkpoint_dir=folder / f"supernet_{seed}_{order}",
        progress=lambda point: say(
            f"{label}: step {point.step}, loss {point.loss:.3f}, drift {point.drift:.3f}"
        ),
    )
    if supernet.diverged:
        raise ValueError(
            f"The supernet of {label} diverged at step {supernet.history[-1].step}: got a loss of "
            f"{supernet.history[-1].loss:.3g}; lower --learning_rate."
        )
    return TrainedSupernet(module, recipe, images, seed, order, supernet)
