"""Tables of networks that somebody has trained already: ground truth for searches and proxies."""

from jaxnas.benchmarks.macro import MacroBenchmark, nasbench_macro
from jaxnas.benchmarks.nasbench101 import NASBench101Sample, nasbench101
from jaxnas.benchmarks.tabular import TabularBenchmark, nasbench201

__all__ = [
    "MacroBenchmark",
    "NASBench101Sample",
    "TabularBenchmark",
    "nasbench101",
    "nasbench201",
    "nasbench_macro",
]
