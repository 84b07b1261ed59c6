"""How to train a supernet, and what of it ranks its networks: the published way, and ours."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxnas.spaces.mobilenetv2_space.network import Bypass
from jaxnas.supernet.indicators import Mode
from jaxnas.supernet.parameters import Trained
from jaxnas.training import TrainingOptions


class Recipe(NamedTuple):
    """A recipe.

    Attributes:
        name: as in flags.
        initialization: of the kernels; see `parameters.draw`.
        trained: see `parameters.split`.
        classifier: whether it is trained.
        bypass: what runs beside the blocks; `norm` has the layer indicators.
        signal: what ranks: `inherited loss`, or `indicators, MODE`.
        options: of the training.
    """

    name: str
    initialization: str
    trained: Trained
    classifier: bool
    bypass: Bypass
    signal: str
    options: TrainingOptions


_OPTIONS = TrainingOptions(
    batch_size=64, learning_rate=0.1, weight_decay=0.0, clip_value=5.0, label_smoothing=0.1
)

BY_NAME: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("published", "qr", "last", False, "norm", "indicators, skip", _OPTIONS),
        Recipe("fair", "default", "all", True, "identity", "inherited loss", _OPTIONS),
    )
}
"""Recipes by name.

- `published`: arXiv 2307.02263. Kernels orthogonal and frozen, only the last normalization of each
  block and the one beside it trained; their scales rank. An identity scores that of the bypass.
- `fair`: every weight trained by strictly fair steps; the loss that a path inherits ranks. On
  NAS-Bench-Macro it says what FLOPs do not, where indicators do not and the accuracy of a few
  hundred images is too coarse; see `experiments.fair_supernet`.
"""


def modes(recipe: Recipe) -> tuple[Mode, ...]:
    """Return the readings of the indicators that a supernet of this recipe has."""
    return ("block", "literal", "share", "skip") if recipe.bypass == "norm" else ("block",)
