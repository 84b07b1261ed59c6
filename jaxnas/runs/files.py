"""Output folders and files that are either whole or not there."""

import contextlib
import os
import re
from pathlib import Path


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a folder that exists, made with its parents where needed.

    Raises:
        NotADirectoryError: the path, or a parent, is a file.
        OSError: the folder cannot be made there; of the type that says why.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"The output folder must not be, or lie in, a file: got {folder}; name another folder."
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content` so that a reader, or a kill, never meets half of it; return the path.

    Raises:
        OSError: the file cannot be written there; of the type that says why.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _remove_partial_files_of_the_dead(target)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise _unwritable(target, error) from error
        raise
    return target


def _remove_partial_files_of_the_dead(target: Path) -> None:
    """Remove what processes that were killed while they wrote `target` have left."""
    name = re.compile(rf"\.{re.escape(target.name)}\.([1-9][0-9]{{0,9}})")
    for path in target.parent.iterdir():
        match = name.fullmatch(path.name)
        if match is not None and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user, or of a machine with more of them
        pass
    return True


def _unwritable(path: Path, error: OSError) -> OSError:
    return type(error)(
        f"{path} must be writable: got '{error.strerror}'; name another folder or free this one."
    )
