"""jaxnas: training-free neural architecture search in JAX.

Names and modules are imported when they are first used, so that `import jaxnas` costs little.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxnas.finder import Found, find
    from jaxnas.network.models import as_network
    from jaxnas.scorer import Scorer, Scores, rank
    from jaxnas.scoring import score
    from jaxnas.trainer import Trainer
    from jaxnas.types import Batch, Outputs, Proxy, SearchSpace, SearchStrategy

__version__ = "0.2.0"

_MODULE_OF = {
    "Batch": "types",
    "Found": "finder",
    "Outputs": "types",
    "Proxy": "types",
    "Scorer": "scorer",
    "Scores": "scorer",
    "SearchSpace": "types",
    "SearchStrategy": "types",
    "as_network": "network.models",
    "Trainer": "trainer",
    "find": "finder",
    "rank": "scorer",
    "score": "scoring",
}
_MODULES = (
    *("activations", "benchmarks", "calibration", "connectivity", "correlation", "datasets"),
    *("encoding", "gradients", "gram", "isometry", "kernels", "network", "pretrained"),
    *("processes", "proxies", "runs", "script", "search", "spaces", "supernet", "te_nas"),
    *("training", "types", "wiring"),
)

__all__ = [
    "Batch",
    "Found",
    "Outputs",
    "Proxy",
    "Scorer",
    "Scores",
    "SearchSpace",
    "SearchStrategy",
    "Trainer",
    "__version__",
    "as_network",
    "find",
    "rank",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"jaxnas.{_MODULE_OF[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"jaxnas.{name}")
    raise AttributeError(f"module 'jaxnas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
