"""jaxnas: training-free neural architecture search in JAX."""

from jaxnas.network.models import as_network
from jaxnas.population import score_fn, score_space
from jaxnas.scoring import score
from jaxnas.spaces import nasbench201
from jaxnas.types import Batch, Outputs, Proxy, SearchSpace, SearchStrategy

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Outputs",
    "Proxy",
    "SearchSpace",
    "SearchStrategy",
    "__version__",
    "as_network",
    "nasbench201",
    "score",
    "score_fn",
    "score_space",
]
