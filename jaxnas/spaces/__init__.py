"""Search spaces: what can be chosen, and one network that is any of the choices."""

from jaxnas.spaces.nasbench201 import nasbench201
from jaxnas.spaces.transnas import transnas

BY_NAME = {
    "nasbench201": nasbench201,
    "transnas": transnas,
}
"""Factories of `SearchSpace` that need no argument, by name."""

__all__ = ["BY_NAME", "nasbench201", "transnas"]
