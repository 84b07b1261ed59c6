"""Tables of networks that somebody has trained already: ground truth for searches and proxies."""

import numpy as np
from numpy.typing import NDArray

from jaxnas.benchmarks.macro import MacroBenchmark, nasbench_macro
from jaxnas.benchmarks.nasbench101 import NASBench101Sample, nasbench101
from jaxnas.benchmarks.tabular import TabularBenchmark, nasbench201
from jaxnas.benchmarks.transformers import TrainedTransformers, autoformer, nasbench_bert, pit

__all__ = [
    "MacroBenchmark",
    "NASBench101Sample",
    "TabularBenchmark",
    "TrainedTransformers",
    "accuracy_of",
    "autoformer",
    "nasbench101",
    "nasbench201",
    "nasbench_bert",
    "nasbench_macro",
    "pit",
]


def accuracy_of(space: str, archs: np.ndarray) -> NDArray[np.float64] | None:
    """Return CIFAR-10 test accuracies `[A]` in percent, where a table has the whole space.

    Args:
        space: name of the search space.
        archs: `int32[A, D]`.
    """
    if space == "nasbench201":
        return nasbench201().accuracy(archs, "cifar10")
    if space == "nasbench_macro":
        return nasbench_macro().accuracy(archs)
    return None
