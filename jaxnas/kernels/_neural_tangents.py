"""The one door to neural-tangents: makes it importable on today's JAX, and leaves no trace.

neural-tangents 0.6.5 (the last release) looks for names that have left `jax.core` and for
`jax.util`, and imports TensorFlow through its `experimental` package. While it is imported those
names are put back and the package is replaced by an empty one; then everything is as it was. Its
analytic half (`stax`) works fully; nothing else of it is handed out.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.interpreters.ad

_MOVED = ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive")
_EXPERIMENTAL = "neural_tangents.experimental"


def _safe_map(function: Any, *arguments: Any) -> list[Any]:
    return [function(*each) for each in zip(*arguments, strict=True)]


def _safe_zip(*arguments: Any) -> list[tuple[Any, ...]]:
    return list(zip(*arguments, strict=True))


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """Put back the names that neural-tangents looks for, for as long as the context lasts."""
    util = types.ModuleType("jax.util")
    util.__dict__.update(safe_map=_safe_map, safe_zip=_safe_zip)
    wanted: list[tuple[Any, str, Any]] = [(jax, "util", util)]
    wanted += [(jax.core, name, getattr(jax.extend.core, name)) for name in _MOVED]
    wanted += [(jax.interpreters.ad, "zeros_like_p", object())]
    missing = [entry for entry in wanted if not _has(entry[0], entry[1])]
    modules = {"jax.util": util, _EXPERIMENTAL: types.ModuleType(_EXPERIMENTAL)}
    absent = {name: module for name, module in modules.items() if name not in sys.modules}
    for owner, name, value in missing:
        setattr(owner, name, value)
    sys.modules.update(absent)
    try:
        yield
    finally:
        for owner, name, _ in missing:
            delattr(owner, name)
        for name in absent:
            del sys.modules[name]


def _has(owner: Any, name: str) -> bool:
    try:
        getattr(owner, name)
    except AttributeError:
        return False
    return True


def _import_stax() -> Any:
    if importlib.util.find_spec("neural_tangents") is None:
        raise ModuleNotFoundError(
            'Analytic kernels need neural-tangents: pip install "jaxnas[analytic]".'
        )
    try:
        with _old_names():
            return importlib.import_module("neural_tangents.stax")
    except (AttributeError, ImportError) as error:
        version = importlib.metadata.version("neural-tangents")
        raise ImportError(
            f"neural-tangents {version} does not import on JAX {jax.__version__} ({error}); "
            "analytic kernels need another pair of versions, everything else in jaxnas works."
        ) from error


stax = _import_stax()
"""`neural_tangents.stax`: layers as `(init_fn, apply_fn, kernel_fn)`."""
