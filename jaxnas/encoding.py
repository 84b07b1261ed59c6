"""Architectures as arrays of decisions: checks, enumeration and integer codes."""

from collections.abc import Sequence
from math import prod

import numpy as np
from jax.typing import ArrayLike


def validate_archs(archs: ArrayLike | Sequence[int], num_choices: Sequence[int]) -> np.ndarray:
    """Return concrete architectures as `int32[..., D]`, checked decision by decision.

    Args:
        archs: one architecture `[D]` or any stack of them `[..., D]`.
        num_choices: decision `i` must be in `[0, num_choices[i])`.

    Raises:
        ValueError: the decisions are not whole numbers, too many or too few, or out of range.
    """
    array = np.asarray(archs)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"Architectures are arrays of integers: got dtype {array.dtype}; "
            "convert strings with the space's from_string."
        )
    if array.ndim == 0 or array.shape[-1] != len(num_choices):
        raise ValueError(
            f"An architecture of this space has {len(num_choices)} decisions: "
            f"got shape {array.shape}; pass [{len(num_choices)}] or [A, {len(num_choices)}]."
        )
    outside = (array < 0) | (array >= np.asarray(num_choices))
    if outside.any():
        *_, decision = np.argwhere(outside)[0]
        value = array[tuple(np.argwhere(outside)[0])]
        raise ValueError(
            f"Decision {decision} must be in [0, {num_choices[decision]}): got {value}; "
            "use one of the space's operations."
        )
    return array.astype(np.int32)


def one(arch: ArrayLike | Sequence[int], num_choices: Sequence[int]) -> tuple[int, ...]:
    """Return the decisions of one architecture.

    Raises:
        ValueError: see `validate_archs`; or several architectures.
    """
    array = validate_archs(arch, num_choices)
    if array.ndim != 1:
        raise ValueError(
            f"One architecture at a time: got shape {list(array.shape)}; pass [{len(num_choices)}]."
        )
    return tuple(array.tolist())


def encode(archs: ArrayLike | Sequence[int], num_choices: Sequence[int]) -> np.ndarray:
    """Return the rank of each architecture in lexicographic order, `int64[...]`.

    Raises:
        ValueError: see `validate_archs`; or the space has 2**63 architectures or more.

    Examples:
        >>> from jaxnas import encoding
        >>> encoding.encode([[0, 0, 1], [1, 2, 3]], (2, 3, 4)).tolist()
        [1, 23]
    """
    _check_enumerable(num_choices)
    array = validate_archs(archs, num_choices)
    places = np.cumprod([1, *reversed(num_choices[1:])])[::-1].astype(np.int64)
    return array.astype(np.int64) @ places


def decode(codes: ArrayLike, num_choices: Sequence[int]) -> np.ndarray:
    """Return the architectures `int32[..., D]` at lexicographic ranks `codes` `[...]`.

    Raises:
        ValueError: a code is negative or not smaller than the number of architectures.

    Examples:
        >>> from jaxnas import encoding
        >>> encoding.decode([1, 23], (2, 3, 4)).tolist()
        [[0, 0, 1], [1, 2, 3]]
    """
    _check_enumerable(num_choices)
    array = np.asarray(codes)
    size = prod(num_choices)
    if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() < size):
        raise ValueError(
            f"Architecture codes are integers in [0, {size}): got {codes}; "
            "enumerate the space to see what there is."
        )
    return np.stack(np.unravel_index(array, tuple(num_choices)), axis=-1).astype(np.int32)


def enumerate_archs(num_choices: Sequence[int]) -> np.ndarray:
    """Return all architectures in lexicographic order, `int32[A, D]`.

    Examples:
        >>> from jaxnas import encoding
        >>> encoding.enumerate_archs((2, 2)).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return decode(np.arange(prod(num_choices)), num_choices)


def _check_enumerable(num_choices: Sequence[int]) -> None:
    if prod(num_choices) >= 2**63:
        raise ValueError(
            f"A space of {prod(num_choices)} architectures has no 64-bit codes: "
            "sample it instead of enumerating it."
        )
