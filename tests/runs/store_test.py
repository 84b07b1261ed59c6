"""The score store: round trips, resumption after kill -9, and one sentence per bad file."""

import gc
import math
import os
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import jaxnas.runs
from jaxnas.runs.store import ScoreRow, ScoreStore

CONTEXT = {"space": "nasbench201", "options": {"width": 4, "cells": [1, 2]}, "batch": 16}
ROWS = [
    ScoreRow("|b|", "knas", 1, 0.1 + 0.2),
    ScoreRow("|b|", "knas", 0, 1e-300),
    ScoreRow("|a|", "ntk", 0, -math.inf, "disconnected"),
    ScoreRow("|a|", "knas", 0, math.nan, "not finite"),
    ScoreRow("|a|", "knas", 1, math.nan, "failed: out of memory at 3;0 'x'"),
]


def test_a_store_that_nobody_has_is_closed():
    """Python 3.13 warns of connections that are not."""
    store = ScoreStore(ScoreStore.IN_MEMORY)
    connection = store._connection
    del store
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


DONE = {row[:3] for row in ROWS if not row.status.startswith("failed:")}


@pytest.fixture
def store(tmp_path):
    with ScoreStore(tmp_path / "scores.sqlite") as opened:
        yield opened


def bits(frame):
    """What two tables must share to be the same, nan included, to the bit."""
    scores = [value.hex() for value in frame["score"]]
    return [tuple(row) for row in frame.drop(columns="score").itertuples(index=False)], scores


def test_a_failure_gives_way_and_nothing_else_does(store):
    run = store.open_run(CONTEXT)
    store.add(
        run, [ScoreRow("|a|", "mgm", 0, -np.inf, "failed: full"), ScoreRow("|b|", "mgm", 0, 1)]
    )
    assert store.done(run) == {("|b|", "mgm", 0)}
    store.add(run, [ScoreRow("|a|", "mgm", 0, 2.0), ScoreRow("|b|", "mgm", 0, 3.0)])
    assert store.frame(run)["score"].tolist() == [2.0, 1.0]
    assert store.frame(run)["status"].tolist() == ["ok", "ok"]


def test_rows_round_trip_exactly_and_in_order(store):
    run = store.open_run(CONTEXT)
    store.add(run, ROWS)
    frame = store.frame(run)
    assert list(frame.columns) == ["arch", "proxy", "seed", "score", "status"]
    assert frame["score"].dtype == np.float64
    assert frame["seed"].dtype == np.int64
    expected = sorted(ROWS, key=lambda row: row[:3])
    for got, row in zip(frame.itertuples(index=False), expected, strict=True):
        assert tuple(got)[:3] == row[:3]
        assert got.score.hex() == row.score.hex()
        assert got.status == row.status
    assert store.done(run) == DONE


def test_order_and_batches_do_not_show(tmp_path):
    frames = []
    for number, batches in enumerate([[ROWS], [ROWS[3:], [], ROWS[:3]], [ROWS[::-1], ROWS]]):
        with ScoreStore(tmp_path / f"{number}.sqlite") as store:
            run = store.open_run(CONTEXT)
            for batch in batches:
                store.add(run, batch, cpu_seconds=number)
            frames.append(store.frame(run))
    assert bits(frames[0]) == bits(frames[1]) == bits(frames[2])
    pd.testing.assert_frame_equal(frames[0], frames[1], check_exact=True)


def test_the_first_row_of_a_key_stays(store):
    run = store.open_run(CONTEXT)
    store.add(run, [ScoreRow("a", "knas", 0, 1.0)])
    store.add(run, [ScoreRow("a", "knas", 0, 2.0), ScoreRow("b", "knas", 0, 3.0)])
    assert list(store.frame(run)["score"]) == [1.0, 3.0]


def test_a_run_is_its_context(tmp_path):
    with ScoreStore(tmp_path / "one.sqlite") as store:
        run = store.open_run(CONTEXT)
        assert store.open_run(dict(reversed(CONTEXT.items()))) == run
        other = store.open_run({**CONTEXT, "batch": 32})
        assert other != run
        store.add(run, [ScoreRow("a", "knas", 0, 1.0)])
        store.add(other, [ScoreRow("a", "knas", 0, 2.0)])
        assert store.done(run) == store.done(other) == {("a", "knas", 0)}
        assert list(store.frame(other)["score"]) == [2.0]
        everything = store.frame()
        assert everything.columns[0] == "run"
        assert sorted(everything["run"]) == sorted([run, other])
        assert store.contexts() == {run: CONTEXT, other: {**CONTEXT, "batch": 32}}
    with ScoreStore(tmp_path / "two.sqlite") as store:
        store.open_run({"another": "first"})
        assert store.open_run(CONTEXT) == run


