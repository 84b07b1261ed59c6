"""What the tables share: architectures from strings, and look-ups that JAX can trace."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas.types import Array


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
