import csv
import gzip
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxnas.benchmarks.macro import TABLE, from_string, nasbench_macro, to_string
from tools.build_macro import build

TOOLS = Path(__file__).parents[2] / "tools"

BENCHMARK = nasbench_macro()
RUNS = np.stack([BENCHMARK.columns[f"run_{number}"] for number in (1, 2, 3)], axis=1)
FLOPS = BENCHMARK.columns["flops"]

# Copied by hand from the published file: three accuracies, their mean, parameters and FLOPs.
ROWS = {
    "02012100": ((89.47, 88.95, 89.17), 89.196665, 890666, 47327744),
    "11111221": ((92.18, 92.22, 92.51), 92.303332, 2181386, 65012224),
    "00011110": ((85.37, 85.23, 85.23), 85.276662, 1118378, 31390208),
    "02012220": ((89.70, 89.87, 89.96), 89.843330, 1886890, 65495552),
}


@pytest.mark.parametrize("string", ROWS)
def test_rows_copied_by_hand(string):
    runs, mean, params, flops = ROWS[string]
    row = BENCHMARK.index(string)
    np.testing.assert_array_equal(RUNS[row], runs)
    np.testing.assert_allclose(BENCHMARK.accuracy(string), mean, atol=1e-5)
    assert (BENCHMARK.params[row], FLOPS[row]) == (params, flops)
    assert to_string(BENCHMARK.archs[row]) == string


def test_facts_of_the_space():
    assert BENCHMARK.archs.shape == (6561, 8)
    # The empty network is the only one below 50 %.
    assert np.flatnonzero(RUNS.min(axis=1) < 50).tolist() == [0]
    np.testing.assert_array_equal(RUNS[0, :2], [45.32, 45.33])
    np.testing.assert_array_equal(RUNS.max(axis=0)[:2], [93.28, 93.45])
    assert (BENCHMARK.params.min(), BENCHMARK.params.max()) == (387882, 2932586)
    assert (FLOPS.min(), FLOPS.max()) == (7713280, 105660928)
    with pytest.raises(ValueError, match="read-only"):
        BENCHMARK.params[0] = 1


@pytest.mark.parametrize(("cost", "expected"), [("params", 0.3179), ("flops", 0.7478)])
def test_size_alone_ranks_so_well(cost, expected):
    accuracies = BENCHMARK.columns["accuracy"]
    correlation = stats.spearmanr(BENCHMARK.columns[cost], accuracies).statistic
    np.testing.assert_allclose(correlation, expected, atol=1e-4)


@pytest.mark.parametrize("cost", ["params", "flops"])
def test_costs_are_sums_over_layers(cost):
    chosen = BENCHMARK.archs[:, :, None] == np.arange(3)
    table = np.hstack([np.ones((6561, 1)), chosen[:, :, 1:].reshape(6561, -1)])
    values = BENCHMARK.columns[cost]
    weights = np.linalg.lstsq(table, values, rcond=None)[0]
    np.testing.assert_allclose(table @ weights, values, rtol=1e-9)


def test_many_are_asked_for_at_once():
    archs = np.array([from_string(string) for string in ROWS])
    expected = [BENCHMARK.accuracy(string) for string in ROWS]
    np.testing.assert_array_equal(BENCHMARK.accuracy(archs), expected)
    np.testing.assert_array_equal(BENCHMARK.accuracy(list(ROWS)), expected)
    assert BENCHMARK.accuracy("00000000").shape == ()


@pytest.mark.parametrize("column", ["accuracy", "params", "flops"])
def test_lookup_is_the_table_and_traceable(column):
    score = BENCHMARK.lookup(column)
    archs = BENCHMARK.archs[::1000]
    expected = BENCHMARK.columns[column][::1000].astype(np.float32)
    np.testing.assert_array_equal(jax.jit(score)(jnp.asarray(archs)), expected)
    outside = score(jnp.array([[0] * 7 + [3], [-1] + [0] * 7]))
    assert jnp.isnan(outside).all()


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: BENCHMARK.index("0123"), "8 digits, 0 identity.*got '0123'"),
        (lambda: BENCHMARK.index("00000003"), "got '00000003'"),
        (lambda: BENCHMARK.index([0] * 7), "8 decisions"),
        (lambda: BENCHMARK.index(3), "8 decisions"),
        (lambda: BENCHMARK.index([0] * 7 + [3]), r"Decision 7 must be in \[0, 3\)"),
        (lambda: BENCHMARK.index(np.zeros((2, 2, 8), int)), r"\[A, D\]: got \[2, 2, 8\]"),
        (lambda: to_string(np.zeros((2, 8), int)), "One architecture at a time"),
        (
            lambda: BENCHMARK.lookup("valid"),
            "one of run_1, .*, accuracy, params, flops: got 'valid'",
        ),
        (lambda: BENCHMARK.lookup("params")(jnp.zeros((2, 6), int)), r"\[A, 8\]: got \[2, 6\]"),
    ],
)
def test_bad_requests_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()


def test_no_file_and_a_damaged_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        nasbench_macro(tmp_path / "nothing.npz")
    content = TABLE.read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="does not hold the NAS-Bench-Macro table"):
        nasbench_macro(tmp_path / "half.npz")
    np.savez(tmp_path / "short.npz", runs=np.ones((5, 3)), params=np.ones(5), flops=np.ones(5))
    with pytest.raises(ValueError, match=r"runs of shape \[5, 3\]"):
        nasbench_macro(tmp_path / "short.npz")


@pytest.fixture(scope="module")
def rows():
    """The shipped table as the rows of the CSV that it was built from, in another order."""
    values = zip(BENCHMARK.archs, RUNS, BENCHMARK.params, FLOPS, strict=True)
    return [
        {
            "arch": to_string(arch),
            **{f"test_acc{i}": f"{np.float32(run):.6f}" for i, run in enumerate(runs)},
            "params": str(params),
            "flops": str(flops),
        }
        for arch, runs, params, flops in values
    ][::-1]


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
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    with np.load(tmp_path / "first.npz") as built, np.load(TABLE) as shipped:
        assert built.files == shipped.files
        for name in built.files:
            np.testing.assert_array_equal(built[name], shipped[name], strict=True)


def test_build_refuses_what_it_cannot_keep(tmp_path, rows):
    changed = [{**rows[0], "test_acc1": "93.125"}, *rows[1:]]
    with pytest.raises(ValueError, match="must have 2 decimals, up to float32"):
        build(_write(tmp_path / "table.csv", changed), tmp_path / "table.npz")
    with pytest.raises(ValueError, match="got 6561 rows with 6560 different networks"):
        build(_write(tmp_path / "table.csv", [rows[1], *rows[1:]]), tmp_path / "table.npz")
    assert not (tmp_path / "table.npz").exists()


@pytest.mark.parametrize("arguments", [[], ["one.csv", "other.csv"]])
def test_command_line_says_how_it_is_used(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["build_macro.py", *arguments])
    with pytest.raises(SystemExit, match=r"^usage: python -m tools\.build_macro CSV$"):
        runpy.run_path(str(TOOLS / "build_macro.py"), run_name="__main__")
