"""Tables of networks that somebody has trained already: ground truth for searches and proxies."""

from jaxnas.benchmarks.tabular import TabularBenchmark, nasbench201

__all__ = ["TabularBenchmark", "nasbench201"]
