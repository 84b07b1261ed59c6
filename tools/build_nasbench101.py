"""Write the packed NAS-Bench-101 sample: `python -m tools.build_nasbench101 CSV`.

The CSV (or CSV.gz) has one row a cell with the columns `hash` (the benchmark's own key),
`adjacency` and `ops` (the two halves of the string, see `nasbench101_notation`), `valid_acc_4ep`,
`valid_acc_12ep`, `valid_acc_36ep`, `valid_acc_108ep` (0 to 1), `params` and `training_time_s`.
"""

import csv
import gzip
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import encoding
from jaxnas.benchmarks import nasbench101_channels as channels
from jaxnas.benchmarks import nasbench101_notation as notation
from jaxnas.benchmarks.nasbench101_table import EPOCHS, IMAGES, SECONDS_SCALE, TABLE


def build(csv_path: str | Path, table_path: str | Path = TABLE) -> None:
    """Write the table of a CSV; the same CSV gives the same bytes, for one version of zlib.

    Raises:
        ValueError: If a row contradicts itself, a cell is there twice, or a number has more
            decimals than the table keeps.
    """
    opener = gzip.open if str(csv_path).endswith(".gz") else open
    with opener(csv_path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if len({row["hash"] for row in rows}) < len(rows):
        raise ValueError(f"Each cell must be there once: got {len(rows)} rows with fewer hashes.")
    archs = np.array([_arch(row) for row in rows], np.int32)
    shares = np.array([[float(row[f"valid_acc_{epochs}ep"]) for epochs in EPOCHS] for row in rows])
    counts = np.rint(shares * IMAGES)
    if not np.allclose(shares * IMAGES, counts, rtol=0, atol=2e-3):  # they have seven decimals
        raise ValueError(f"Accuracies must be shares of {IMAGES} images: got others.")
    seconds = [Decimal(row["training_time_s"]) * SECONDS_SCALE for row in rows]
    if any(value % 1 for value in seconds):
        raise ValueError("training_time_s must have at most 4 decimals: got more; round it.")
    np.savez_compressed(
        table_path,
        codes=_codes(archs),
        keys=_codes(np.array([notation.canonical(arch) for arch in archs])),
        correct=counts.astype(np.int16),
        params=np.array([int(row["params"]) for row in rows], np.int32),
        seconds=np.array([int(value) for value in seconds], np.int32),
    )


def _codes(archs: ArrayLike) -> NDArray[np.int32]:
    return encoding.encode(archs, notation.NUM_CHOICES).astype(np.int32)


def _arch(row: Mapping[str, str]) -> tuple[int, ...]:
    """Return the decisions of a row, its vertices in an order that gives its parameters."""
    given = notation.one(notation.from_string(f"{row['adjacency']}:{row['ops']}"))
    if notation.module_hash(given) != row["hash"]:
        raise ValueError(
            f"A row's hash must be that of its graph: got {row['hash']!r} for another."
        )
    for ordered in (given, *sorted(notation.orders(given))):
        if channels.num_params(notation.graph(ordered)) == int(row["params"]):
            return ordered
    raise ValueError(
        f"params must be those of the row's cell in some order of its vertices: got "
        f"{row['params']} for {row['adjacency']}:{row['ops']}."
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.build_nasbench101 CSV")
    build(sys.argv[1])
