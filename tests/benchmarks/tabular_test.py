import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.benchmarks import TabularBenchmark, nasbench201
from jaxnas.benchmarks.nasbench201_table import DATASETS, SCALES, TABLE
from jaxnas.benchmarks.notation import from_string, to_string

BENCHMARK = nasbench201()

# Copied by hand from the public records: index -> (string, params, MFLOPs, test and 12-epoch
# validation accuracies on CIFAR-10, CIFAR-100 and ImageNet16-120, seconds).
ROWS = {
    0: (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+"
        "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
        *(129306, 15.64737, 85.8633, 63.364, 52.9133, 31.84, 26.6333, 18.4667, 86.6531),
    ),
    9: (
        "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
        *(316346, 43.17249, 86.4433, 73.874, 58.0933, 43.98, 27.9556, 24.0, 78.4784),
    ),
    123: (
        "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
        *(344346, 47.10465, 83.65, 60.016, 52.94, 32.76, 22.3222, 15.8667, 123.3199),
    ),
    15624: (
        "|nor_conv_1x1~0|+|none~0|nor_conv_1x1~1|+|none~0|nor_conv_1x1~1|nor_conv_1x1~2|",
        *(185306, 23.51169, 86.8233, 55.762, 55.22, 25.28, 21.4111, 13.4333, 125.364),
    ),
}

STRINGS = [string for string, *_ in ROWS.values()]


@pytest.mark.parametrize("index", ROWS)
def test_rows_copied_by_hand(index):
    string, params, mflops, *accuracies, seconds = ROWS[index]
    assert to_string(BENCHMARK.archs[index]) == string
    assert BENCHMARK.params[index] == params
    assert BENCHMARK.columns["mflops"][index] == mflops
    found = [BENCHMARK.value(string, d + end) for d in DATASETS for end in ("", "/valid_12ep")]
    assert found == accuracies
    assert BENCHMARK.value(string, "seconds") == seconds


@pytest.mark.parametrize(
    ("dataset", "best", "index"),
    [("cifar10", 94.3733, 6111), ("cifar100", 73.5133, 9930), ("imagenet16-120", 47.3111, 857)],
)
def test_best_cells(dataset, best, index):
    accuracies = BENCHMARK.accuracy(BENCHMARK.archs, dataset)
    assert accuracies.max() == best
    assert accuracies.argmax() == index


def test_facts_of_the_space():
    assert BENCHMARK.archs.shape == (15625, 6)
    assert BENCHMARK.archs.dtype == np.int32
    np.testing.assert_array_equal(np.unique(BENCHMARK.columns["classes"]), np.arange(6466))
    # 2.2 % of the cells do not let the image through: chance level, exactly.
    cut = BENCHMARK.accuracy(BENCHMARK.archs) == 10.0
    assert cut.sum() == 341
    assert (BENCHMARK.accuracy(BENCHMARK.archs[cut], "cifar100") == 1.0).all()
    assert BENCHMARK.accuracy(BENCHMARK.archs[~cut]).min() == 46.2467
    assert not np.isin(BENCHMARK.columns["classes"][cut], BENCHMARK.columns["classes"][~cut]).any()
    # Six 3x3 convolutions on every edge are the most expensive cell.
    assert BENCHMARK.params.max() == BENCHMARK.params[BENCHMARK.index([3] * 6)] == 1531546
    assert (
        BENCHMARK.columns["mflops"].max()
        == BENCHMARK.columns["mflops"][BENCHMARK.index([3] * 6)]
        == 220.11969
    )


def test_disconnected_cells_are_those_without_a_path():
    # Edges (1<-0), (2<-0), (2<-1), (3<-0), (3<-1), (3<-2), open unless the operation is none.
    a, b, c, d, e, f = (BENCHMARK.archs != 0).T
    connected = d | (a & e) | (b & f) | (a & c & f)
    np.testing.assert_array_equal(BENCHMARK.accuracy(BENCHMARK.archs) == 10.0, ~connected)


