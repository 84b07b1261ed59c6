"""Supernets: all networks of a space in one, trained together, and what that says of each."""

from jaxnas.supernet.evaluation import Inherited, inherited
from jaxnas.supernet.recipes import BY_NAME, Recipe
from jaxnas.supernet.train import Supernet, SupernetRecord, train
from jaxnas.supernet.trained import TrainedSupernet, train_recipe

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
