"""NAS-Bench-Macro: what all 6,561 networks of eight layers reach on CIFAR-10, to look up.

An architecture is `int32[8]`, one of three blocks in each layer: 0 the identity, 1 an inverted
residual block with a 3x3 kernel and expansion 3, 2 one with 5x5 and 6; its string is the eight
digits. Rows stand in lexicographic order.

Each network was trained from scratch three times. There are accuracies on the test images only: a
search that looks at them looks at what it is judged by, so they are for reporting.

Source: Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021,
arXiv 2103.11922; https://github.com/xiusu/NAS-Bench-Macro (Apache-2.0 licence). The accuracies have
two decimals, all that 10,000 images give; parameters and FLOPs (multiply-adds) are as published.
"""

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding
from jaxnas.benchmarks import lookup
from jaxnas.types import ScoreFn

BLOCKS = ("identity", "mb_k3_e3", "mb_k5_e6")
NUM_CHOICES = (len(BLOCKS),) * 8
NUM_RUNS = 3
TABLE = Path(__file__).with_name("nasbench_macro.npz")
ACCURACY_SCALE = 100
"""Accuracies are stored as integers after this scaling, which loses no decimal."""

Networks = ArrayLike | str | Sequence[str]
"""Which networks are meant, see `MacroBenchmark`."""


@dataclass(frozen=True, eq=False)
class MacroBenchmark:
    """Every network of NAS-Bench-Macro with its accuracies and costs, in lexicographic order.

    A network is asked for as an architecture `int32[8]` or by its string, and the answer is a
    scalar; several are asked for as `int32[A, 8]` or as a sequence of strings: the answer is `[A]`.

    Attributes:
        archs: `int32[6561, 8]`, all architectures.
        runs: `float64[6561, 3]`, test accuracy in percent of each training.
        columns: `accuracy` (mean of the runs), `params` and `flops`, `[6561]` each.
    """

    archs: NDArray[np.int32]
    runs: NDArray[np.float64]
    columns: Mapping[str, NDArray]

    @property
    def params(self) -> NDArray[np.int64]:
        """Trainable parameters, `int64[6561]`."""
        return self.columns["params"]

    @property
    def flops(self) -> NDArray[np.int64]:
        """Multiply-adds of convolutions and classifier for one image, `int64[6561]`."""
        return self.columns["flops"]

    def index(self, archs: Networks) -> NDArray[np.int64]:
        """Return the row, `int64[]` or `int64[A]`.

        Raises:
            ValueError: If a string or an architecture is none of the benchmark's.
        """
        array = lookup.decisions(archs, from_string, len(NUM_CHOICES))
        if array.ndim > 2:
            raise ValueError(f"Pass architectures as [8] or [A, 8]: got shape {list(array.shape)}.")
        return encoding.encode(array, NUM_CHOICES)

    def accuracy(self, archs: Networks) -> NDArray[np.float64]:
        """Return the test accuracy in percent, the mean of three runs, `float64[]` or `[A]`.

        Raises:
            ValueError: If a network is unknown.
        """
        return self.columns["accuracy"][self.index(archs)]

    def lookup(self, column: str) -> ScoreFn:
        """Return `score_fn(archs)` for searches: `float32[A]` of `int32[A, 8]`, by one column.

        It works under `jax.jit`, `jax.vmap` and `jax.lax.scan`, where nothing can be raised, so a
        decision out of range scores `nan`. The table is a leaf of a `jax.tree_util.Partial`.

        Raises:
            ValueError: If the column is unknown.
        """
        check.choice("column", column, tuple(self.columns))
        table = jnp.asarray(self.columns[column].reshape(NUM_CHOICES), jnp.float32)
        return jax.tree_util.Partial(lookup.look_up, table)


def nasbench_macro(path: str | Path = TABLE) -> MacroBenchmark:
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
def _read(path: Path) -> MacroBenchmark:
    content = io.BytesIO(path.read_bytes())
    archs = encoding.enumerate_archs(NUM_CHOICES)
    with lookup.whole(path, "NAS-Bench-Macro table", "tools.build_macro CSV"):
        with np.load(content, allow_pickle=False) as stored:
            runs = stored["runs"] / ACCURACY_SCALE
            costs = {name: stored[name].astype(np.int64) for name in ("params", "flops")}
        shapes = [runs.shape, *(cost.shape for cost in costs.values())]
        if shapes != [(len(archs), NUM_RUNS), (len(archs),), (len(archs),)]:
            raise ValueError(f"shapes {shapes}")
    columns = {"accuracy": runs.mean(axis=1), **costs}
    lookup.freeze(archs, runs, *columns.values())
    return MacroBenchmark(archs, runs, columns)


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
