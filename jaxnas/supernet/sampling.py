"""Which paths of a supernet a step trains.

`paths(key, step) -> int32[P, L]`, a decision for each layer of each of `P` paths: a function of the
number of the step and of nothing else, so that a run that was interrupted goes on as it would have.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas.types import Array

Paths = Callable[[Array, ArrayLike], Array]
"""`paths(key, step)`: `int32[P, L]`."""


def strict_fair(num_choices: Sequence[int]) -> Paths:
    """Return paths that train every candidate of every layer equally often.

    As many paths a step as there are candidates; in each layer they follow a random permutation of
    them, so that after each step the counts are equal. Where layers differ in their number of
    candidates the permutations of a layer follow each other without regard for steps, and its
    counts never differ by more than one. Source: Chu et al., "FairNAS", ICCV 2021, arXiv
    1907.01845, section 3.2.

    Args:
        num_choices: decision `l` of a path is in `[0, num_choices[l])`.

    Raises:
        ValueError: no layers, or one without a choice.

    Examples:
        >>> import jax
        >>> from jaxnas.supernet import sampling
        >>> paths = sampling.strict_fair((3, 3))(jax.random.key(0), 0)
        >>> sorted(paths[:, 0].tolist())
        [0, 1, 2]
    """
    choices = _checked(num_choices)
    paths = int(choices.max())

    def sample(key: Array, step: ArrayLike) -> Array:
        # Beyond 2**31 paths the counter would wrap: at 7 paths a step, after 300 million steps.
        numbers = jnp.asarray(step, jnp.int32) * paths + jnp.arange(paths)
        decisions = jnp.zeros((paths, len(choices)), jnp.int32)
        for count in np.unique(choices).tolist():
            layers = np.flatnonzero(choices == count)
            drawn = jax.vmap(lambda number, c=count, places=layers: _nth(key, number, c, places))(
                numbers
            )
            decisions = decisions.at[:, layers].set(drawn)
        return decisions

    return sample


def uniform(num_choices: Sequence[int], paths: int = 1) -> Paths:
    """Return paths drawn at random, as single-path supernets and BN-NAS do.

    After `T` paths the counts of `K` candidates have a relative deviation of `sqrt((K - 1) / T)`.

    Args:
        num_choices: decision `l` of a path is in `[0, num_choices[l])`.
        paths: a step.

    Raises:
        ValueError: no layers, one without a choice, or no paths.
    """
    choices = _checked(num_choices)
    _check_paths(paths)

    def sample(key: Array, step: ArrayLike) -> Array:
        return jax.random.randint(
            jax.random.fold_in(key, step), (paths, len(choices)), 0, jnp.asarray(choices)[None]
        )

    return sample


class Budget(NamedTuple):
    """Costs between which paths are drawn, a bin at a time.

    Attributes:
        lowest: of all bins, in the unit of the costs.
        highest: of all bins.
        bins: of equal width; each is as likely as the others.
    """

    lowest: float
    highest: float
    bins: int


SPOS_BUDGET = Budget(290e6, 360e6, 7)
"""Multiply-adds, as published for ShuffleNetV2 at 224 pixels."""


def within_budget(
    costs: ArrayLike,
    num_choices: Sequence[int],
    budget: Budget = SPOS_BUDGET,
    *,
    fixed: float = 0.0,
    paths: int = 1,
    attempts: int = 256,
) -> Paths:
    """Return paths of a random bin of costs each, as SPOS trains.

    A path is the first of `attempts` uniform ones whose cost is in the bin, and where there is none
    the one closest to its middle. Source: the published code of Guo et al., "Single Path One-Shot",
    ECCV 2020, arXiv 1904.00420.

    Args:
        costs: `[L, K]`, of each candidate of each layer.
        num_choices: decision `l` of a path is in `[0, num_choices[l])`.
        budget: bins of costs.
        fixed: cost of what is not searched.
        paths: a step.
        attempts: uniform paths of which each is chosen.

    Raises:
        ValueError: costs that are not those of the layers, or a budget out of reach.
    """
    choices = _checked(num_choices)
    _check_paths(paths)
    table = np.asarray(costs, float)
    _check_budget(table, choices, budget, fixed)
    width = (budget.highest - budget.lowest) / budget.bins

    def one(key: Array) -> Array:
        key_bin, key_paths = jax.random.split(key)
        low = budget.lowest + width * jax.random.randint(key_bin, (), 0, budget.bins)
        shape = (attempts, len(choices))
        drawn = jax.random.randint(key_paths, shape, 0, jnp.asarray(choices)[None])
        cost = jnp.asarray(table)[np.arange(len(choices)), drawn].sum(axis=1) + fixed
        inside = (low <= cost) & (cost < low + width)
        closest = jnp.argmin(jnp.abs(cost - low - width / 2))
        return drawn[jnp.where(inside.any(), jnp.argmax(inside), closest)]

    def sample(key: Array, step: ArrayLike) -> Array:
        return jax.vmap(one)(jax.random.split(jax.random.fold_in(key, step), paths))

    return sample


def counts(paths: ArrayLike, num_choices: Sequence[int]) -> np.ndarray:
    """Return how often concrete `paths` `int32[..., L]` train each candidate, `int64[L, K]`."""
    choices = _checked(num_choices)
    flat = np.asarray(paths).reshape(-1, len(choices))
    width = int(choices.max())
    return np.stack([np.bincount(layer, minlength=width) for layer in flat.T])


def _nth(key: Array, number: Array, count: int, layers: np.ndarray) -> Array:
    """Return the decisions `[layers]` of path `number` in layers of so many candidates."""

    def one(layer: Array) -> Array:
        of_cycle = jax.random.fold_in(jax.random.fold_in(key, layer), number // count)
        # The order of random numbers is a random permutation, in one sort.
        return jnp.argsort(jax.random.uniform(of_cycle, (count,)))[number % count]

    return jax.vmap(one)(jnp.asarray(layers)).astype(jnp.int32)


def _checked(num_choices: Sequence[int]) -> np.ndarray:
    choices = np.asarray(num_choices)
    if choices.ndim != 1 or not choices.size or choices.dtype.kind not in "iu" or choices.min() < 1:
        raise ValueError(
            f"num_choices are integers of at least 1, one a layer: got {num_choices!r}."
        )
    return choices


def _check_paths(paths: int) -> None:
    if paths < 1:
        raise ValueError(f"A step trains 1 path at least: got paths={paths}.")


def _check_budget(table: np.ndarray, choices: np.ndarray, budget: Budget, fixed: float) -> None:
    if table.ndim != 2 or len(table) != len(choices) or table.shape[1] < choices.max():
        raise ValueError(
            f"costs must be [{len(choices)}, {choices.max()}], for each candidate of each layer: "
            f"got shape {list(table.shape)}."
        )
    if budget.bins < 1 or not budget.lowest < budget.highest:
        raise ValueError(f"A budget has a bin and rises: got {budget}.")
    legal = [one[:count] for one, count in zip(table, choices, strict=True)]
    cheapest = fixed + sum(one.min() for one in legal)
    dearest = fixed + sum(one.max() for one in legal)
    if budget.highest <= cheapest or budget.lowest > dearest:
        raise ValueError(
            f"No path costs between {budget.lowest:g} and {budget.highest:g}: the space has costs "
            f"from {cheapest:g} to {dearest:g}; move the budget."
        )