def test_reopening_finds_everything(tmp_path):
    path = tmp_path / "new" / "folder" / "scores.sqlite"
    with ScoreStore(path) as store:
        run = store.open_run(CONTEXT)
        store.add(run, ROWS[:2], cpu_seconds=1.5)
    with ScoreStore(path) as store:
        assert store.open_run(CONTEXT) == run
        store.add(run, ROWS[2:], cpu_seconds=0.25)
        assert store.cpu_seconds(run) == 1.75
        assert len(store.frame(run)) == 5
    assert [file.name for file in path.parent.iterdir()] == ["scores.sqlite"]
    connection = sqlite3.connect(path)
    plain = pd.read_sql("SELECT * FROM scores", connection)
    connection.close()
    assert plain["score"].isna().sum() == 2
    assert np.isneginf(plain["score"]).sum() == 1


def test_empty_tables_have_types(store):
    run = store.open_run({})
    assert len(store.frame(run)) == 0
    assert store.frame()["score"].dtype == np.float64
    assert store.cpu_seconds(run) == 0.0
    store.add(run, [ScoreRow("a", "knas", 0, math.nan, "not finite")])
    assert store.frame(run)["score"].dtype == np.float64


def test_a_batch_is_written_whole_or_not_at_all(store):
    run = store.open_run(CONTEXT)
    with pytest.raises(ValueError, match="status"):
        store.add(run, [ROWS[0], ScoreRow("z", "knas", 0, 1.0, "fine")], cpu_seconds=1.0)
    assert len(store.frame(run)) == 0
    with pytest.raises(OverflowError):  # found by SQLite only, after the first row
        store.add(run, [ROWS[0], ScoreRow("z", "knas", 2**70, 1.0)], cpu_seconds=1.0)
    assert len(store.frame(run)) == 0
    assert store.cpu_seconds(run) == 0.0
    store.add(run, ROWS)
    assert len(store.frame(run)) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ScoreRow("a", "knas", 0, 1.0, "fine"), "got 'fine' for a"),
        (ScoreRow("a", "knas", 0, math.nan), "must be finite: got nan for knas of a"),
        (ScoreRow("a", "knas", 0, -math.inf, "ok"), "must be finite: got -inf"),
        (ScoreRow(np.zeros(3), "knas", 0, 1.0), "must be text: got ndarray"),
    ],
)
def test_bad_rows(store, row, message):
    with pytest.raises(ValueError, match=message):
        store.add(store.open_run(CONTEXT), [row])


@pytest.mark.parametrize("context", [{"a": object()}, {"a": math.nan}, {"a": np.float32(1)}])
def test_a_context_is_json(store, context):
    with pytest.raises(ValueError, match="must be finite JSON"):
        store.open_run(context)


def test_unknown_run(store):
    for use in (store.done, store.frame, store.cpu_seconds, lambda run: store.add(run, ROWS)):
        with pytest.raises(ValueError, match="got 7; get its id from open_run"):
            use(7)


# Empty packages stand for the real ones, whose other imports would take seconds per start.
WORKER = """
import math, sys, types
path, batches = sys.argv[1], int(sys.argv[2])
for name, folder in zip(("jaxnas", "jaxnas.runs"), sys.argv[3:]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from jaxnas.runs.store import ScoreRow, ScoreStore
with ScoreStore(path) as store:
    run = store.open_run({"space": "test", "batch": 8})
    done = store.done(run)
    for batch in range(batches):
        rows = [ScoreRow(f"arch{batch:04d}", proxy, seed, math.sin(batch) / (seed + 1))
                for proxy in ("knas", "ntk") for seed in range(20)]
        todo = [row for row in rows if row[:3] not in done]
        if todo:
            store.add(run, todo, cpu_seconds=0.001)
            print(len(todo), flush=True)
print("finished", flush=True)
"""


