"""NAS-Bench-101: what 10,000 of its 423,624 cells reach on CIFAR-10, as a table to look up.

An architecture is `int32[26]`, see `nasbench101_notation`. Cells are found up to isomorphism, as
the benchmark has it. The vertices of each stand in an order in which the exact number of parameters
is the published one (see `nasbench101_channels`).

Accuracies are on the 9,984 validation images that the benchmark evaluated (whole batches of the
10,000 that it kept apart), of one training for each number of epochs; there are no test images in
this table. A search may look at any column: cheap ones (4 and 12 epochs) as feedback, and 108
epochs as what is asked for.

Source: Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019,
arXiv 1902.09635; https://github.com/google-research/nasbench (Apache-2.0 licence, Copyright The
Google Research Authors). A random sample, by way of the public copy tiga1231/nasbench-vis, which
has the hashes; the graphs were recovered from them.
"""

import functools
import io
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding
from jaxnas.benchmarks import lookup
from jaxnas.benchmarks.nasbench101_notation import (
    MAX_EDGES,
    NUM_CHOICES,
    canonical,
    from_string,
    graph,
)
from jaxnas.types import ScoreFn

EPOCHS = (4, 12, 36, 108)
IMAGES = 9984
"""How many images an accuracy is of; the table holds how many of them were right."""
SECONDS_SCALE = 10**4
TABLE = Path(__file__).with_name("nasbench101.npz")

Cells = ArrayLike | str | Sequence[str]
"""Which cells are meant, see `NASBench101Sample`."""


@dataclass(frozen=True, eq=False)
class NASBench101Sample:
    """A sample of the cells of NAS-Bench-101 with their accuracies and costs.

    A cell is asked for as an architecture `int32[26]` or by its string, and the answer is a scalar;
    several are asked for as `int32[A, 26]` or as a sequence of strings: the answer is `[A]`.

    Attributes:
        archs: `int32[10000, 26]`.
        columns: `valid_4ep`, `valid_12ep`, `valid_36ep`, `valid_108ep` (percent), `params` and
            `seconds`, `[10000]` each.
        rows: of each cell, by the code of its canonical form.
    """

    archs: NDArray[np.int32]
    columns: Mapping[str, NDArray]
    rows: Mapping[int, int]

    @property
    def params(self) -> NDArray[np.int64]:
        """Trainable parameters, `int64[10000]`."""
        return self.columns["params"]

    def index(self, archs: Cells) -> NDArray[np.int32]:
        """Return the row, `int32[]` or `int32[A]`.

        Raises:
            ValueError: If a cell is malformed, or not in the sample.
        """
        rows = self._rows(archs)
        if (rows < 0).any():
            raise ValueError(
                f"The table holds {len(self.archs)} of the benchmark's 423,624 cells: got another "
                f"at position {np.flatnonzero(rows < 0)[0]}; take cells from its archs."
            )
        return rows

    def accuracy(self, archs: Cells, epochs: int = 108) -> NDArray[np.float64]:
        """Return the validation accuracy in percent, `float64[]` or `float64[A]`.

        Raises:
            ValueError: If a cell is unknown, or the number of epochs.
        """
        if check.integer("epochs", epochs) not in EPOCHS:
            raise ValueError(f"epochs must be one of {', '.join(map(str, EPOCHS))}: got {epochs}.")
        return self.columns[f"valid_{epochs}ep"][self.index(archs)]

    def seconds(self, archs: Cells) -> NDArray[np.float64]:
        """Return the seconds of the training of 108 epochs on one TPU.

        Raises:
            ValueError: If a cell is unknown.
        """
        return self.columns["seconds"][self.index(archs)]

    def lookup(self, column: str) -> ScoreFn:
        """Return `score_fn(archs)` for searches: `float64[A]` of `int32[A, 26]`, by one column.

        For concrete architectures; nan for a cell that is not in the sample, or has too many edges:
        a search may come across it.

        Raises:
            ValueError: If the column is unknown.
        """
        check.choice("column", column, tuple(self.columns))
        return functools.partial(_look_up, self, column)

    def _rows(self, archs: Cells) -> NDArray[np.int32]:
        array = lookup.decisions(archs, from_string, len(NUM_CHOICES))
        if array.ndim not in (1, 2):
            raise ValueError(f"Pass architectures as [26] or [A, 26]: got {list(array.shape)}.")
        keys = [_key(arch) for arch in np.atleast_2d(array)]
        rows = np.array([self.rows.get(key, -1) for key in keys], np.int32)
        return rows.reshape(array.shape[:-1])


def _look_up(table: NASBench101Sample, column: str, archs: ArrayLike) -> NDArray[np.float64]:
    decisions = encoding.validate_archs(archs, NUM_CHOICES)
    too_many = [graph(tuple(decision)).num_edges > MAX_EDGES for decision in decisions.tolist()]
    rows = table._rows(np.where(np.array(too_many, bool)[:, None], 0, decisions))
    return np.where(rows < 0, np.nan, table.columns[column][rows])


def _key(arch: ArrayLike) -> int:
    return int(encoding.encode(canonical(arch), NUM_CHOICES))


def nasbench101(path: str | Path = TABLE) -> NASBench101Sample:
    """Return the table that comes with the package; it is read once and cannot be written to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not hold the whole table.

    Examples:
        >>> from jaxnas import benchmarks
        >>> table = benchmarks.nasbench101()
        >>> len(table.archs), float(table.accuracy(table.archs[0]))
        (10000, 92.0172)
    """
    return _read(Path(check.instance("path", path, check.PATH, "a path")))


@functools.cache
def _read(path: Path) -> NASBench101Sample:
    content = io.BytesIO(path.read_bytes())
    with lookup.whole(path, "NAS-Bench-101 table", "tools.build_nasbench101 CSV"):
        with np.load(content, allow_pickle=False) as stored:
            archs = encoding.decode(stored["codes"], NUM_CHOICES)
            rows = {key: row for row, key in enumerate(stored["keys"].tolist())}
            percent = 100 * stored["correct"].astype(np.float64) / IMAGES
            columns = {f"valid_{epoch}ep": percent[:, i].copy() for i, epoch in enumerate(EPOCHS)}
            columns["params"] = stored["params"].astype(np.int64)
            columns["seconds"] = stored["seconds"] / SECONDS_SCALE
        counts = {len(archs), len(rows), *map(len, columns.values())}
        if len(counts) > 1:
            raise ValueError(f"columns of different lengths {sorted(counts)}")
    lookup.freeze(archs, *columns.values())
    return NASBench101Sample(archs, columns, types.MappingProxyType(rows))
