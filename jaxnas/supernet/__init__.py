"""Supernets: all networks of a space in one, trained together, and what that says of each."""

from jaxnas.supernet.evaluation import Inherited, inherited
from jaxnas.supernet.recipes import BY_NAME, Recipe
from jaxnas.supernet.trained import TrainedSupernet, train_recipe
from jaxnas.supernet.training import Supernet, SupernetRecord, train

__all__ = [
    "BY_NAME",
    "Inherited",
    "Recipe",
    "Supernet",
    "SupernetRecord",
    "TrainedSupernet",
    "inherited",
    "train",
    "train_recipe",
]
