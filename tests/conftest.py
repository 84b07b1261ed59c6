"""What all tests share: arrays of different ranks never mix silently, and one tiny network.

Compilation, not arithmetic, is what a test of a network costs. Tests that run NAS-Bench-201 use the
same space, the same shape of a batch and float64, so that they share what is compiled.
"""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, SearchSpace
from jaxnas.launch import keep_programs
from jaxnas.spaces import nasbench201

jax.config.update("jax_numpy_rank_promotion", "raise")

if jax.__version_info__ < (0, 11):  # later ones have no choice
    # XLA's older emitters compile in half the time. Processes that a test starts have them, too.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = flags.strip()

ROOT = Path(__file__).parents[1]

# The files that take longest: a worker that begins one of them last keeps the others waiting.
LONGEST = (
    *("proxies/battery", "scorer", "experiments", "spaces/darts/network"),
    *("spaces/nasbench201/network", "spaces/nasbench101/network", "spaces/transnas"),
    *("network/linen", "models", "pages", "main", "benchmark", "processes"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that two workers end together."""
    places = {ROOT / "tests" / f"{name}_test.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile quickly where that is what takes the time: XLA's optimizations are half of it.

    So do the processes that a test starts. Tests marked slow train and measure: optimized. JAX
    would reuse a program whichever way it was compiled.
    """
    quick = item.get_closest_marker("slow") is None
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(quick)
    if jax.config.read("jax_disable_most_optimizations") != quick:
        jax.config.update("jax_disable_most_optimizations", quick)
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    """Forget what is compiled before the system refuses to map more.

    Each program of XLA's takes some memory maps, of which Linux allows a process 65,530 by default;
    XLA ends the process at the limit.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def analytic():
    """`jaxnas.kernels.analytic`; its tests are skipped without the extra, not when it is broken."""
    return pytest.importorskip(
        "jaxnas.kernels.analytic",
        reason="the extra `analytic` is not installed",
        exc_type=ModuleNotFoundError,
    )


@pytest.fixture(scope="session", autouse=True)
def compiled(pytestconfig):
    """The folder of compiled programs, of all processes and all runs of the tests.

    It lies in pytest's cache, which `--cache-clear` empties. A second run takes half the time.
    """
    folder = pytestconfig.cache.mkdir("xla")
    keep_programs(str(folder))
    # Of the processes that a test starts.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return folder


@pytest.fixture(scope="session")
def _experiment_flags(compiled):
    cache = f"--compilation_cache={compiled}"
    return lambda folder, *arguments: [f"--output_dir={folder}", cache, *arguments]


@pytest.fixture(scope="session")
def experiment_command(_experiment_flags):
    """`experiment_command(name, folder, *flags)`: what a user types."""
    return lambda name, folder, *arguments: [
        *(sys.executable, "-m", f"experiments.{name}"),
        *_experiment_flags(folder, *arguments),
    ]


@pytest.fixture(scope="session")
def _forks():
    """The process that `command` forks: a small one takes as long as the imports of JAX."""
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("forks.py")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        yield process


@pytest.fixture(scope="session")
def command(_forks, tmp_path_factory):
    """`command(module, *flags)`: what `python -m module` does with them."""

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        printed = tmp_path_factory.mktemp("printed")
        paths = [str(printed / name) for name in ("output", "error")]
        optimized = not jax.config.read("jax_disable_most_optimizations")
        print(json.dumps([module, arguments, optimized, *paths]), file=_forks.stdin)
        status = int(_forks.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, *(Path(p).read_text() for p in paths))

    return run


@pytest.fixture(scope="session")
def experiment(_experiment_flags, command):
    """`experiment(name, folder, *flags)`: run as a user does; its files lie in `folder`."""
    return lambda name, folder, *arguments: command(
        f"experiments.{name}", *_experiment_flags(folder, *arguments)
    )


@pytest.fixture(scope="session")
def drawn():
    """`drawn(space)`: the space with weights that NumPy draws.

    To compile the draws of a small space takes as long as all of its network.
    """

    def init(space: SearchSpace, key: jax.Array, inputs: jax.Array) -> Any:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))

        def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
            if len(shape.shape) == 1:  # scales and biases
                return jnp.asarray(rng.normal(1, 0.1, shape.shape), float)
            return jnp.asarray(
                rng.normal(0, math.prod(shape.shape[:-1]) ** -0.5, shape.shape), float
            )

        return jax.tree.map(draw, jax.eval_shape(space.init, key, inputs))

    return lambda space: space._replace(init=functools.partial(init, space))


@pytest.fixture(scope="session")
def small_space(drawn) -> SearchSpace:
    """NAS-Bench-201 at two channels and one cell a stage, each example on its own."""
    return drawn(nasbench201(channels=2, cells=1, norm="instance"))


@pytest.fixture(scope="session")
def draw_batch():
    """`draw_batch(seed)`: six labeled images of noise, `[6, 8, 8, 3]`, of ten classes.

    Six, because halves of three are not a power of two: their means are rounded.
    """

    def draw(seed: int, shape: tuple[int, ...] = (6, 8, 8, 3), classes: int = 10) -> Batch:
        rng = np.random.default_rng(seed)
        return Batch(
            jnp.asarray(rng.normal(size=shape), float),
            jnp.asarray(rng.integers(classes, size=shape[0])),
        )

    return draw
