"""Tables of networks that somebody has trained already: ground truth for searches and proxies."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from jaxnas.benchmarks.macro import nasbench_macro
from jaxnas.benchmarks.nasbench101_table import nasbench101
from jaxnas.benchmarks.nasbench201_table import nasbench201
from jaxnas.benchmarks.tabular import TabularBenchmark
from jaxnas.benchmarks.transformers import autoformer, nasbench_bert, pit

BY_SPACE: Mapping[str, Callable[[], TabularBenchmark]] = {
    "nasbench201": nasbench201,
    "nasbench101": nasbench101,
    "nasbench_macro": nasbench_macro,
    "pit": pit,
    "autoformer": autoformer,
    "bert": nasbench_bert,
}
"""The table of a search space, by the name of the space."""

__all__ = [
    "BY_SPACE",
    "TabularBenchmark",
    "accuracy_of",
    "autoformer",
    "nasbench101",
    "nasbench201",
    "nasbench_bert",
    "nasbench_macro",
    "pit",
]


def accuracy_of(space: str, archs: np.ndarray) -> NDArray[np.float64] | None:
    """Return the accuracies `[A]` in percent of which a table holds all, or None.

    Args:
        space: name of the search space.
        archs: `int32[A, D]`.
    """
    if space not in BY_SPACE:
        return None
    try:
        return BY_SPACE[space]().accuracy(archs)
    except ValueError:  # a sample that lacks one of them
        return None
