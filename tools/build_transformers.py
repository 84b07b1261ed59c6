"""Write the tables: `python -m tools.build_transformers PIT AUTOFORMER BERT`.

Each is a CSV (or CSV.gz) with one row a network: the decisions, in columns named as in
`transformers` (of PiT `heads_1` to `heads_3`; one value a layer, with spaces between, where layers
differ), and what was measured. The parameters are counted here, of the networks as they were
trained: PiT and AutoFormer on 224 pixels and 100 classes.
"""

import csv
import functools
import gzip
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas import spaces
from jaxnas.benchmarks.transformers import BY_NAME, TABLE, Choices
from jaxnas.types import SearchSpace

TRAINED: dict[str, Callable[[], SearchSpace]] = {
    "pit": functools.partial(spaces.pit, image_size=224, classes=100),
    "autoformer": functools.partial(spaces.autoformer, image_size=224, classes=100),
    "nasbench_bert": spaces.bert,
}


def build(paths: Mapping[str, str | Path], table_path: str | Path = TABLE) -> None:
    """Write the tables of CSVs by their names in `BY_NAME`; equal CSVs give equal bytes.

    Raises:
        ValueError: a row chooses what is not offered, or a measurement is missing.
    """
    arrays: dict[str, Any] = {}
    for name, path in paths.items():
        opener = gzip.open if str(path).endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, quoting=csv.QUOTE_NONE))
        for row in rows if name == "pit" else ():
            row["heads"] = "/".join(row.pop(f"heads_{stage}") for stage in (1, 2, 3))
        choices, trained = BY_NAME[name], TRAINED[name]()
        archs = np.array([_arch(choices, row) for row in rows], np.int32)
        arrays[f"{name}/archs"] = archs
        arrays[f"{name}/params"] = np.array([trained.num_params(arch) for arch in archs], np.int64)
        for column in rows[0].keys() - {choice.name for choice in choices}:
            values = [row[column] for row in rows]
            measured = column != "declared_operations"
            arrays[f"{name}/{column}"] = np.array(values, np.float64 if measured else None)
    np.savez_compressed(table_path, **dict(sorted(arrays.items())))


def _arch(choices: Choices, row: Mapping[str, str]) -> list[int]:
    """Return the decisions of a row; those of layers that it does not have are 0."""
    found = []
    for choice in choices:
        offered = {str(value): at for at, value in enumerate(choice.values)}
        values = row[choice.name].split(" ")
        if set(values) - set(offered):
            raise ValueError(
                f"{choice.name} must be of {', '.join(offered)}: got {row[choice.name]!r}."
            )
        decisions = [offered[value] for value in values]
        found += decisions + [0] * (choice.places - len(decisions))
    return found


if __name__ == "__main__":
    if len(sys.argv) != 1 + len(BY_NAME):
        sys.exit("usage: python -m tools.build_transformers PIT AUTOFORMER BERT")
    build(dict(zip(BY_NAME, sys.argv[1:], strict=True)))
