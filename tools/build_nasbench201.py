"""Write the packed NAS-Bench-201 table: `python -m tools.build_nasbench201 CSV`.

The CSV (or CSV.gz) has one row a cell in the official index order, with the columns `index`, `arch`
(official string), `unique_str` (any label of the isomorphism class) and those in `_SOURCES`.
"""

import csv
import gzip
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np

from jaxnas.benchmarks.nasbench201_table import SCALES, TABLE
from jaxnas.benchmarks.notation import NUM_CHOICES, from_string

_SOURCES = {
    "cifar10/test": "c10_test",
    "cifar10/valid_12ep": "c10_valid_12ep",
    "cifar100/test": "c100_test",
    "cifar100/valid_12ep": "c100_valid_12ep",
    "imagenet16-120/test": "in16_test",
    "imagenet16-120/valid_12ep": "in16_valid_12ep",
    "seconds": "c10_train_12ep_seconds",
    "params": "params_c10",
    "mflops": "mflops_c10",
}


def build(csv_path: str | Path, table_path: str | Path = TABLE) -> None:
    """Write the table of a CSV; the same CSV gives the same bytes, for one version of zlib.

    Raises:
        ValueError: If a number has more decimals than the table keeps, or an arch is malformed.
    """
    opener = gzip.open if str(csv_path).endswith(".gz") else open
    with opener(csv_path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, quoting=csv.QUOTE_NONE))
    archs = np.stack([from_string(row["arch"]) for row in rows], axis=-1)
    numbers: dict[str, int] = {}
    arrays = {
        "order": np.ravel_multi_index(tuple(archs), NUM_CHOICES).astype(np.int16),
        "classes": np.array(
            [numbers.setdefault(r["unique_str"], len(numbers)) for r in rows], "i2"
        ),
    }
    for name, scale in SCALES.items():
        scaled = [Decimal(row[_SOURCES[name]]) * scale for row in rows]
        if any(value % 1 for value in scaled):
            raise ValueError(
                f"{_SOURCES[name]} must have at most {len(str(scale)) - 1} decimals: got more; "
                "round it or enlarge its scale in tabular.py."
            )
        arrays[name] = np.array([int(value) for value in scaled], np.int32)
    np.savez_compressed(table_path, **arrays)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.build_nasbench201 CSV")
    build(sys.argv[1])
