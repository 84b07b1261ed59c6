"""What SQLite says of a file, in one sentence of the matching type of exception."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAMAGED = (
    "The score store must be a whole SQLite file: got {path} ('{reason}'); "
    "restore it from a copy, or move it away to begin anew."
)
_LOCKED = (
    "The score store must not be held by another process: got {path} ('{reason}'); "
    "wait for the other run to end, or name another file."
)
_FORBIDDEN = (
    "The score store must be readable and writable: got {path} ('{reason}'); "
    "name another file, or change its permissions."
)
_FAILING = (
    "The score store needs a disk that works and has room: got {path} ('{reason}'); "
    "free some space, or name a file on another disk."
)
_ERRORS: dict[int, tuple[type[Exception], str]] = {
    sqlite3.SQLITE_NOTADB: (ValueError, DAMAGED),
    sqlite3.SQLITE_CORRUPT: (ValueError, DAMAGED),
    sqlite3.SQLITE_ERROR: (ValueError, DAMAGED),
    sqlite3.SQLITE_TOOBIG: (ValueError, DAMAGED),
    sqlite3.SQLITE_BUSY: (TimeoutError, _LOCKED),
    sqlite3.SQLITE_LOCKED: (TimeoutError, _LOCKED),
    sqlite3.SQLITE_CANTOPEN: (PermissionError, _FORBIDDEN),
    sqlite3.SQLITE_READONLY: (PermissionError, _FORBIDDEN),
    sqlite3.SQLITE_PERM: (PermissionError, _FORBIDDEN),
    sqlite3.SQLITE_FULL: (OSError, _FAILING),
    sqlite3.SQLITE_IOERR: (OSError, _FAILING),
}


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the file at `path` into one sentence of the matching type."""
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite quotes damaged text in what it says
        raise ValueError(DAMAGED.format(path=path, reason="a text is no UTF-8")) from error
    except sqlite3.Error as error:
        # The low byte is the kind of error, the rest its variety.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == 0 and isinstance(error, sqlite3.OperationalError):  # a text that is no UTF-8
            code = sqlite3.SQLITE_CORRUPT
        if code not in _ERRORS:
            raise
        kind, sentence = _ERRORS[code]
        raise kind(sentence.format(path=path, reason=error)) from error
