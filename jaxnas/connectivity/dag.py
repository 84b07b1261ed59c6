"""Paths through a wiring: how many, how deep, and the effective depth and width they give.

A path leads from the input to the output; its depth is its number of linear edges. Paths are never
listed: each node has a polynomial, whose coefficient `d` counts the paths of depth `d` that lead
there, and it is the sum of those of its sources, shifted by one where the edge is linear.

Source: Chen et al., "Deep Architecture Connectivity Matters for Its Convergence", NeurIPS 2022,
arXiv 2205.05662, definition 4.1 and equation 13. For wirings `int32[E]` see `jaxnas.wiring`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.types import Array
from jaxnas.wiring import LINEAR, SKIP, incoming, live_edges, num_nodes, reach, validate


class Statistics(NamedTuple):
    """What the paths of a wiring of `n` nodes say about it; all zero where there is no path.

    Attributes:
        histogram: `[n]`, the number of paths of each depth.
        paths: number of paths, P.
        depth: effective depth, the mean depth of the paths.
        width: effective width, the paths with a linear edge over the effective depth; 0 if none.
        total_depth: the sum of the depths of all paths.
        linear_edges: number of linear edges that lie on a path, which #params goes by.
        dead_nodes: number of nodes that lie on no path.
    """

    histogram: Array
    paths: Array
    depth: Array
    width: Array
    total_depth: Array
    linear_edges: Array
    dead_nodes: Array


def path_histogram(wiring: ArrayLike) -> Array:
    """Return the number of paths of each depth, `float[n]`, of one wiring `int32[E]`.

    There can be `2**(n - 2)` paths, so they are counted in the default float: exactly up to 2**24
    and finite up to 129 nodes in float32, 2**53 and 1,025 nodes in float64.
    """
    kinds = incoming(wiring)
    return _histogram((kinds == SKIP).astype(float), (kinds == LINEAR).astype(float))


def _histogram(skip: Array, linear: Array) -> Array:
    """Return how much of all paths has each depth, `[n]`, given `[target, source]` edges."""
    nodes = len(skip)

    def extend(target: Array, polynomials: Array) -> Array:
        # The accelerators' default precision would round the counts.
        same, deeper = (
            jnp.matmul(weights[target], polynomials, precision="highest")
            for weights in (skip, linear)
        )
        return polynomials.at[target].set(same + jnp.roll(deeper, 1))

    start = jnp.zeros((nodes, nodes), float).at[0, 0].set(1)
    return jax.lax.fori_loop(1, nodes, extend, start)[-1]


def path_statistics(wiring: ArrayLike) -> Statistics:
    """Return the statistics of one wiring `int32[E]`; map with `jax.vmap`.

    In the default float, see `path_histogram`; `statistics` takes care of the precision.
    """
    histogram = path_histogram(wiring)
    paths = histogram.sum()
    depth = (histogram * jnp.arange(len(histogram), dtype=histogram.dtype)).sum()
    mean = depth / jnp.where(paths > 0, paths, 1)
    width = jnp.where(mean > 0, histogram[1:].sum() / jnp.where(mean > 0, mean, 1), 0)
    fed, useful = reach(wiring)
    return Statistics(
        histogram=histogram,
        paths=paths,
        depth=mean,
        width=width,
        total_depth=depth,
        linear_edges=(live_edges(wiring) & (jnp.asarray(wiring) == LINEAR)).sum(),
        dead_nodes=(~(fed & useful)).sum(),
    )


def expected_depth_width(skip: ArrayLike, linear: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return effective depth and width of a network whose edges are shared by several operations.

    A path is as much as the product of the shares of its edges; the depth is the mean over paths,
    the width the share of all paths with a linear edge over the depth. Both 0 where there is none.

    Source: Chen et al., NeurIPS 2022, arXiv 2205.05662, section 5.3, as in its released code
    (`effective_depth_width_prob`), which lists all paths instead.

    Args:
        skip: share of skip operations on each edge, `[..., E]`.
        linear: share of linear ones; what is missing of 1 is nothing.

    Raises:
        ValueError: shapes that differ or are no wirings', or shares that are none.
    """
    of_skip, of_linear = (
        np.asarray(check.array(name, one), float)
        for name, one in (("skip", skip), ("linear", linear))
    )
    num_nodes(of_skip)
    if of_skip.shape != of_linear.shape:
        raise ValueError(
            "Skip and linear operations have a share on each edge: got shapes "
            f"{list(of_skip.shape)} and {list(of_linear.shape)}."
        )
    least, most = min(of_skip.min(), of_linear.min()), (of_skip + of_linear).max()
    if not 0 <= least <= most <= 1 + 1e-9:
        raise ValueError(
            "The shares of an edge are numbers from 0 whose sum is 1 at most: got "
            f"{least:.3g} for the least, and {most:.3g} for the largest sum."
        )
    with jax.enable_x64(True):
        rows = [jnp.asarray(one).reshape(-1, one.shape[-1]) for one in (of_skip, of_linear)]
        histograms = np.asarray(_expected(*rows)).reshape((*of_skip.shape[:-1], -1))
    depth = histograms @ np.arange(histograms.shape[-1])
    total, deep = histograms.sum(-1), histograms[..., 1:].sum(-1)
    depth = np.divide(depth, total, where=total > 0, out=np.zeros_like(total))
    return depth, np.divide(deep, depth, where=depth > 0, out=np.zeros_like(deep))


def statistics(wirings: ArrayLike) -> Statistics:
    """Return the statistics of concrete wirings `int32[..., E]`, each field `[...]`, as NumPy.

    Counted in float64: exact up to 2**53 paths, to 15 digits beyond.

    Raises:
        ValueError: see `wiring.validate`.

    Examples:
        >>> from jaxnas import connectivity, wiring
        >>> found = connectivity.statistics(wiring.from_code("2_12"))
        >>> float(found.paths), float(found.depth)
        (2.0, 1.0)
    """
    checked = validate(wirings)
    with jax.enable_x64(True):
        flat = _of_all(checked.reshape(-1, checked.shape[-1]))
        arrays = jax.tree.map(np.asarray, flat)
    shape = checked.shape[:-1]
    return jax.tree.map(lambda field: field.reshape((*shape, *field.shape[1:])), arrays)


@jax.jit
@jax.vmap
def _expected(skip: Array, linear: Array) -> Array:
    nodes = num_nodes(skip)
    empty = jnp.zeros((nodes, nodes), skip.dtype)
    lower = np.tril_indices(nodes, -1)
    return _histogram(empty.at[lower].set(skip), empty.at[lower].set(linear))


_of_all = jax.jit(jax.vmap(path_statistics))