def start_worker(path, batches):
    folders = [jaxnas.__path__[0], jaxnas.runs.__path__[0]]
    command = [sys.executable, "-c", WORKER, str(path), str(batches), *folders]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("batches", "kills"),
    [
        (150, (1, 9, 20)),
        pytest.param(1000, tuple(1 + 5 * at % 17 for at in range(20)), marks=pytest.mark.slow),
    ],
)
def test_kill_nine_loses_and_repeats_nothing(tmp_path, batches, kills):
    killed, undisturbed = tmp_path / "killed.sqlite", tmp_path / "other.sqlite"
    beside = start_worker(undisturbed, batches)
    reported = 0
    for lines in kills:  # it writes on until the signal comes, which may be amid a batch
        with start_worker(killed, batches) as worker:
            for _ in range(lines):
                reported += int(worker.stdout.readline())
            os.kill(worker.pid, signal.SIGKILL)
            rest = worker.stdout.read()
            assert worker.wait() == -signal.SIGKILL
            assert "finished" not in rest
            reported += sum(int(line) for line in rest.split("\n") if line)
        with ScoreStore(killed) as store:
            (run,) = store.contexts()
            # Every batch that was reported is there; one more may have been written unreported.
            kept = len(store.done(run))
            assert kept - reported in (0, 40)
            reported = kept
    for worker in (start_worker(killed, batches), beside):
        with worker:
            assert worker.stdout.read().endswith("finished\n")
    with ScoreStore(killed) as one, ScoreStore(undisturbed) as other:
        frame = one.frame()
        assert len(frame) == batches * 40
        assert bits(frame) == bits(other.frame())
        pd.testing.assert_frame_equal(frame, other.frame(), check_exact=True)


def test_a_kill_within_a_transaction_leaves_the_state_before(tmp_path):
    path = tmp_path / "scores.sqlite"
    with ScoreStore(path) as store:
        run = store.open_run({})
        store.add(run, ROWS)
    # A tiny cache makes SQLite write pages of the unfinished transaction into the file itself.
    script = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.executemany("INSERT INTO scores VALUES (?, ?, 'p', 0, 1.0, 'ok', 0)",
                       [({run}, f"arch{{i}}" * 20) for i in range(2000)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    size = path.stat().st_size
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert path.stat().st_size > size
    with ScoreStore(path) as store:
        assert store.done(run) == DONE


def fill(path):
    with ScoreStore(path) as store:
        store.add(store.open_run({}), [ScoreRow(f"{i:0100d}", "p", 0, 0.5) for i in range(500)])


def test_not_sqlite(tmp_path):
    path = tmp_path / "scores.sqlite"
    path.write_text("arch,score\n" * 100)
    with pytest.raises(ValueError, match=r"must be a whole SQLite file: got .* is not a database"):
        ScoreStore(path)
    assert path.read_text().startswith("arch,score")


@pytest.mark.parametrize("harm", ["cut", "scrambled"])
def test_damaged_file(tmp_path, harm):
    path = tmp_path / "scores.sqlite"
    fill(path)
    content = path.read_bytes()
    middle = len(content) // 2
    harmed = content[:middle] if harm == "cut" else content[:middle] + bytes(middle)
    path.write_bytes(harmed)
    with pytest.raises(ValueError, match=r"must be a whole SQLite file: .*restore it from a copy"):
        ScoreStore(path)
    assert path.read_bytes() == harmed


def test_file_of_another_program(tmp_path):
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(ValueError, match="an SQLite file of another program"):
        ScoreStore(path)
    assert path.read_bytes() == content


def test_another_schema_version(tmp_path):
    path = tmp_path / "scores.sqlite"
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ValueError, match=r"must have schema version 2: got .* with version 99"):
        ScoreStore(path)


def test_bad_paths(tmp_path):
    with pytest.raises(IsADirectoryError, match="must be a file: got the folder"):
        ScoreStore(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="must not be, or lie in, a file"):
        ScoreStore(tmp_path / "file" / "scores.sqlite")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write")
def test_unwritable_folder():
    with pytest.raises(
        PermissionError, match=r"must be readable and writable: got /proc/s\.sqlite"
    ):
        ScoreStore("/proc/s.sqlite")
    with pytest.raises(OSError, match="must be writable: got"):
        ScoreStore("/proc/folder/s.sqlite")


def test_locked_file(tmp_path):
    path = tmp_path / "scores.sqlite"
    with ScoreStore(path, timeout_seconds=0.05) as store:
        run = store.open_run({})
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TimeoutError, match="must not be held by another process"):
            store.add(run, ROWS)
        with pytest.raises(TimeoutError, match="must not be held by another process"):
            store.frame(run)
        with pytest.raises(TimeoutError, match="wait for the other run to end"):
            ScoreStore(path, timeout_seconds=0.05)
        other.execute("ROLLBACK")
        other.close()
        store.add(run, ROWS)
        assert store.done(run) == DONE


