"""The floors of jaxnas: who may import whom, held by reading the imports of every module.

A module sees the floors below its own and the rest of its own package, never a neighbor.
"""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import jaxnas

FLOORS = {
    # Mathematics on arrays, what a traced program says, and how long it lives.
    0: (
        *("allocator", "types", "encoding", "gram", "correlation", "calibration", "wiring"),
        *("convolution", "equations", "programs", "lifetimes", "tasks", "check"),
    ),
    1: ("gradients",),  # of a batch and of each example
    # Do not see each other.
    2: (
        *("network", "activations", "kernels", "isometry"),
        *("benchmarks", "datasets", "pretrained", "training"),
    ),
    3: ("proxies", "spaces", "search", "connectivity", "runs"),  # wings; do not see each other
    4: ("supernet",),
    # Join the wings; see everything.
    5: (
        *("engine", "finder", "scorer", "scoring", "processes", "script", "trainer"),
        *("launch", "te_nas", "__init__", "__main__"),
    ),
}

# Those that see less of jaxnas than their floor would let them.
NARROW = {
    "types": (),
    "encoding": ("types",),
    "gram": ("types",),
    "tasks": ("types",),
    "correlation": ("types", "check"),
    "calibration": ("check",),
    "wiring": ("types", "check"),
    "convolution": ("types",),
    "equations": ("types", "convolution"),
    "programs": ("types", "equations"),
    "lifetimes": (),
    "runs": ("types", "correlation"),
    "check": (),
}

# What floor 0 may import besides jaxnas and the standard library.
FLOOR_0_PACKAGES = ("jax", "numpy", "scipy")

# Packages with a door: they are imported here and nowhere else.
DOORS = {
    "absl": ("launch", "__main__"),
    "bayes_opt": ("search",),
    "codecarbon": ("runs",),
    "datasets": ("datasets",),
    "flax": ("network", "spaces"),
    "matplotlib": ("runs",),
    "neural_tangents": ("kernels._neural_tangents",),
    "optax": ("training",),
    "orbax": ("training",),
    "pandas": ("runs", "scorer", "finder", "__main__"),
    "pickle": ("datasets.restricted",),
    "pyarrow": ("datasets",),
    "safetensors": ("pretrained",),
    "sklearn": ("datasets",),
    "sqlite3": ("runs",),
    "tensorflow": (),
    "tensorflow_datasets": ("datasets",),
    "tokenizers": ("pretrained",),
    "tqdm": ("runs",),
}

# Extras and what is slow to import: imported inside the function that needs them, so that jaxnas
# works, or starts, without.
LAZY = (
    *("bayes_opt", "codecarbon", "datasets", "pyarrow", "safetensors", "sklearn"),
    *("tensorflow_datasets", "tokenizers"),
)

# What `import jaxnas` must not drag in.
NOT_AT_IMPORT = (
    *("tensorflow", "pandas", "matplotlib", "orbax", "neural_tangents", "scipy.stats"),
    *LAZY,
)

MAX_LINES = 600

ROOT = Path(jaxnas.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")
}
TOP = max(FLOORS)
FLOOR_OF = {unit: floor for floor, units in FLOORS.items() for unit in units}


IMPORTERS = ("importlib.import_module", "import_module", "__import__")


class Import(NamedTuple):
    name: str
    lazy: bool


