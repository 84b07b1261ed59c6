"""Scores on disk, in SQLite, keyed by everything that determines them.

The store is written as a run goes. A `kill -9` at any moment loses at most the batch that was
being written, and a resumed run asks `done` for what need not be repeated. SQLite's plain rollback
journal keeps it to one file between batches, which may be copied or lie on a network drive. pandas
reads it directly: `pandas.read_sql("SELECT * FROM scores", sqlite3.connect(path))`. Each row has a
checksum, so that a disk that changes a bit is found out when the file is opened.
"""

import contextlib
import json
import math
import os
import re
import sqlite3
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pandas as pd

from jaxnas.runs.files import output_folder
from jaxnas.runs.schema import checksum_of, prepare, run_of, transaction
from jaxnas.runs.sqlite_errors import plain_errors
from jaxnas.types import FAILED

STATUSES = ("ok", "disconnected", "nothing to score", "not finite")
"""What became of a score; besides these, "failed: " and the reason."""

# What happens to a row whose key is there already.
_KEEP = (
    "ON CONFLICT (run, arch, proxy, seed) DO UPDATE "
    "SET score = excluded.score, status = excluded.status, checksum = excluded.checksum "
    "WHERE scores.status LIKE 'failed:%'"
)


class ScoreRow(NamedTuple):
    """One score of one architecture.

    Attributes:
        arch: in the space's own notation.
        proxy: name of the score.
        seed: of the initialization (and of the batch, where that is drawn).
        score: larger is better; finite where the status is "ok", `-inf` and `nan` are kept as such.
        status: one of `STATUSES`, or "failed: " and the reason.
    """

    arch: str
    proxy: str
    seed: int
    score: float
    status: str = "ok"


