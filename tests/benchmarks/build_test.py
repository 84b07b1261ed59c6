import csv
import gzip
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnas.benchmarks import nasbench201
from jaxnas.benchmarks.nasbench201_table import SCALES, TABLE
from jaxnas.benchmarks.notation import to_string
from tools.build_nasbench201 import _SOURCES, build

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def rows():
    """The shipped table as the rows of the CSV that it was built from."""
    table = nasbench201()
    texts = {
        source: [
            f"{value:.{len(str(SCALES[name])) - 1}f}"
            for value in table.columns[name.removesuffix("/test")]
        ]
        for name, source in _SOURCES.items()
    }
    texts["index"] = [str(i) for i in range(len(table.archs))]
    texts["arch"] = [to_string(arch) for arch in table.archs]
    texts["unique_str"] = [f"class {number}" for number in table.columns["classes"]]
    return [dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True)]


def _write(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), quoting=csv.QUOTE_NONE)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_build_gives_the_shipped_arrays_and_the_same_bytes_each_time(tmp_path, rows):
    build(_write(tmp_path / "table.csv", rows), tmp_path / "first.npz")
    build(_write(tmp_path / "table.csv.gz", rows), tmp_path / "second.npz")
    first = (tmp_path / "first.npz").read_bytes()
    assert first == (tmp_path / "second.npz").read_bytes()
    with np.load(tmp_path / "first.npz") as built, np.load(TABLE) as shipped:
        assert built.files == shipped.files
        for name in built.files:
            np.testing.assert_array_equal(built[name], shipped[name], strict=True)


def test_build_refuses_to_lose_decimals(tmp_path, rows):
    changed = [{**rows[0], "c10_test": "85.86334"}]
    with pytest.raises(ValueError, match="c10_test must have at most 4 decimals"):
        build(_write(tmp_path / "table.csv", changed), tmp_path / "table.npz")


@pytest.mark.parametrize("arguments", [[], ["one.csv", "other.csv"]])
def test_command_line_says_how_it_is_used(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["build_nasbench201.py", *arguments])
    with pytest.raises(SystemExit, match=r"^usage: python -m tools\.build_nasbench201 CSV$"):
        runpy.run_path(str(TOOLS / "build_nasbench201.py"), run_name="__main__")


def test_build_refuses_a_malformed_cell(tmp_path, rows):
    with pytest.raises(ValueError, match="A cell is written"):
        build(_write(tmp_path / "table.csv", [{**rows[0], "arch": "|x~0|"}]), tmp_path / "t.npz")