def test_an_open_reader_stops_nothing_that_writes_nothing(tmp_path):
    path = tmp_path / "scores.sqlite"
    with ScoreStore(path) as store:
        run = store.open_run(CONTEXT)
        store.add(run, ROWS)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM scores").fetchall()
    with ScoreStore(path, timeout_seconds=0.05) as store:
        assert store.open_run(CONTEXT) == run
        store.add(run, [])
        store.absorb_parts()
        assert store.done(run) == DONE
        with pytest.raises(TimeoutError, match="must not be held by another process"):
            store.add(run, [ScoreRow("|c|", "knas", 0, 1.0)])
    reader.close()


def test_no_flipped_bit_changes_a_table_in_silence(tmp_path):
    path = tmp_path / "scores.sqlite"
    rng = np.random.default_rng(0)
    with ScoreStore(path) as store:
        for context in ({}, CONTEXT):
            run = store.open_run(context)
            rows = [ScoreRow(f"arch {i}", "p", 0, value) for i, value in enumerate(rng.random(40))]
            store.add(run, [*rows, *ROWS, ScoreRow("zero", "p", 0, -0.0)], cpu_seconds=0.1)
    content = path.read_bytes()

    def read():
        with ScoreStore(path) as store:
            seconds = [store.cpu_seconds(run) for run in store.contexts()]
            return bits(store.frame()), store.contexts(), seconds

    written = read()
    found = []
    used = np.flatnonzero(np.frombuffer(content, np.uint8))
    for place in rng.choice(used, 400, replace=False):
        harmed = bytearray(content)
        harmed[place] ^= 1 << rng.integers(8)
        path.write_bytes(harmed)
        try:
            found.append("same" if read() == written else "changed")
        except (ValueError, OSError) as error:
            found.append(str(error).partition(" must")[0])
    assert set(found) == {"same", "The score store"}
    assert found.count("same") < 200


def test_a_store_without_checksums_gets_them(tmp_path):
    path = tmp_path / "scores.sqlite"
    with ScoreStore(path) as store:
        run = store.open_run(CONTEXT)
        store.add(run, ROWS, cpu_seconds=2.5)
        frame = store.frame()
    old = sqlite3.connect(path)
    for table in ("scores", "work"):
        old.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
    old.execute("PRAGMA user_version = 1")
    old.close()
    for _ in range(2):
        with ScoreStore(path) as store:
            pd.testing.assert_frame_equal(store.frame(), frame, check_exact=True)
            assert store.cpu_seconds(run) == 2.5
            store.add(run, [ROWS[0]])
    changed = sqlite3.connect(path)
    changed.execute("UPDATE scores SET score = 0.5 WHERE arch = '|b|'")
    changed.commit()
    changed.close()
    with pytest.raises(ValueError, match=r"knas of \|b\| is not as it was written"):
        ScoreStore(path)


@pytest.mark.parametrize("name", ["scores[1].sqlite", "knas.sqlite", "scores*", "a.b.sqlite"])
def test_a_store_takes_its_parts_and_no_other_file(tmp_path, name):
    suffix = os.path.splitext(name)[1]
    others = [f"knas.process{end}{suffix}" for end in ("ed", "1.process2")]
    others.append("scores1.process1.sqlite")
    for other in others:
        with ScoreStore(tmp_path / other) as store:
            store.add(store.open_run({"other": 1}), [ScoreRow("z", "p", 0, 1.0)])
    with ScoreStore(tmp_path / name) as store:
        run = store.open_run(CONTEXT)
        with store.part(12) as part:
            part.add(part.open_run(CONTEXT), ROWS)
        store.absorb_parts()
        assert store.done(run) == DONE
        assert set(store.contexts()) == {run}
    assert sorted(os.listdir(tmp_path)) == sorted([*others, name])