def imports(module: str, source: str) -> Iterator[Import]:
    """Yield every absolute dotted name that a module imports, also through `importlib`."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while pending:
        node, lazy = pending.pop()
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending += [(child, inside) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["jaxnas", *module.split(".")][: -node.level] if node.level else []
            base = ".".join([*package, *(node.module or "").split(".")]).strip(".")
            yield from (Import(f"{base}.{alias.name}", lazy) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTERS:
            for name in node.args[:1]:  # of a text that is put together, its beginning
                known = name.values[0] if isinstance(name, ast.JoinedStr) else name
                yield Import(str(ast.literal_eval(known)), lazy)


def violations(module: str, source: str) -> list[str]:
    """Return one sentence for each import of `module` (without `jaxnas.`) that breaks a rule."""
    result = module.split(".")[0]
    if result not in FLOOR_OF:
        return [f"{result} is on no floor: add it to FLOORS"]
    found = []
    for name, lazy in imports(module, source):
        top, *rest = name.split(".")
        if "_src" in (top, *rest):
            found.append(f"{module} imports {name}, which is private")
        elif top == "jaxnas":
            if not _sees(result, rest[0] if rest else "__init__"):
                found.append(f"{module} (floor {FLOOR_OF[result]}) imports {name}")
        elif FLOOR_OF[result] == 0 and top not in (*FLOOR_0_PACKAGES, *sys.stdlib_module_names):
            found.append(f"{module} (floor 0) imports {name}")
        elif top in DOORS and not {module, result} & set(DOORS[top]):
            found.append(f"{module} imports {name}, whose door is {DOORS[top] or 'nowhere'}")
        elif top in LAZY and not lazy:
            found.append(f"{module} imports {name} before it is needed")
    return found


def _sees(found: str, other: str) -> bool:
    if found == other or FLOOR_OF[found] == TOP:
        return True
    if found in NARROW:
        return other in NARROW[found]
    return FLOOR_OF.get(other, TOP) < FLOOR_OF[found]


# Rules that are broken today, with what to do about it.
@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_its_floor_sees(module):
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_every_row_of_the_tables_is_about_something():
    assert set(FLOOR_OF) == {module.split(".")[0] for module in MODULES}
    assert set(NARROW) <= set(FLOOR_OF)
    assert set(LAZY) <= set(DOORS)


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("gram", "from jaxnas.encoding import encode", "floor 0"),
        ("types", "from jaxnas import gram", "floor 0"),
        ("correlation", "import pandas", "floor 0"),
        ("gradients", "from jaxnas.kernels import empirical", "floor 1"),
        ("kernels.empirical", "from jaxnas.datasets import batch", "floor 2"),
        ("training.loop", "from jaxnas import benchmarks", "floor 2"),
        ("search.evolution", "from jaxnas.spaces import nasbench201", "floor 3"),
        ("search.evolution", "def f():\n    from jaxnas.spaces import nasbench201", "floor 3"),
        ("search.evolution", "from ..spaces import nasbench201", "floor 3"),
        ("search.evolution", "import jaxnas.spaces.images as images", "floor 3"),
        ("spaces.images", "from jaxnas import score", "floor 3"),
        ("spaces.images", "import jaxnas", "floor 3"),
        ("proxies.knas", "from jaxnas.scoring import score", "floor 3"),
        ("runs.store", "from jaxnas import gram", "floor 3"),
        ("proxies.knas", "import flax.linen as nn", "door"),
        ("spaces.images", "import optax", "door"),
        ("kernels.analytic", "from neural_tangents import stax", "door"),
        (
            "kernels.analytic",
            "import importlib\nimportlib.import_module('neural_tangents')",
            "door",
        ),
        ("search.base", "import importlib\nimportlib.import_module(f'jaxnas.{1}')", "floor 3"),
        ("scoring", "import sqlite3", "door"),
        ("datasets.cifar", "import pickle", "door"),
        ("datasets.other", "import tensorflow.io", "nowhere"),
        ("training.options", "from absl import flags", "door"),
        ("datasets.other", "import tensorflow_datasets as tfds", "before it is needed"),
        ("datasets.other", "class A:\n    import sklearn", "before it is needed"),
        ("spaces.images", "from jax._src import core", "private"),
        ("meters.clock", "import jax", "no floor"),
    ],
)
def test_a_planted_violation_is_caught(module, source, rule):
    (sentence,) = violations(module, source)
    assert rule in sentence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gram", "import math\nimport jax.numpy as jnp\nfrom jaxnas.types import Array"),
        ("search.evolution", "from jaxnas import benchmarks\nfrom .base import run"),
        ("spaces.nasbench201_space.network", "from .. import images\nfrom ...types import Array"),
        ("datasets.other", "def load():\n    import tensorflow_datasets as tfds"),
        ("runs.figures", "import sqlite3, pandas\nfrom jaxnas import correlation"),
        ("scoring", "from jaxnas import proxies, search"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert violations(module, source) == []


def test_import_is_light():
    code = f"import sys, jaxnas; print(*sorted(set({NOT_AT_IMPORT}) & set(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert finished.stdout.split() == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_is_small_and_public(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert "_src" not in module.split(".")


def test_type_checkers_of_users_read_its_types():
    assert (ROOT / "py.typed").exists()


def test_no_module_is_hidden_behind_a_function_of_its_name():
    hidden = []
    for found in pkgutil.walk_packages(jaxnas.__path__, "jaxnas."):
        package = importlib.import_module(found.name) if found.ispkg else None
        for name in getattr(package, "__all__", ()):
            is_module = importlib.util.find_spec(f"{found.name}.{name}")
            if is_module and not inspect.ismodule(getattr(package, name)):
                hidden.append(f"{found.name}.{name}")
    assert hidden == []
