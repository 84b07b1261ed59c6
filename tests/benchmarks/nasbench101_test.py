import csv
import gzip
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxnas.benchmarks import nasbench101_notation as notation
from jaxnas.benchmarks.nasbench101_table import EPOCHS, TABLE, nasbench101
from tools.build_nasbench101 import build

TOOLS = Path(__file__).parents[2] / "tools"

BENCHMARK = nasbench101()

# Copied by hand from the published numbers: accuracy at 4, 12, 36 and 108 epochs, seconds.
ROWS = {
    0: ((0.5865384, 0.6716747, 0.8917268, 0.9201723), 3263.624),
    1: ((0.4023438, 0.6809896, 0.8358374, 0.875), 1012.078),
    2: ((0.2315705, 0.5668069, 0.9019431, 0.9384015), 2170.943),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_copied_by_hand(row):
    accuracies, seconds = ROWS[row]
    arch = BENCHMARK.archs[row]
    found = [BENCHMARK.accuracy(arch, f"valid_{epochs}ep") for epochs in EPOCHS]
    np.testing.assert_allclose(found, 100 * np.array(accuracies), atol=6e-6)
    assert BENCHMARK.accuracy(arch) == found[-1]
    assert BENCHMARK.value(notation.to_string(arch), "seconds") == seconds
    assert BENCHMARK.index(arch) == row


def test_facts_of_the_sample():
    assert BENCHMARK.archs.shape == (10_000, 26)
    assert len(set(BENCHMARK.row_keys.tolist())) == 10_000
    assert (BENCHMARK.params.min(), BENCHMARK.params.max()) == (293_130, 49_979_274)
    best = BENCHMARK.columns["valid_108ep"].max()
    np.testing.assert_allclose(best, 94.91186, atol=1e-5)
    assert all(notation.graph(tuple(arch)).num_edges <= 9 for arch in BENCHMARK.archs.tolist())
    with pytest.raises(ValueError, match="read-only"):
        BENCHMARK.params[0] = 1


@pytest.mark.parametrize(
    ("column", "expected"),
    [("params", 0.4492), ("valid_4ep", 0.4565), ("valid_12ep", 0.6246), ("valid_36ep", 0.8781)],
)
def test_cheap_columns_rank_so_well(column, expected):
    accuracies = BENCHMARK.columns["valid_108ep"]
    found = stats.spearmanr(BENCHMARK.columns[column], accuracies).statistic
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_isomorphic_cells_are_one():
    moved = 0
    for row in range(0, 10_000, 1000):
        others = np.array(list(notation.orders(BENCHMARK.archs[row])))
        moved += len(others) - 1
        np.testing.assert_array_equal(BENCHMARK.index(others), row)
    assert moved > 10


def test_many_are_asked_for_at_once():
    archs = BENCHMARK.archs[5:8]
    expected = BENCHMARK.columns["valid_12ep"][5:8]
    np.testing.assert_array_equal(BENCHMARK.accuracy(archs, "valid_12ep"), expected)
    strings = [notation.to_string(arch) for arch in archs]
    np.testing.assert_array_equal(BENCHMARK.accuracy(strings, "valid_12ep"), expected)
    assert BENCHMARK.accuracy(strings[0]).shape == ()
    assert BENCHMARK.index(archs[:0]).shape == (0,)


# A cell of the benchmark, but not of the sample; and one without a path.
ABSENT = notation.from_string("010/001/000:input,maxpool3x3,output")
DISCONNECTED = np.zeros(26, int)


@pytest.mark.parametrize("column", ["valid_12ep", "params", "seconds"])
def test_lookup_is_the_table(column):
    others = [ABSENT, DISCONNECTED, np.ones(26, int)]  # the last has all edges
    archs = np.array([BENCHMARK.archs[7], *others, BENCHMARK.archs[9999]])
    found = BENCHMARK.lookup(column)(archs)
    expected = BENCHMARK.columns[column]
    np.testing.assert_array_equal(found, [expected[7], *[np.nan] * 3, expected[9999]])


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            lambda: BENCHMARK.index(ABSENT),
            "holds 10000 networks of nasbench101: got another at position 0",
        ),
        (lambda: BENCHMARK.index([BENCHMARK.archs[0], DISCONNECTED]), "another at position 1"),
        (lambda: BENCHMARK.index("011"), "got '011'"),
        (lambda: BENCHMARK.index([0] * 25), "26 decisions"),
        (lambda: BENCHMARK.index(3), r"26 decisions: got shape \(\)"),
        (lambda: BENCHMARK.index(np.zeros((2, 2, 26), int)), r"\[A, D\]: got \[2, 2, 26\]"),
        (lambda: BENCHMARK.accuracy(ABSENT, "valid_50ep"), "column must be one of valid_4ep"),
        (lambda: BENCHMARK.lookup("test"), "column must be one of valid_4ep, .*: got 'test'"),
    ],
)
def test_bad_requests_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()


