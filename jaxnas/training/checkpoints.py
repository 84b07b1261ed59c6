"""The loop of every training: rounds that are saved, so that one that was killed goes on."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

State = TypeVar("State")
Record = TypeVar("Record", bound=tuple[float, ...])


def train_in_rounds(
    advance: Callable[[State, Sequence[Record]], tuple[State, Record, bool]],
    state: State,
    record: Callable[..., Record],
    *,
    is_done: Callable[[Sequence[Record]], bool],
    run: dict[str, Any],
    folder: str | os.PathLike[str] | None,
    progress: Callable[[Record], None] | None,
) -> tuple[State, tuple[Record, ...], bool]:
    """Return the last finite state, a record of each round, and whether the last round diverged.

    Each round is saved before it is reported.

    Args:
        advance: `advance(state, history)`: the next state, its record, and whether it is finite.
            What is not ends the training, and is not saved.
        state: pytree of arrays, before the first round.
        record: makes a record of its numbers.
        is_done: `is_done(history)`.
        run: what the run depends on, as JSON values.
        folder: where to save and from where to go on; None saves nothing.
        progress: called with the record of each round; None is nobody.

    Raises:
        ValueError: the folder holds another run.
    """
    finite = True
    with open_folder(folder) as manager:
        state, rows = restore(manager, state, run)
        history = [record(*row) for row in rows]
        while finite and not is_done(history):
            after, latest, finite = advance(state, history)
            history.append(latest)
            if finite:
                state = after
                save(manager, state, history, run)
            if progress is not None:
                progress(latest)
    return state, tuple(history), not finite


def open_folder(
    folder: str | os.PathLike[str] | None,
) -> AbstractContextManager[ocp.CheckpointManager | None]:
    """Return a context with the folder's manager, or with None if nothing is to be saved."""
    if folder is None:
        return nullcontext()
    # Synchronous, so that a report of an epoch means that the epoch is on disk.
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


def save(
    manager: ocp.CheckpointManager | None,
    state: Any,
    history: Sequence[tuple[float, ...]],
    run: dict[str, Any],
) -> None:
    """Write the state after an epoch, then drop the one before; a kill leaves one of them whole.

    Args:
        manager: from `open_folder`; None saves nothing.
        state: pytree of arrays.
        history: one record an epoch.
        run: what the run depends on, as JSON values.
    """
    if manager is None:
        return
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        report=ocp.args.JsonSave({"run": run, "history": history}),
    )
    manager.save(len(history), args=items)


def restore(
    manager: ocp.CheckpointManager | None, state: Any, run: dict[str, Any]
) -> tuple[Any, list[list[Any]]]:
    """Return the last saved state and history; `state` and no history if there are none.

    Raises:
        ValueError: if the folder holds a run that depended on anything else than `run` says, or no
            run at all.
    """
    epoch = None if manager is None else manager.latest_step()
    if manager is None or epoch is None:
        return state, []
    try:
        items = ocp.args.Composite(report=ocp.args.JsonRestore())
        report = manager.restore(epoch, args=items).report
        saved_run, history = dict(report["run"]), list(report["history"])
    except Exception as error:  # what a damaged file raises depends on the damaged byte
        raise _unusable(manager, epoch, error) from error
    different = [name for name in run if run[name] != saved_run.get(name)]
    if different:
        saved, ours = (
            ", ".join(f"{name}={values.get(name)}" for name in different)
            for values in (saved_run, run)
        )
        raise ValueError(
            f"{manager.directory} holds another run, with {saved}: got {ours}; choose another "
            "checkpoint_dir."
        )
    items = ocp.args.Composite(state=ocp.args.StandardRestore(state))
    try:
        return manager.restore(epoch, args=items).state, history
    except Exception as error:
        raise _unusable(manager, epoch, error) from error


def _unusable(manager: ocp.CheckpointManager, epoch: int, error: Exception) -> ValueError:
    lines = str(error).splitlines() or [""]
    return ValueError(
        f"{manager.directory / str(epoch)} is no checkpoint of a training; choose another "
        f"checkpoint_dir, or copy this one again: got '{type(error).__name__}: {lines[0][:200]}'."
    )


def digest(tree: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a pytree of arrays and its structure."""
    leaves, structure = jax.tree.flatten(tree)
    sha = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        array = np.asarray(leaf)
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:16]
