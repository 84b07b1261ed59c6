"""Search spaces: what can be chosen, and one network that is any of the choices."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxnas.spaces.autoformer_space import autoformer
from jaxnas.spaces.bert_space import bert
from jaxnas.spaces.dag_cnn_space import dag_cnn
from jaxnas.spaces.dag_mlp_space import dag_mlp
from jaxnas.spaces.darts_space import darts
from jaxnas.spaces.encoder_space import encoder
from jaxnas.spaces.family_space import family
from jaxnas.spaces.mobilenetv2_space import mobilenetv2
from jaxnas.spaces.nasbench101_space import nasbench101
from jaxnas.spaces.nasbench201_space import nasbench201
from jaxnas.spaces.nasbench_macro_space import nasbench_macro
from jaxnas.spaces.pit_space import pit
from jaxnas.spaces.shufflenetv2_space import shufflenetv2
from jaxnas.spaces.transnas_space import transnas
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


def arguments(space: SearchSpace) -> dict[str, Any] | None:
    """Return the arguments by which its factory in `BY_NAME` makes a space again.

    None if there is no such factory, or if the space has other options than it takes. A mode of
    normalization that the factory does not let choose is none of them.
    """
    factory = BY_NAME.get(space.name)
    known = inspect.signature(factory).parameters if factory else {}
    if factory is None or space.options.keys() - known.keys() - {"norm"}:
        return None
    return {name: value for name, value in space.options.items() if name in known}


__all__ = [
    "BY_NAME",
    "arguments",
    "autoformer",
    "bert",
    "dag_cnn",
    "dag_mlp",
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
