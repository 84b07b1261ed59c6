"""NAS-Bench-Macro: what all 6,561 networks of eight layers reach on CIFAR-10, to look up.

An architecture is `int32[8]`, one of three blocks in each layer: 0 the identity, 1 an inverted
residual block with a 3x3 kernel and expansion 3, 2 one with 5x5 and 6; its string is the eight
digits. Rows stand in lexicographic order.

Each network was trained from scratch three times. Columns are the test accuracy in percent of each
training (`run_1` to `run_3`) and their mean (`accuracy`), `params`, and `flops` (multiply-adds of
convolutions and classifier for one image). A search that looks at test accuracies looks at what it
is judged by, so they are for reporting.

Source: Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021,
arXiv 2103.11922; https://github.com/xiusu/NAS-Bench-Macro (Apache-2.0 licence). The accuracies have
two decimals, all that 10,000 images give; parameters and FLOPs (multiply-adds) are as published.
"""

import functools
import io
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding
from jaxnas.benchmarks.tabular import TabularBenchmark, whole

BLOCKS = ("identity", "mb_k3_e3", "mb_k5_e6")
NUM_CHOICES = (len(BLOCKS),) * 8
NUM_RUNS = 3
TABLE = Path(__file__).with_name("nasbench_macro.npz")
ACCURACY_SCALE = 100
"""Accuracies are stored as integers after this scaling, which loses no decimal."""


def nasbench_macro(path: str | Path = TABLE) -> TabularBenchmark:
    """Return the table that comes with the package; it is read once and cannot be written to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not hold the whole table.

    Examples:
        >>> from jaxnas import benchmarks
        >>> float(benchmarks.nasbench_macro().accuracy([2] * 8))
        92.9533
    """
    return _read(Path(check.instance("path", path, check.PATH, "a path")))


@functools.cache
def _read(path: Path) -> TabularBenchmark:
    content = io.BytesIO(path.read_bytes())
    archs = encoding.enumerate_archs(NUM_CHOICES)
    with whole(path, "NAS-Bench-Macro table", "tools.build_macro CSV"):
        with np.load(content, allow_pickle=False) as stored:
            runs = stored["runs"] / ACCURACY_SCALE
            costs = {name: stored[name].astype(np.int64) for name in ("params", "flops")}
        if runs.shape != (len(archs), NUM_RUNS):
            raise ValueError(f"runs of shape {list(runs.shape)}")
        columns = {f"run_{number}": run.copy() for number, run in enumerate(runs.T, 1)}
        columns |= {"accuracy": runs.mean(axis=1), **costs}
        return TabularBenchmark(
            "nasbench_macro", archs, columns, "accuracy", NUM_CHOICES, from_string
        )


def from_string(string: str) -> NDArray[np.int32]:
    """Return the architecture `int32[8]` of eight digits.

    Raises:
        ValueError: `string` is not the string of a network.
    """
    check.instance("string", string, str, "a string")
    if len(string) != len(NUM_CHOICES) or set(string) - set("012"):
        raise ValueError(
            f"A network is written as 8 digits, 0 {BLOCKS[0]}, 1 {BLOCKS[1]}, 2 {BLOCKS[2]}: got "
            f"{string!r}."
        )
    return np.array([int(digit) for digit in string], np.int32)


def to_string(arch: ArrayLike) -> str:
    """Return the eight digits of one architecture `int32[8]`.

    Raises:
        ValueError: `arch` is not one architecture of the benchmark.
    """
    return "".join(str(decision) for decision in one(arch))


def one(arch: ArrayLike) -> tuple[int, ...]:
    """Return the decisions of one architecture.

    Raises:
        ValueError: not one architecture of the benchmark.
    """
    return encoding.one(arch, NUM_CHOICES)