def test_no_file_and_a_damaged_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        nasbench101(tmp_path / "nothing.npz")
    content = TABLE.read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="does not hold the NAS-Bench-101 table"):
        nasbench101(tmp_path / "half.npz")
    with np.load(TABLE) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "short.npz", **{**arrays, "seconds": arrays["seconds"][:5]})
    with pytest.raises(ValueError, match="columns of different lengths"):
        nasbench101(tmp_path / "short.npz")


# The builder, on the first rows of the shipped table.

COUNT = 40


@pytest.fixture(scope="module")
def rows():
    """The rows of the CSV that the table was built from, in another order of the vertices."""
    found = []
    for row in range(COUNT):
        arch = list(notation.orders(BENCHMARK.archs[row]))[-1]
        adjacency, ops = notation.to_string(arch).split(":")
        found.append(
            {
                "hash": notation.module_hash(arch),
                "adjacency": adjacency,
                "ops": ops,
                **{
                    f"valid_acc_{n}ep": f"{BENCHMARK.accuracy(arch, f'valid_{n}ep') / 100:.7f}"
                    for n in EPOCHS
                },
                "params": str(BENCHMARK.params[row]),
                "training_time_s": f"{BENCHMARK.columns['seconds'][row]:.4f}",
            }
        )
    return found


def _write(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_build_gives_the_shipped_numbers_and_the_same_bytes_each_time(tmp_path, rows):
    build(_write(tmp_path / "table.csv", rows), tmp_path / "first.npz")
    build(_write(tmp_path / "table.csv.gz", rows), tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    with np.load(tmp_path / "first.npz") as built, np.load(TABLE) as shipped:
        assert built.files == shipped.files
        for name in set(built.files) - {"codes"}:  # several orders may give the same parameters
            np.testing.assert_array_equal(built[name], shipped[name][:COUNT], strict=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hash": "0" * 32}, "hash must be that of its graph: got '000"),
        ({"params": "20510347"}, "params must be those of the row's cell .*: got 20510347"),
        ({"valid_acc_12ep": "0.67"}, "shares of 9984 images"),
        ({"training_time_s": "3263.12345"}, "at most 4 decimals"),
        ({"ops": "input,output"}, "upper triangular matrix"),
    ],
)
def test_build_refuses_what_it_cannot_keep(tmp_path, rows, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(_write(tmp_path / "table.csv", [{**rows[0], **change}]), tmp_path / "table.npz")
    assert not (tmp_path / "table.npz").exists()


def test_build_refuses_a_cell_that_is_there_twice(tmp_path, rows):
    with pytest.raises(ValueError, match="got 2 rows with fewer hashes"):
        build(_write(tmp_path / "table.csv", [rows[0], rows[0]]), tmp_path / "table.npz")


@pytest.mark.parametrize("arguments", [[], ["one.csv", "other.csv"]])
def test_command_line_says_how_it_is_used(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["build_nasbench101.py", *arguments])
    usage = r"^usage: python -m tools\.build_nasbench101 CSV$"
    with pytest.raises(SystemExit, match=usage):
        runpy.run_path(str(TOOLS / "build_nasbench101.py"), run_name="__main__")