class ScoreStore:
    """A file of scores; a context manager that closes it."""

    IN_MEMORY = ":memory:"
    """The path of a store that lasts as long as the process."""

    def __init__(self, path: str | os.PathLike[str], *, timeout_seconds: float = 10.0):
        """Open the store at `path`, made new where there is none.

        Args:
            path: of the SQLite file, whose folder is made where needed; or `IN_MEMORY`.
            timeout_seconds: how long to wait for another process that is writing.

        Raises:
            ValueError: the file is damaged, not SQLite, of another program or of another version.
            IsADirectoryError: `path` is a folder.
            NotADirectoryError: the folder of `path` is a file.
            PermissionError: the file cannot be read or written.
            TimeoutError: another process holds the file.
        """
        self._path = Path(path)
        if self._path.is_dir():
            raise IsADirectoryError(
                f"The score store must be a file: got the folder {self._path}; "
                "name a file in it, such as scores.sqlite."
            )
        if str(path) != self.IN_MEMORY:
            output_folder(self._path.parent)
        with plain_errors(self._path):
            self._connection = sqlite3.connect(
                self._path, timeout=timeout_seconds, isolation_level=None
            )
        # A store that nobody closes is closed when nobody has it: Python 3.13 warns otherwise.
        weakref.finalize(self, _close, self._connection)
        try:
            prepare(self._connection, self._path)
        except Exception:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was added is already on disk."""
        self._connection.close()

    def open_run(self, context: Mapping[str, Any]) -> int:
        """Return the id of the run with this context, begun now or resumed.

        Args:
            context: everything that determines the scores apart from architecture, proxy and seed:
                space and its options, data digest, batch size, versions. Any JSON.

        Returns:
            An id that depends on the context alone, so it is the same in every file.

        Raises:
            ValueError: `context` is not JSON.
        """
        text = _canonical_json(context)
        run = run_of(text)
        with plain_errors(self._path):
            known = self._connection.execute("SELECT 1 FROM runs WHERE run = ?", (run,)).fetchone()
        if known is None:
            with transaction(self._connection, self._path):
                self._connection.execute(
                    "INSERT INTO runs VALUES (?, ?) ON CONFLICT DO NOTHING", (run, text)
                )
        return run

    def add(self, run: int, rows: Iterable[ScoreRow], *, cpu_seconds: float = 0.0) -> None:
        """Write a batch of rows, all or none; a key that is there already keeps its first row.

        But a row that says "failed: ..." gives way to a later one.

        Args:
            run: from `open_run`.
            rows: the batch; one transaction costs some milliseconds, so batch what is quick.
            cpu_seconds: work behind the batch, kept apart from the scores.

        Raises:
            ValueError: for an unknown run, status, or an "ok" score that is not finite.
        """
        values = [_with_checksum(run, *_checked(row)) for row in rows]
        with plain_errors(self._path):
            self._require(run)
        if not values and cpu_seconds <= 0.0:
            return
        with transaction(self._connection, self._path):
            self._connection.executemany(
                f"INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?) {_KEEP}", values
            )
            if cpu_seconds > 0.0:
                self._connection.execute(
                    "INSERT INTO work VALUES (?, ?, ?)", _with_checksum(run, float(cpu_seconds))
                )

    def part(self, process: int) -> "ScoreStore":
        """Return the store of another process that scores for this one; see `absorb_parts`."""
        return ScoreStore(self._path.with_suffix(f".process{process}{self._path.suffix}"))

    def absorb_parts(self) -> None:
        """Take over what other processes have written into their parts, and delete those."""
        if str(self._path) == self.IN_MEMORY:
            return
        name = re.compile(
            rf"{re.escape(self._path.stem)}\.process[1-9][0-9]*{re.escape(self._path.suffix)}"
        )
        for path in sorted(
            each for each in self._path.parent.iterdir() if name.fullmatch(each.name)
        ):
            with ScoreStore(path):  # raises what is to be said of a damaged file
                pass
            execute = self._connection.execute
            with plain_errors(self._path):
                execute("ATTACH ? AS part", (str(path),))
                try:
                    with transaction(self._connection, self._path):
                        execute("INSERT OR IGNORE INTO runs SELECT * FROM part.runs")
                        execute(f"INSERT INTO scores SELECT * FROM part.scores WHERE true {_KEEP}")
                        execute("INSERT INTO work SELECT * FROM part.work")
                        execute("DELETE FROM part.work")  # killed here, not counted twice
                finally:
                    execute("DETACH part")
            path.unlink()

    def done(self, run: int) -> set[tuple[str, str, int]]:
        """Return the `(arch, proxy, seed)` of a run that have a row that did not fail."""
        query = "SELECT arch, proxy, seed FROM scores WHERE run = ? AND status NOT LIKE 'failed:%'"
        with plain_errors(self._path):
            return set(self._connection.execute(query, (self._require(run),)))

    def rows(self, run: int, archs: Iterable[str]) -> dict[tuple[str, str, int], tuple[float, str]]:
        """Return score and status of some architectures by `(arch, proxy, seed)`, of one run."""
        query = (
            "SELECT arch, proxy, seed, score, status FROM scores "
            "WHERE run = ? AND arch IN (SELECT value FROM json_each(?))"
        )
        with plain_errors(self._path):
            rows = self._connection.execute(query, (self._require(run), json.dumps(list(archs))))
            return {
                (arch, proxy, seed): (math.nan if score is None else score, status)
                for arch, proxy, seed, score, status in rows
            }

    def frame(self, run: int | None = None) -> pd.DataFrame:
        """Return the scores as a table whose order depends on its content alone.

        Args:
            run: one run, or None for all of them, told apart by a first column `run`.

        Returns:
            Columns `arch`, `proxy`, `seed`, `score` and `status`, ordered by the first three. Two
            runs that scored the same have bit-identical tables, however often they were resumed.
        """
        columns = ["run"] * (run is None) + list(ScoreRow._fields)
        query = f"SELECT {', '.join(columns)} FROM scores {'' if run is None else 'WHERE run = ?'}"
        with plain_errors(self._path):
            known = () if run is None else (self._require(run),)
            rows = self._connection.execute(f"{query} ORDER BY run, arch, proxy, seed", known)
            frame = pd.DataFrame(rows.fetchall(), columns=columns)
        # A table without rows, or of nan alone, would come without types.
        types = {"run": "int64", "seed": "int64", "score": "float64"}
        return frame.astype({name: types.get(name, "str") for name in columns})

    def contexts(self) -> dict[int, dict[str, Any]]:
        """Return the context of every run, by id."""
        with plain_errors(self._path):
            rows = self._connection.execute("SELECT run, context FROM runs ORDER BY run")
            return {run: json.loads(context) for run, context in rows}

    def cpu_seconds(self, run: int) -> float:
        """Return the CPU seconds that all sessions of a run reported together."""
        query = "SELECT total(cpu_seconds) FROM work WHERE run = ?"
        with plain_errors(self._path):
            return float(self._connection.execute(query, (self._require(run),)).fetchone()[0])

    def _require(self, run: int) -> int:
        query = "SELECT 1 FROM runs WHERE run = ?"
        if self._connection.execute(query, (run,)).fetchone() is None:
            raise ValueError(
                f"The run must be one of {self._path}: got {run}; get its id from open_run."
            )
        return run


def _close(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.ProgrammingError):  # where another thread collects it
        connection.close()


def _checked(row: ScoreRow) -> tuple[str, str, int, float | None, str]:
    if not isinstance(row.arch, str):
        raise ValueError(
            f"The architecture of a row must be text: got {type(row.arch).__name__}; "
            "write it with the to_string of its space."
        )
    score = float(row.score)
    if row.status not in STATUSES and not row.status.startswith(FAILED):
        raise ValueError(
            f"A status must be one of {', '.join(STATUSES)}, or 'failed: ' and the reason: "
            f"got {row.status!r} for {row.arch}; choose one of them."
        )
    if row.status == "ok" and not math.isfinite(score):
        raise ValueError(
            f"A score with status 'ok' must be finite: got {score} for {row.proxy} of {row.arch}; "
            "give it the status that says why."
        )
    # SQLite has no negative zero.
    stored = None if math.isnan(score) else score + 0.0
    return str(row.arch), str(row.proxy), int(row.seed), stored, str(row.status)


def _with_checksum(*values: Any) -> tuple[Any, ...]:
    return *values, checksum_of(*values)


def _canonical_json(context: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(context), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The context of a run must be finite JSON: got '{error}'; use str, int, float, bool, "
            "None, lists and dicts."
        ) from error
