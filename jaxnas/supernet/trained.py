"""A supernet trained by a recipe, and the scores that it gives."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas.spaces.mobilenetv2_space import SearchedNetwork, num_choices
from jaxnas.supernet import indicators, parameters, recipes, sampling
from jaxnas.supernet.evaluation import inherited
from jaxnas.supernet.recipes import Recipe
from jaxnas.supernet.training import Supernet, SupernetRecord, train
from jaxnas.types import Array


class TrainedSupernet(NamedTuple):
    """A trained supernet; its `signal` is a score for any search.

    Attributes:
        module: what it is.
        recipe: how it was trained.
        valid: normalized images `[N, H, W, C]` and labels `int[N]` that judge its paths.
        supernet: see `Supernet`.
    """

    module: SearchedNetwork
    recipe: Recipe
    valid: tuple[ArrayLike, ArrayLike]
    supernet: Supernet

    @property
    def indicators(self) -> indicators.Indicators:
        """The indicators of its blocks and layers."""
        return indicators.read(self.module, self.supernet.params)

    def by_inheritance(self, archs: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """Return the negative losses and the accuracies that paths `int32[A, L]` inherit, `[A]`.

        They take minutes for thousands of paths.
        """
        judged = inherited(self.module, self.supernet.params, archs, *self.valid)
        return {"inherited loss": -judged.loss, "inherited accuracy": judged.accuracy}

    def by_indicators(self, archs: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """Return what the indicators say of `archs`, `[A]`, in each reading of the recipe."""
        read = self.indicators
        return {
            f"indicators, {mode}": indicators.score(indicators.score_table(read, mode), archs)
            for mode in recipes.modes(self.recipe)
        }

    def signal(self, archs: ArrayLike) -> NDArray[np.float64]:
        """Return the score of the recipe, `[A]` of `archs`, larger is better."""
        by_loss = self.recipe.signal.startswith("inherited")
        read = self.by_inheritance if by_loss else self.by_indicators
        return read(archs)[self.recipe.signal]


def train_recipe(
    module: SearchedNetwork,
    recipe: Recipe,
    images: tuple[ArrayLike, ArrayLike],
    valid: tuple[ArrayLike, ArrayLike],
    *,
    key: Array,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[SupernetRecord], None] | None = None,
) -> TrainedSupernet:
    """Return the supernet of a recipe, trained by strictly fair steps.

    Args:
        module: the supernet, of norm `batch` and with the recipe's `bypass`.
        recipe: such as `supernet.BY_NAME["fair"]`; `recipe.options.seed` orders the images.
        images: normalized, `[N, H, W, C]`, and labels `int[N]`.
        valid: others, held out to judge paths by.
        key: of the weights, from `jax.random.key`.
        checkpoint_dir: see `train`; a run that was killed goes on.
        progress: see `train`.

    Raises:
        ValueError: the training diverged; or as `train`.
    """
    params = parameters.draw(module, key, recipe.initialization)
    found = train(
        module,
        parameters.split(module, params, recipe.trained, classifier=recipe.classifier),
        *images,
        recipe.options,
        paths=sampling.strict_fair(num_choices(module.layout)),
        checkpoint_dir=checkpoint_dir,
        progress=progress,
    )
    if found.diverged:
        last = found.history[-1]
        raise ValueError(
            f"The supernet diverged at step {last.step}: got a loss of {last.loss:.3g}; lower the "
            "learning rate."
        )
    return TrainedSupernet(module, recipe, valid, found)