def test_round_trips_of_all_cells():
    strings = [to_string(arch) for arch in BENCHMARK.archs]
    assert len(set(strings)) == 15625
    np.testing.assert_array_equal([from_string(string) for string in strings], BENCHMARK.archs)
    np.testing.assert_array_equal(BENCHMARK.index(BENCHMARK.archs), np.arange(15625))


@settings(deadline=None)  # the first call reads the table
@given(st.tuples(*[st.integers(0, 4)] * 6))
def test_array_and_string_name_the_same_cell(arch):
    expected = BENCHMARK.accuracy(np.array(arch, np.int32), "cifar100/valid_12ep")
    assert expected.shape == ()
    for name in (to_string(arch), jnp.array(arch)):
        assert BENCHMARK.accuracy(name, "cifar100/valid_12ep") == expected
    assert BENCHMARK.accuracy([arch], "cifar100/valid_12ep").tolist() == [expected]


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda s: np.array(s, object), lambda s: pd.Series(s)]
)
def test_several_strings(kind):
    found = BENCHMARK.index(kind(STRINGS))
    np.testing.assert_array_equal(found, np.array([*ROWS]), strict=True)
    # The columns of ROWS: string, params, MFLOPs, then the first test accuracy.
    assert BENCHMARK.accuracy(kind(STRINGS)).tolist() == [row[3] for row in ROWS.values()]
    assert BENCHMARK.value(kind(STRINGS[:1]), "seconds").tolist() == [86.6531]


def test_every_number_is_a_decimal_of_its_scale():
    for name, scale in SCALES.items():
        column = BENCHMARK.columns[name.removesuffix("/test")]
        np.testing.assert_array_equal(np.rint(column * scale) / scale, column)


def test_table_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        BENCHMARK.columns["seconds"][0] = 0


@pytest.mark.parametrize("column", BENCHMARK.columns)
def test_lookup_is_the_column_under_transformations(column):
    score_fn = BENCHMARK.lookup(column)
    archs = jnp.asarray(BENCHMARK.archs[::25])
    expected = BENCHMARK.columns[column][::25].astype(np.float32)
    np.testing.assert_array_equal(jax.jit(score_fn)(archs), expected)
    np.testing.assert_array_equal(jax.vmap(score_fn)(archs[:, None])[:, 0], expected)
    scanned = jax.lax.scan(lambda _, arch: (None, score_fn(arch[None])[0]), None, archs)[1]
    np.testing.assert_array_equal(scanned, expected)
    assert score_fn(archs).dtype == jnp.float32


def test_best_found_keeps_the_first_of_the_best_it_can_pay_for():
    """Five looks of 3 seconds each: a budget pays for whole ones."""
    columns = {
        "valid": np.array([1.0, 7.0, 9.0, 7.0]),
        "seconds": np.full(4, 3.0),
        "test": np.array([10.0, 20.0, 30.0, 40.0]),
    }
    archs = np.arange(4, dtype=np.int32)[:, None]
    table = TabularBenchmark("four", archs, columns, "test", (4,), lambda s: np.array([int(s)]))
    looked = [[0], [3], [1], [2], [0]]
    found = table.best_found(looked, [2, 3, 8.9, 9, 100], seen="valid", cost="seconds")
    assert found["budget"].tolist() == [3, 8.9, 9, 100]
    assert found["looks"].tolist() == [1, 2, 3, 5]
    assert found["spent"].tolist() == [3, 6, 9, 15]
    assert found["test"].tolist() == [10, 40, 40, 30]


def test_lookup_scores_operations_out_of_range_nan():
    archs = jnp.array([[0, 0, 0, 0, 0, 5], [-1, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3]])
    scores = BENCHMARK.lookup("params")(archs)
    np.testing.assert_array_equal(np.isnan(scores), [True, True, False])


