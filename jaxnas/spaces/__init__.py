"""Search spaces: what can be chosen, and one network that is any of the choices."""

from collections.abc import Callable

from jaxnas.spaces.darts import darts
from jaxnas.spaces.nasbench101 import nasbench101
from jaxnas.spaces.nasbench201 import nasbench201
from jaxnas.types import SearchSpace

BY_NAME: dict[str, Callable[..., SearchSpace]] = {
    "nasbench101": nasbench101,
    "nasbench201": nasbench201,
    "darts": darts,
}
"""Factories of `SearchSpace` that need no argument, by name."""

__all__ = ["BY_NAME", "darts", "nasbench101", "nasbench201"]
