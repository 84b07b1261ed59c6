"""Uniform samples of a search space, and random search.

A space is given by `num_choices`, `D` positive integers: decision `i` is in `[0, num_choices[i])`.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.types import Array, SearchStrategy


def random_sampling(num_choices: Sequence[int]) -> SearchStrategy:
    """Return random search: each architecture uniform and independent, with replacement.

    Raises:
        ValueError: If `num_choices` is not a list of positive integers.

    Examples:
        >>> import jax
        >>> from jaxnas import search
        >>> strategy = search.random_sampling((5, 5, 5))
        >>> strategy.ask(jax.random.key(0), strategy.init(jax.random.key(0))).shape
        (3,)
    """
    checked_choices(num_choices)
    return SearchStrategy(
        init=lambda key: (),
        ask=lambda key, state: sample(key, num_choices, 1)[0],
        tell=lambda state, arch, score: state,
    )


def sample(key: Array, num_choices: Sequence[int], num: int) -> Array:
    """Return `num` uniform architectures `int32[num, D]`, with replacement.

    Raises:
        ValueError: If `num_choices` is not a list of positive integers, or `num` is negative.
    """
    choices = checked_choices(num_choices)
    check.key("key", key)
    check.integer("num", num)
    shape = (num, len(choices))
    return jax.random.randint(key, shape, 0, np.broadcast_to(choices, shape), jnp.int32)


def sample_distinct(key: Array, num_choices: Sequence[int], num: int) -> Array:
    """Return `num` different architectures `int32[num, D]`, uniform without replacement.

    Time and memory grow with `num`, not with the space. Not traceable: what is drawn decides how
    often to draw.

    Raises:
        ValueError: If the space has fewer than `num` architectures, `num` is negative, or
            `num_choices` is not a list of positive integers.

    Examples:
        >>> import jax
        >>> from jaxnas import search
        >>> archs = search.sample_distinct(jax.random.key(0), (2, 3), 6)
        >>> sorted(map(tuple, archs.tolist()))
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    """
    choices = checked_choices(num_choices)
    size = math.prod(choices.tolist())
    check.key("key", key)
    check.integer("num", num, 0, size, "; the space has no more.")
    if size <= 4 * num:
        positions = np.asarray(jax.random.permutation(key, size)[:num])
        strides = np.cumprod([1, *choices[:0:-1]])[::-1]
        return jnp.asarray(positions[:, None] // strides % choices, jnp.int32)
    # Keeping the first appearances of independent draws is exactly uniform without replacement;
    # here at most one draw in four repeats another.
    archs = np.empty((0, len(choices)), np.int32)
    draw = 0
    while len(archs) < num:
        archs = np.concatenate([archs, sample(jax.random.fold_in(key, draw), num_choices, num)])
        archs = archs[np.sort(np.unique(archs, axis=0, return_index=True)[1])]
        draw += 1
    return jnp.asarray(archs[:num])


def checked_choices(num_choices: Sequence[int]) -> NDArray[np.int32]:
    """Return `num_choices` as `int32[D]`.

    Raises:
        ValueError: If it is not a list of positive integers.
    """
    choices = np.asarray(num_choices)
    if (
        choices.ndim != 1
        or choices.dtype.kind not in "iu"
        or not (choices.size and choices.min() > 0)
        or choices.max() >= 2**31
    ):
        raise ValueError(
            f"num_choices must be a non-empty list of positive integers: got {num_choices!r}; "
            "decisions are int32, so use numbers below 2^31."
        )
    return choices.astype(np.int32)


def open_decisions(num_choices: Sequence[int]) -> NDArray[np.int32]:
    """Return the decisions with more than one choice, `int32[<=D]`.

    Raises:
        ValueError: If there is none, or `num_choices` is not a list of positive integers.
    """
    decisions = np.flatnonzero(checked_choices(num_choices) > 1)
    if not decisions.size:
        raise ValueError(
            f"num_choices must leave a decision with two choices or more: got {num_choices!r}, a "
            "space of one architecture, which needs no search."
        )
    return decisions.astype(np.int32)
