"""What the tables share: whole files, architectures from strings, look-ups that JAX can trace."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas.types import Array


@contextlib.contextmanager
def whole(path: Path, what: str, command: str) -> Iterator[None]:
    """Raise `ValueError` for whatever is raised inside, where a table is read.

    What a damaged archive raises depends on the damaged byte.

    Args:
        path: of the file.
        what: the file should hold.
        command: which writes the file, behind `python -m`.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} does not hold the {what} ({error}): reinstall jaxnas, or write it again with "
            f"`python -m {command}`."
        ) from error


def freeze(*arrays: NDArray) -> None:
    """Let nobody write to the arrays, which all readers share."""
    for array in arrays:
        array.flags.writeable = False


def decisions(
    archs: ArrayLike | str | Sequence[str],
    from_string: Callable[[str], NDArray[np.int32]],
    num_decisions: int,
) -> NDArray:
    """Return architectures `[..., D]` that are given as strings `[...]`; anything else as it is."""
    array = np.asarray(archs)
    if array.dtype.kind not in "OTU":  # strings, also as pandas and newer NumPy hold them
        return array
    found = [from_string(string) for string in array.astype(str).ravel().tolist()]
    return np.array(found, np.int32).reshape(*array.shape, num_decisions)


def look_up(table: Array, archs: Array) -> Array:
    """Return the entries of `table`, an axis a decision, at `archs` `[A, D]`; nan out of range."""
    if archs.shape[-1] != table.ndim:
        raise ValueError(
            f"Architectures must have shape [A, {table.ndim}]: got {list(archs.shape)}."
        )
    places = tuple(jnp.moveaxis(archs, -1, 0))
    return table.at[places].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
