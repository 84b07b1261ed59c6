"""Write the packed NAS-Bench-Macro table: `python -m tools.build_macro CSV`.

The CSV (or CSV.gz) has one row a network in any order, with the columns `arch` (eight digits),
`test_acc0`, `test_acc1`, `test_acc2` (percent), `params` and `flops`: the fields of the published
`nas-bench-macro_cifar10.json`, whose accuracies are float32 of two decimals.
"""

import csv
import gzip
import sys
from pathlib import Path

import numpy as np

from jaxnas import encoding
from jaxnas.benchmarks.macro import ACCURACY_SCALE, NUM_CHOICES, NUM_RUNS, TABLE, from_string


def build(csv_path: str | Path, table_path: str | Path = TABLE) -> None:
    """Write the table of a CSV; the same CSV gives the same bytes, for one version of zlib.

    Raises:
        ValueError: If a network is missing, twice there or malformed, or an accuracy has more
            decimals than the table keeps.
    """
    opener = gzip.open if str(csv_path).endswith(".gz") else open
    with opener(csv_path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, quoting=csv.QUOTE_NONE))
    ranks = [int(encoding.encode(from_string(row["arch"]), NUM_CHOICES)) for row in rows]
    if sorted(ranks) != list(range(np.prod(NUM_CHOICES))):
        raise ValueError(
            f"Each of {np.prod(NUM_CHOICES)} networks must be there once: got {len(rows)} rows "
            f"with {len(set(ranks))} different networks."
        )
    ordered = [rows[position] for position in np.argsort(ranks)]
    runs = np.array([[float(row[f"test_acc{i}"]) for i in range(NUM_RUNS)] for row in ordered])
    scaled = np.rint(runs * ACCURACY_SCALE)
    # Float32 keeps seven digits of a percentage.
    if not np.allclose(runs * ACCURACY_SCALE, scaled, rtol=0, atol=2e-3):
        raise ValueError(
            "test_acc0, test_acc1 and test_acc2 must have 2 decimals, up to float32: got more; "
            "round them or enlarge ACCURACY_SCALE in macro.py."
        )
    arrays = {"runs": scaled.astype(np.int16)}
    for name in ("params", "flops"):
        arrays[name] = np.array([int(row[name]) for row in ordered], np.int32)
    np.savez_compressed(table_path, **arrays)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.build_macro CSV")
    build(sys.argv[1])