def test_one_program_serves_all_columns():
    traces = []

    @jax.jit
    def best(score_fn, archs):
        traces.append(None)
        return score_fn(archs).max()

    for column in DATASETS:
        expected = BENCHMARK.columns[column].max().astype(np.float32)
        assert best(BENCHMARK.lookup(column), jnp.asarray(BENCHMARK.archs)) == expected
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BENCHMARK.accuracy([0] * 5), r"6 decisions: got shape \(5,\); pass \[6\] or"),
        (lambda: BENCHMARK.accuracy(np.zeros((2, 2, 6), int)), r"or \[A, D\]: got \[2, 2, 6\]"),
        (lambda: BENCHMARK.accuracy(9), r"6 decisions: got shape \(\)"),
        (lambda: BENCHMARK.accuracy([[STRINGS[0]], [STRINGS[1]]]), r"\[A, D\]: got \[2, 1, 6\]"),
        (lambda: BENCHMARK.accuracy([0, 0, 0, 0, 0, 5]), r"Decision 5 must be in \[0, 5\): got 5"),
        (lambda: BENCHMARK.index([[0] * 6, [-1] * 6]), r"Decision 0 must be in \[0, 5\): got -1"),
        (lambda: BENCHMARK.value([0.0] * 6, "seconds"), "arrays of integers: got dtype float64"),
        (lambda: BENCHMARK.value(["none"] * 6, "seconds"), r"A cell is written .*'none'"),
        (lambda: BENCHMARK.value([STRINGS[0], "none"], "seconds"), r"A cell is written .*'none'"),
        (lambda: BENCHMARK.value([STRINGS[0], 9], "seconds"), r"A cell is written .*'9'"),
        (lambda: BENCHMARK.index(None), r"A cell is written .*'None'"),
        (lambda: to_string([3] * 12), r"6 decisions: got shape \(12,\)"),
        (lambda: to_string([[3] * 6]), r"One architecture at a time: got shape \[1, 6\]"),
        (lambda: BENCHMARK.accuracy([0] * 6, "mnist"), "column must be one of cifar10, .*'mnist'"),
        (lambda: BENCHMARK.index("|none~0|"), r"A cell is written .*'\|none~0\|'"),
        (lambda: from_string(ROWS[9][0] + "|"), "A cell is written"),
        (lambda: from_string(ROWS[9][0].replace("3x3", "5x5")), "A cell is written"),
        (lambda: BENCHMARK.lookup("test"), "column must be one of cifar10, .*: got 'test'"),
        (lambda: BENCHMARK.lookup("params")(jnp.zeros((1, 5), int)), r"\[A, 6\]: got \[1, 5\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _as_a_bare_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _without_a_column(path):
    with np.load(TABLE) as table:
        np.savez(path, **{name: table[name] for name in table.files if name != "seconds"})


def _with_a_cell_twice(path):
    with np.load(TABLE) as table:
        arrays = dict(table)
    arrays["order"][0] = arrays["order"][1]
    np.savez(path, **arrays)


def _with_fractions_for_indices(path):
    with np.load(TABLE) as stored:
        np.savez(path, **(dict(stored) | {"order": stored["order"].astype(float)}))


def _with_a_short_column(path):
    with np.load(TABLE) as table:
        np.savez(path, **{**table, "seconds": table["seconds"][:-1]})


def _with_a_flipped_byte(path):
    content = bytearray(TABLE.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a table"),
        lambda path: path.write_bytes(TABLE.read_bytes()[:-1000]),
        _as_a_bare_array,
        _without_a_column,
        _with_a_cell_twice,
        _with_a_short_column,
        _with_fractions_for_indices,
        _with_a_flipped_byte,
    ],
)
def test_corrupt_table(tmp_path, spoil):
    path = tmp_path / "table.npz"
    spoil(path)
    with pytest.raises(
        ValueError, match=r"does not hold the NAS-Bench-201 table.*build_nasbench201 CSV"
    ):
        nasbench201(path)


def test_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        nasbench201(tmp_path / "absent.npz")
