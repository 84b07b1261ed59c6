"""What the searches over a given pool ask of it."""

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray


def validate_candidates(candidates: ArrayLike, *, distinct: bool = True) -> NDArray[np.int32]:
    """Return the candidates `int32[A, D]`.

    Args:
        candidates: architectures.
        distinct: whether each must be there once.

    Raises:
        ValueError: not integers of this shape, none at all, or one of them twice.
    """
    archs = np.asarray(candidates)
    if archs.ndim != 2 or not archs.size or archs.dtype.kind not in "iu":
        raise ValueError(
            f"candidates must be integers of shape [A, D] with at least one architecture: got "
            f"{archs.dtype} of shape {list(archs.shape)}."
        )
    if archs.min() < 0 or archs.max() >= 2**31:
        raise ValueError(
            f"candidates must have decisions from 0 to 2^31 - 1: got {archs.min()} to "
            f"{archs.max()}; use architectures of a space."
        )
    different = len(np.unique(archs, axis=0))
    if distinct and different < len(archs):
        raise ValueError(
            f"candidates must have each architecture once: got {len(archs)} with {different} "
            "different; use sample_distinct or numpy.unique."
        )
    return archs.astype(np.int32)
