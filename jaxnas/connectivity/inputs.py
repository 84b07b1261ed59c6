"""Inputs of the theory: centered rows of unit length, and their Gram matrix."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check

_UNIT = 1e-3  # float32 rows, float16 images


def unit_rows(inputs: ArrayLike, mean: ArrayLike | None = None) -> np.ndarray:
    """Return examples `[N, ...]` as rows `float64[N, F]`: mean example subtracted, unit length.

    Args:
        inputs: `[N, ...]`.
        mean: `[...]`, the mean example of a whole data set; that of `inputs` if None.

    Raises:
        ValueError: fewer than two examples, or one that is the mean of all.
    """
    array = np.asarray(check.array("inputs", inputs), np.float64)
    if array.ndim < 2 or len(array) < 2:
        raise ValueError(
            f"A kernel compares two examples or more: got shape {list(array.shape)}; pass [N, ...]."
        )
    rows = array.reshape(len(array), -1)
    rows = rows - (rows.mean(0) if mean is None else np.ravel(check.array("mean", mean)))
    norms = np.linalg.norm(rows, axis=1)
    if not (norms > 1e-12 * norms.max()).all() or not np.isfinite(norms).all():
        raise ValueError(
            "An example must be finite and differ from the mean of all, to have a direction: got "
            f"norms from {norms.min():.3g} to {norms.max():.3g} after centring; drop constant ones."
        )
    return rows / norms[:, None]


def input_gram(rows: ArrayLike) -> np.ndarray:
    """Return the cosines of unit rows `[N, F]` as `float64[N, N]`, exactly 1 on the diagonal.

    Raises:
        ValueError: fewer than two rows, rows of another length than 1, or two of one direction,
            which no network can tell apart up to their length.
    """
    array = np.asarray(check.array("rows", rows), np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(
            f"A kernel compares two inputs or more: got shape {list(array.shape)}; pass [N, F]."
        )
    norms = np.linalg.norm(array, axis=1)
    if not (abs(norms - 1) < _UNIT).all():
        raise ValueError(
            "The theory is about inputs of length 1: got lengths from "
            f"{norms.min():.3g} to {norms.max():.3g}; use unit_rows."
        )
    gram = (array @ array.T) / np.outer(norms, norms)
    np.fill_diagonal(gram, 1)
    first, second = np.unravel_index(np.argmax(gram - np.diag(np.full(len(gram), 9))), gram.shape)
    if gram[first, second] > 1 - 1e-9:
        raise ValueError(
            f"Inputs {first} and {second} have the same direction, so every kernel is singular: "
            f"got cosine {gram[first, second]:.12g}; drop one of them."
        )
    return gram


def largest_cosine(gram: ArrayLike) -> float:
    """Return the largest cosine between different inputs: all that the published bound reads."""
    matrix = np.array(square("gram", gram), np.float64)
    np.fill_diagonal(matrix, -np.inf)
    return float(matrix.max())


def square(name: str, matrix: ArrayLike) -> Any:
    """Return a Gram matrix or a kernel, floats `[N, N]`, which may be traced.

    Raises:
        ValueError: it is no such matrix.
    """
    checked = check.array(name, matrix, "f")
    if checked.ndim != 2 or checked.shape[0] != checked.shape[1] or not checked.size:
        raise ValueError(f"{name} must be [N, N]: got shape {list(checked.shape)}; see input_gram.")
    return checked
