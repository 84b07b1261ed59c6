"""NAS-Bench-101: what 10,000 of its 423,624 cells reach on CIFAR-10, as a table to look up.

An architecture is `int32[26]`, see `nasbench101_notation`. Cells are found up to isomorphism, as
the benchmark has it. The vertices of each stand in an order in which the exact number of parameters
is the published one (see `nasbench101_channels`).

Columns are `valid_4ep`, `valid_12ep`, `valid_36ep` and `valid_108ep`, `params`, and `seconds` (of
the training of 108 epochs on one TPU). Accuracies are in percent, on the 9,984 validation images
that the benchmark evaluated (whole batches of the 10,000 that it kept apart), of one training for
each number of epochs; there are no test images in this table. A search may look at any column:
cheap ones (4 and 12 epochs) as feedback, and 108 epochs as what is asked for.

Source: Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019,
arXiv 1902.09635; https://github.com/google-research/nasbench (Apache-2.0 licence, Copyright The
Google Research Authors). A random sample, by way of the public copy tiga1231/nasbench-vis, which
has the hashes; the graphs were recovered from them.
"""

import functools
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxnas import check, encoding
from jaxnas.benchmarks.nasbench101_notation import NUM_CHOICES, canonical, from_string
from jaxnas.benchmarks.tabular import TabularBenchmark, whole

EPOCHS = (4, 12, 36, 108)
IMAGES = 9984
"""How many images an accuracy is of; the table holds how many of them were right."""
SECONDS_SCALE = 10**4
TABLE = Path(__file__).with_name("nasbench101.npz")


def _keys(archs: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return a number `int64[A]` for each cell up to isomorphism."""
    cells = np.array([canonical(arch) for arch in archs], np.int32).reshape(archs.shape)
    return encoding.encode(cells, NUM_CHOICES)


def nasbench101(path: str | Path = TABLE) -> TabularBenchmark:
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
def _read(path: Path) -> TabularBenchmark:
    content = io.BytesIO(path.read_bytes())
    with whole(path, "NAS-Bench-101 table", "tools.build_nasbench101 CSV"):
        with np.load(content, allow_pickle=False) as stored:
            archs = encoding.decode(stored["codes"], NUM_CHOICES)
            percent = 100 * stored["correct"].astype(np.float64) / IMAGES
            columns = {f"valid_{epoch}ep": percent[:, i].copy() for i, epoch in enumerate(EPOCHS)}
            columns["params"] = stored["params"].astype(np.int64)
            columns["seconds"] = stored["seconds"] / SECONDS_SCALE
            row_keys = stored["keys"].astype(np.int64)
        return TabularBenchmark(
            "nasbench101", archs, columns, "valid_108ep", NUM_CHOICES, from_string, _keys, row_keys
        )
