"""Checks at the public door: each gives the argument back, or says in one sentence what is wrong.

An argument is checked once, where it enters; what is inside trusts it. Arrays may be traced.
"""

import operator
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

LARGEST = 2**31 - 1
"""The largest integer that a decision, a class number or a size can be."""


PATH = str | os.PathLike
"""What names a file."""


def refuse(name: str, expected: str, value: Any, advice: str = "") -> ValueError:
    """Return the error of an argument that is not what is expected."""
    return ValueError(f"{name} must be {expected}: got {_shown(value)}{advice or '; pass that.'}")


def _shown(value: Any) -> str:
    """Return a value in few letters: itself, or its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return f"{value!r:.80}"
    return f"a value of type {type(value).__name__}"


def integer(name: str, value: Any, least: int = 0, most: int = LARGEST, advice: str = "") -> int:
    """Return an integer in a range, also one of NumPy's or JAX's; a truth value is none.

    Raises:
        ValueError: it is something else, or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        raise refuse(name, f"an integer from {least} to {most}", value, advice or "; change it.")
    return number


def real(name: str, value: Any, least: float = -np.inf, most: float = np.inf) -> float:
    """Return a number in a range, which may be infinite if the range is.

    Raises:
        ValueError: it is something else, nan or out of range.
    """
    try:
        number = np.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not least <= number <= most:
        limits = "" if least == -most == -np.inf else f" from {least:g} to {most:g}"
        raise refuse(name, f"a number{limits}", value, "; change it.")
    return number


def instance(name: str, value: Any, kind: Any, expected: str) -> Any:
    """Return a value of a type, or of one of several.

    Raises:
        ValueError: it is of another.
    """
    if not isinstance(value, kind):
        raise refuse(name, expected, value)
    return value


def choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Return one of several words.

    Raises:
        ValueError: it is another, or no word.
    """
    if not isinstance(value, str) or value not in choices:
        raise refuse(name, f"one of {', '.join(choices)}", value, ".")
    return value


def items(name: str, value: Any) -> list[Any]:
    """Return the items of a list, of an array or of anything that can be gone through.

    Raises:
        ValueError: it has no items.
    """
    try:
        return list(value)
    except TypeError as error:
        raise refuse(name, "a list", value) from error


def array(name: str, value: Any, kinds: str = "biuf") -> Any:
    """Return numbers as an array: one of JAX's as it is, anything else as one of NumPy's.

    Args:
        name: of the argument.
        value: an array, or nested lists of numbers.
        kinds: of numbers that will do, as letters of `numpy.dtype.kind`.

    Raises:
        ValueError: strings, objects, lists of unequal lengths, or numbers of another kind.
    """
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise refuse(name, "an array of numbers", value) from error
    # A bfloat16 has no letter of NumPy's.
    kind = "f" if jnp.issubdtype(value.dtype, jnp.floating) else value.dtype.kind
    if kind not in kinds:
        numbers = {"f": "floats", "iu": "integers"}.get(kinds, "numbers")
        raise ValueError(
            f"{name} must be an array of {numbers}: got {value.dtype}{list(value.shape)}; "
            "convert it."
        )
    return value


def positions(values: Any) -> NDArray[np.int64]:
    """Return positions `int64[M]`; a mask, which NumPy would take for positions 0 and 1, is none.

    Raises:
        ValueError: anything but integers `[M]`.
    """
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise ValueError(
            f"Positions are integers [M]: got {found.dtype}{list(found.shape)}; of a mask take "
            "np.flatnonzero(mask)."
        )
    return found.astype(np.int64)


def tree(name: str, value: Any, kinds: str = "biufc") -> Any:
    """Return a pytree whose leaves are arrays of numbers, see `array`.

    Raises:
        ValueError: a leaf is something else.
    """
    return jax.tree.map(lambda leaf: array(name, leaf, kinds), value)


def key(name: str, value: Any) -> Any:
    """Return one key of `jax.random.key`, or of the older `jax.random.PRNGKey`.

    Raises:
        ValueError: it is something else, or several.
    """
    is_array = isinstance(value, jax.Array | np.ndarray)
    if is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and not value.ndim:
        return value
    if is_array and value.dtype == np.uint32 and value.shape in ((2,), (4,)):
        return value
    raise refuse(name, "one key of jax.random.key", value, "; pass jax.random.key(0), or split it.")
