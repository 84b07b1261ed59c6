"""Filters: which wirings are worth an evaluation, told from their paths alone.

Two published rules keep a wiring if its effective depth and width lie in ranges: half a radius
around the center of a space (Chen et al., NeurIPS 2022, arXiv 2205.05662, section 4), or the fixed
ranges of their released code. They ask for two sides; the side that matters is the lower one of the
depth. Ours therefore asks that the paths together cross enough linear edges, which keeps all of the
best hundredth of NAS-Bench-201 (half a radius: 76 %) and still drops nearly all of the worst tenth.

Every rule works on traced wirings too, so that a search can ask it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.connectivity.dag import expected_depth_width, path_statistics, statistics
from jaxnas.types import Array
from jaxnas.wiring import LINEAR, SKIP, validate


class Ranges(NamedTuple):
    """Smallest and largest effective depth and width, both kept."""

    depth: tuple[float, float]
    width: tuple[float, float]


PUBLISHED_CODE = Ranges((0.99, 2.51), (0.99, 3.01))
"""What the released code uses, for every space; no DARTS cell passes."""

Keep = Callable[[ArrayLike], Array]
"""`keep(wiring)`: `bool[]` of one wiring `int32[E]`."""


class Kept(NamedTuple):
    """What a filter keeps of some wirings.

    Attributes:
        mask: `bool[A]`.
        kept: how many are kept.
        fraction: of all.
        ranges: of the effective depth and width of those that are kept, None without any.
    """

    mask: np.ndarray
    kept: int
    fraction: float
    ranges: Ranges | None


def half_radius(wirings: ArrayLike, fraction: float = 0.5) -> Ranges:
    """Return the published ranges of a space: a part of its radius around its center.

    Wirings without any depth do not count: with them the printed numbers of NAS-Bench-201, center
    (1.6, 2.2) and half radii (0.7, 0.9), do not come out.

    Args:
        wirings: all of the space, or a sample, `int32[A, E]`.
        fraction: of the radius; 1 keeps all that have a depth.

    Raises:
        ValueError: a fraction outside (0, 1], or no wiring with a linear edge.
    """
    if not 0 < check.real("fraction", fraction) <= 1:
        raise ValueError(f"The fraction of the radius is in (0, 1]: got {fraction}; 0.5 is usual.")
    paths = statistics(wirings)
    deep = paths.depth > 0
    if not deep.any():
        raise ValueError("No wiring has a linear edge on a path: pass the wirings of a space.")
    ranges = []
    for values in (paths.depth[deep], paths.width[deep]):
        center, radius = (values.max() + values.min()) / 2, (values.max() - values.min()) / 2
        ranges.append((float(center - fraction * radius), float(center + fraction * radius)))
    return Ranges(*ranges)


def within(ranges: Ranges) -> Keep:
    """Return the published rule: effective depth and width both in their ranges."""
    check.instance("ranges", ranges, Ranges, "Ranges")

    def keep(wiring: ArrayLike) -> Array:
        of_paths = path_statistics(wiring)
        inside = (
            _between(value, bounds)
            for value, bounds in zip((of_paths.depth, of_paths.width), ranges, strict=True)
        )
        return jnp.stack([*inside, of_paths.paths > 0]).all()

    return keep


def deep_enough(total_depth: int = 2) -> Keep:
    """Return our rule: the depths of all paths sum to `total_depth` or more.

    Raises:
        ValueError: a sum below 1, which would keep wirings without a path.
    """
    check.integer("total_depth", total_depth, 1, advice="; 2 keeps the best cells.")
    return lambda wiring: path_statistics(wiring).total_depth >= total_depth


def select(keep: Keep, wirings: ArrayLike) -> Kept:
    """Return what `keep` keeps of concrete wirings `int32[A, E]`.

    Raises:
        ValueError: see `wiring.validate`; or no wirings.
    """
    check.instance("keep", keep, Callable, "a rule such as deep_enough()")
    checked = validate(wirings)
    if checked.ndim != 2 or not len(checked):
        raise ValueError(f"Pass the wirings as [A, E]: got shape {list(checked.shape)}.")
    with jax.enable_x64(True):
        mask = np.asarray(jax.jit(jax.vmap(keep))(checked))
    ranges = None
    if mask.any():
        of_paths = statistics(checked[mask])
        ranges = Ranges(_range(of_paths.depth), _range(of_paths.width))
    return Kept(mask, int(mask.sum()), float(mask.mean()), ranges)


def reserve_moderate(kinds: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the rule that spares operations of a super-network the evaluation by pruning.

    It is called with which operations are alive, `bool[E, O]`, and says which of them are reserved:
    on each edge the `min(2, alive - 2)` without which effective depth and width would be nearest to
    their mean over the operations of that edge. Reserved ones cannot be pruned in that round.

    Source: the released code of Chen et al., NeurIPS 2022, arXiv 2205.05662 (`prune_func_rank`).
    The paper's text speaks of skipping the unpromising; this skips the moderate, as its README
    says. Of equal distances, such as all four of each edge of NAS-Bench-201 in the first round, the
    code takes what rounding puts first; this takes the first operation.

    Args:
        kinds: `O` kinds of edges, that of each operation.
    """
    linear, skip = (check.array("kinds", kinds, "iu") == kind for kind in (LINEAR, SKIP))

    def reserve(alive: np.ndarray) -> np.ndarray:
        reserved = np.zeros_like(alive)
        for edge, row in enumerate(alive):
            operations = np.flatnonzero(row)
            spared = min(2, len(operations) - 2)
            if spared < 1:
                continue
            without = np.repeat(alive[None], len(operations), 0)
            without[np.arange(len(operations)), edge, operations] = False
            count = without.sum(-1)
            shares = ((without & each).sum(-1) / np.maximum(count, 1) for each in (skip, linear))
            places = np.stack(expected_depth_width(*shares), 1)
            distances = np.square(places - places.mean(0)).sum(1)
            # Equal ones differ by rounding.
            order = np.argsort(np.round(distances, 12), kind="stable")
            reserved[edge, operations[order[:spared]]] = True
        return reserved

    return reserve


def _between(value: Array, bounds: tuple[float, float]) -> Array:
    # Bounds come from values of the space, which rounding must not push over them.
    slack = 1e-6 * (1 + abs(bounds[0]) + abs(bounds[1]))
    return (value >= bounds[0] - slack) & (value <= bounds[1] + slack)


def _range(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())
