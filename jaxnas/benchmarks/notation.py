"""The official notation of a NAS-Bench-201 cell.

An architecture is `int32[6]`: the operation, a position in `OPERATIONS`, on each edge in the order
(1<-0), (2<-0), (2<-1), (3<-0), (3<-1), (3<-2), which is the order of the official string
`|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.
"""

import re

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NUM_CHOICES = (len(OPERATIONS),) * 6

_EDGE = f"({'|'.join(OPERATIONS)})"
_CELL = re.compile(rf"\|{_EDGE}~0\|\+\|{_EDGE}~0\|{_EDGE}~1\|\+\|{_EDGE}~0\|{_EDGE}~1\|{_EDGE}~2\|")


def from_string(string: str) -> NDArray[np.int32]:
    """Return the architecture `int32[6]` of an official cell string.

    Raises:
        ValueError: `string` is not the string of a cell.
    """
    match = _CELL.fullmatch(check.instance("string", string, str, "a string"))
    if match is None:
        raise ValueError(
            f"A cell is written |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with op in "
            f"{', '.join(OPERATIONS)}: got {string!r}."
        )
    return np.array([OPERATIONS.index(operation) for operation in match.groups()], np.int32)


def to_string(arch: ArrayLike) -> str:
    """Return the official cell string of one architecture `int32[6]`.

    Raises:
        ValueError: `arch` is not one architecture of the benchmark.
    """
    a, b, c, d, e, f = (OPERATIONS[decision] for decision in one(arch))
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def one(arch: ArrayLike) -> tuple[int, ...]:
    """Return the decisions of one architecture.

    Raises:
        ValueError: not one architecture of the benchmark.
    """
    return encoding.one(arch, NUM_CHOICES)
