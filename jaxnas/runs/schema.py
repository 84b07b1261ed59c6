"""The tables of a score store: made, updated, and checked row by row when a file is opened."""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxnas.runs.sqlite_errors import DAMAGED, plain_errors

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x6A786E73  # "jxns": tells our files from those of other programs
_SCHEMA = """
CREATE TABLE runs (run INTEGER PRIMARY KEY, context TEXT NOT NULL UNIQUE);
CREATE TABLE scores (
  run INTEGER NOT NULL REFERENCES runs,
  arch TEXT NOT NULL,
  proxy TEXT NOT NULL,
  seed INTEGER NOT NULL,
  score REAL, -- NULL is nan: SQLite has no other
  status TEXT NOT NULL,
  checksum INTEGER NOT NULL, -- CRC-32 of the columns before
  PRIMARY KEY (run, arch, proxy, seed)
) WITHOUT ROWID;
CREATE TABLE work (
  run INTEGER NOT NULL REFERENCES runs,
  cpu_seconds REAL NOT NULL,
  checksum INTEGER NOT NULL
);
"""
# Version 1 had no checksums; its rows get those of what they hold now.
_ADD_CHECKSUMS = """
ALTER TABLE scores ADD COLUMN checksum INTEGER;
UPDATE scores SET checksum = checksum_of(run, arch, proxy, seed, score, status);
ALTER TABLE work ADD COLUMN checksum INTEGER;
UPDATE work SET checksum = checksum_of(run, cpu_seconds);
"""
# The first row that is not what was written.
_FIND_CHANGED = """
SELECT 'run ' || run FROM runs WHERE run IS NOT run_of(context)
UNION ALL
SELECT 'score ' || proxy || ' of ' || arch FROM scores
  WHERE checksum IS NOT checksum_of(run, arch, proxy, seed, score, status)
UNION ALL
SELECT 'work of run ' || run FROM work WHERE checksum IS NOT checksum_of(run, cpu_seconds)
LIMIT 1
"""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make or update the tables of the file at `path` where needed, and check what it holds.

    Writes, and so waits for readers to end, only where there is something to write.

    Raises:
        ValueError: the file is damaged, of another program or of another version.
    """
    connection.create_function("checksum_of", -1, checksum_of, deterministic=True)
    connection.create_function("run_of", 1, run_of, deterministic=True)
    with plain_errors(path):
        if _is_empty(connection):
            with transaction(connection, path):
                if _is_empty(connection):  # still: another process may have been first
                    _execute(connection, _SCHEMA)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        health = connection.execute("PRAGMA quick_check(1)").fetchone()[0].splitlines()[-1]
    if owner != _APPLICATION_ID:
        raise ValueError(
            f"The score store must be a file of jaxnas: got {path}, an SQLite file of another "
            "program; name another file."
        )
    version = _version(connection)
    if version not in (1, SCHEMA_VERSION):
        raise ValueError(
            f"The score store must have schema version {SCHEMA_VERSION}: got {path} with version "
            f"{version}; name another file, or use the jaxnas that wrote it."
        )
    if health == "ok":
        with plain_errors(path):
            if version == 1:
                with transaction(connection, path):
                    if _version(connection) == 1:  # still
                        _execute(connection, _ADD_CHECKSUMS)
            changed = connection.execute(_FIND_CHANGED).fetchone()
        health = "ok" if changed is None else f"{changed[0]} is not as it was written"
    if health != "ok":
        raise ValueError(DAMAGED.format(path=path, reason=health))


def run_of(context: str) -> int:
    """Return the id of a run: 48 bits, exact as a float64, should a table meet a missing value."""
    return int(hashlib.sha256(context.encode()).hexdigest()[:12], 16)


def checksum_of(*values: Any) -> int:
    """Return the checksum of a row."""
    return zlib.crc32(repr(values).encode())


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Let what is done meanwhile be written whole, or not at all."""
    with plain_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";")[:-1]:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _is_empty(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables == 0)


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
