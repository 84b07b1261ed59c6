"""Search spaces: what can be chosen, and one network that is any of the choices."""

from collections.abc import Callable, Mapping

from jaxnas.spaces.autoformer import autoformer
from jaxnas.spaces.bert import bert
from jaxnas.spaces.darts import darts
from jaxnas.spaces.encoder import encoder
from jaxnas.spaces.family import family
from jaxnas.spaces.mobilenetv2 import mobilenetv2
from jaxnas.spaces.nasbench101 import nasbench101
from jaxnas.spaces.nasbench201 import nasbench201
from jaxnas.spaces.nasbench_macro import nasbench_macro
from jaxnas.spaces.pit import pit
from jaxnas.spaces.shufflenetv2 import shufflenetv2
from jaxnas.spaces.transnas import transnas
from jaxnas.types import SearchSpace

BY_NAME: Mapping[str, Callable[..., SearchSpace]] = {
    "nasbench101": nasbench101,
    "nasbench201": nasbench201,
    "nasbench_macro": nasbench_macro,
    "darts": darts,
    "mobilenetv2": mobilenetv2,
    "shufflenetv2": shufflenetv2,
    "transnas": transnas,
    "pit": pit,
    "autoformer": autoformer,
}
"""Factories of `SearchSpace` that need no argument, by name."""

__all__ = [
    "BY_NAME",
    "autoformer",
    "bert",
    "darts",
    "encoder",
    "family",
    "mobilenetv2",
    "nasbench101",
    "nasbench201",
    "nasbench_macro",
    "pit",
    "shufflenetv2",
    "transnas",
]
