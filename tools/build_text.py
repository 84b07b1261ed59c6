"""Write the samples of text tasks: `python -m tools.build_text SST2.tsv.gz RTE.tsv.gz`.

The TSV files hold the official training and development sets in one table, with the columns `split`
(`train`, `dev`), `label` (a number), and `text`, or `text1` and `text2`.
"""

import gzip
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxnas.datasets.text import SAMPLES, read_lines

COUNTS = {"train": 256, "dev": 128}


def build(source: str | Path, target: str | Path, counts: Mapping[str, int] = COUNTS) -> None:
    """Write a sample of a table; the same table gives the same bytes, for one version of zlib.

    Rows are drawn without replacement, as many of each class, and keep their order.

    Args:
        source: `.tsv` or `.tsv.gz`.
        target: `.tsv.gz`.
        counts: number of examples of each split; they divide evenly by the number of classes.

    Raises:
        ValueError: there are not as many examples.
    """
    rng = np.random.default_rng(0)
    rows = read_lines(Path(source), "tsv")
    chosen: list[int] = []
    for split, count in counts.items():
        labels = sorted({row["label"] for row in rows if row["split"] == split})
        for label in labels:
            places = [
                at for at, row in enumerate(rows) if (row["split"], row["label"]) == (split, label)
            ]
            needed = count // len(labels)
            if len(places) < needed:
                raise ValueError(
                    f"{source} must have {needed} examples of {split} with label {label}: got "
                    f"{len(places)}; lower the count."
                )
            chosen += rng.permutation(places)[:needed].tolist()
    lines = ["\t".join(row) for row in (rows[0], *(rows[at].values() for at in sorted(chosen)))]
    with open(target, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    if len(sys.argv) != 1 + len(SAMPLES):
        sys.exit("usage: python -m tools.build_text SST2.tsv.gz RTE.tsv.gz")
    for name, table in zip(SAMPLES, sys.argv[1:], strict=True):
        build(table, Path(__file__).with_name(f"{name}_sample.tsv.gz"))
