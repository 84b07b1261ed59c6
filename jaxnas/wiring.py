"""Wirings: directed acyclic graphs as data, `int32[E]`, one kind for each possible edge.

Node 0 is the input and the last node the output; an edge leads from an earlier to a later node. The
`E = n (n - 1) / 2` possible edges of `n` nodes stand in the order of NAS-Bench-201: by target, then
by source, (0,1), (0,2), (1,2), (0,3), ...

A wiring is also written as a code string, the kinds of the incoming edges of each node: "2_21_112"
has a linear edge into node 1, "21" into node 2 (from 0 and 1), "112" into node 3. Source: Chen et
al., "Deep Architecture Connectivity Matters for Its Convergence", NeurIPS 2022, arXiv 2205.05662.
"""

import math
import re
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.types import Array, Cell

ZERO, SKIP, LINEAR = range(3)
"""Kinds of edges: nothing, the identity, a layer with weights and a ReLU."""

MAX_NODES = 1000

_CODE = re.compile(r"[0-2]+(_[0-2]+)*")


def edges(nodes: int) -> tuple[tuple[int, int], ...]:
    """Return `(source, target)` of each possible edge of a graph of `nodes` nodes.

    Examples:
        >>> from jaxnas import wiring
        >>> wiring.edges(3)
        ((0, 1), (0, 2), (1, 2))
    """
    return tuple((source, target) for target in range(1, nodes) for source in range(target))


def num_nodes(wiring: ArrayLike) -> int:
    """Return how many nodes the wirings `int32[..., E]` have; only their shape is read.

    Raises:
        ValueError: `E` is not the number of edges of a complete graph, or of too large a one.
    """
    shape = np.shape(wiring)
    count = shape[-1] if shape else 0
    nodes = (1 + math.isqrt(1 + 8 * count)) // 2
    if not 1 < nodes <= MAX_NODES or nodes * (nodes - 1) != 2 * count:
        raise ValueError(
            "A wiring of n nodes has n (n - 1) / 2 edges, 1, 3, 6, 10, ..., and at most "
            f"{MAX_NODES} nodes: got shape {list(shape)}; give missing edges kind 0."
        )
    return nodes


def validate(wirings: ArrayLike) -> np.ndarray:
    """Return concrete wirings as `int32[..., E]`, checked edge by edge.

    Raises:
        ValueError: a wrong number of edges, no integers, or an unknown kind.
    """
    array = np.asarray(wirings)
    num_nodes(array)
    if array.dtype.kind not in "iu" or ((array < ZERO) | (array > LINEAR)).any():
        raise ValueError(
            "An edge is an integer, 0 (zero), 1 (skip) or 2 (linear): got "
            f"{_stranger(array)}; translate the operations of a space into these kinds."
        )
    return array.astype(np.int32)


def from_edges(nodes: int, present: Iterable[tuple[int, int, int]]) -> np.ndarray:
    """Return the wiring `int32[E]` of a list of edges; edges that are not listed are zero.

    Args:
        nodes: number of nodes, at least 2.
        present: `(source, target, kind)`, each pair of nodes once.

    Raises:
        ValueError: an edge that does not lead forward (a cycle), is listed twice or is none.

    Examples:
        >>> from jaxnas import wiring
        >>> wiring.from_edges(3, [(0, 1, wiring.LINEAR), (1, 2, wiring.SKIP)]).tolist()
        [2, 0, 1]
    """
    check.integer("nodes", nodes, 2, MAX_NODES)
    position = {edge: index for index, edge in enumerate(edges(nodes))}
    wiring = np.zeros(len(position), np.int32)
    seen = set()
    for edge in check.items("present", present):
        source, target, kind = (
            check.integer("An edge", item) for item in check.items("edge", edge)
        )
        if (source, target) not in position:
            raise ValueError(
                f"An edge leads from an earlier to a later node of 0 to {nodes - 1}: got "
                f"{source} -> {target}; break the cycle, or number the nodes in topological order."
            )
        if (source, target) in seen:
            raise ValueError(
                f"Two nodes have at most one edge: got {source} -> {target} twice; put a node with "
                "a skip edge in between."
            )
        seen.add((source, target))
        wiring[position[source, target]] = kind
    return validate(wiring)


def chain(cells: Sequence[ArrayLike]) -> np.ndarray:
    """Return the wiring `int32[E]` of concrete cells one after another, output upon input.

    Raises:
        ValueError: no cells, or one that is no wiring.
    """
    if not check.items("cells", cells):
        raise ValueError("A chain has a cell or more: got none; pass wirings [E].")
    present, last = [], 0
    for cell in cells:
        kinds = validate(cell)
        nodes = num_nodes(kinds)
        present += [
            (last + source, last + target, int(kind))
            for (source, target), kind in zip(edges(nodes), kinds, strict=True)
        ]
        last += nodes - 1
    return from_edges(last + 1, present)


def from_code(code: str) -> np.ndarray:
    """Return the wiring `int32[E]` of a code string such as "2_21_112".

    Raises:
        ValueError: not a code string.

    Examples:
        >>> from jaxnas import wiring
        >>> wiring.from_code("2_21_112").tolist()
        [2, 2, 1, 1, 1, 2]
    """
    rows = check.instance("code", code, str, "a string").split("_")
    if not _CODE.fullmatch(code) or [len(row) for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError(
            "A code lists the kinds 0, 1, 2 of the incoming edges of each node, one for node 1, "
            f"two for node 2, ..., as in '2_21_112': got {code!r}."
        )
    return np.array([int(kind) for row in rows for kind in row], np.int32)


def to_code(wiring: ArrayLike) -> str:
    """Return the code string of one wiring `int32[E]`.

    Raises:
        ValueError: not one wiring.

    Examples:
        >>> from jaxnas import wiring
        >>> wiring.to_code([2, 2, 1, 1, 1, 2])
        '2_21_112'
    """
    array = validate(wiring)
    if array.ndim != 1:
        raise ValueError(f"One wiring at a time: got shape {list(array.shape)}; pass [E].")
    kinds = iter(array.tolist())
    return "_".join(
        "".join(str(next(kinds)) for _ in range(target)) for target in range(1, num_nodes(array))
    )


def drawn(wiring: ArrayLike) -> dict[str, Cell]:
    """Return what to draw of a wiring `int32[E]`: its skips, and its edges with weights."""
    kinds = ("zero", "skip", "linear")
    present = zip(edges(num_nodes(wiring)), validate(wiring).tolist(), strict=True)
    inner = map(str, range(1, num_nodes(wiring) - 1))
    chosen = [(*ends, kinds[kind]) for ends, kind in present if kind != ZERO]
    return {"wiring": Cell(chosen, ("in", *inner, "out"), kinds[1:])}


def incoming(wiring: ArrayLike) -> Array:
    """Return the kinds as a matrix `int32[n, n]`, `[target, source]`; zero where no edge can be."""
    check.array("wiring", wiring, "biu")
    nodes = num_nodes(wiring)
    return (
        jnp.zeros((nodes, nodes), jnp.int32)
        .at[np.tril_indices(nodes, -1)]
        .set(jnp.asarray(wiring, jnp.int32))
    )


def reach(wiring: ArrayLike) -> tuple[Array, Array]:
    """Return which nodes the input reaches and which reach the output, both `bool[n]`.

    Works on a traced wiring `int32[E]`, as do `live_edges`, `prune` and `is_connected`.
    """
    present = incoming(wiring) != ZERO
    nodes = len(present)

    def forward(step: Array, fed: Array) -> Array:
        return fed.at[step].set((present[step] & fed).any())

    def backward(step: Array, useful: Array) -> Array:
        source = nodes - 1 - step
        return useful.at[source].set((present[:, source] & useful).any())

    first, last = jnp.zeros((2, nodes), bool)
    fed = jax.lax.fori_loop(1, nodes, forward, first.at[0].set(True))
    useful = jax.lax.fori_loop(1, nodes, backward, last.at[-1].set(True))
    return fed, useful


def is_connected(wiring: ArrayLike) -> Array:
    """Return whether a path leads from the input to the output, `bool[]`.

    Examples:
        >>> from jaxnas import wiring
        >>> bool(wiring.is_connected(wiring.from_code("2_00")))
        False
    """
    return reach(wiring)[0][-1]


def live_edges(wiring: ArrayLike) -> Array:
    """Return which edges lie on a path from the input to the output, `bool[E]`."""
    fed, useful = reach(wiring)
    targets, sources = np.tril_indices(num_nodes(wiring), -1)
    return (jnp.asarray(wiring) != ZERO) & fed[sources] & useful[targets]


def prune(wiring: ArrayLike) -> Array:
    """Return the wiring with its dead edges set to zero, `int32[E]`: the same function.

    Examples:
        >>> from jaxnas import wiring
        >>> wiring.to_code(wiring.prune(wiring.from_code("2_20")))
        '0_20'
    """
    return jnp.where(live_edges(wiring), jnp.asarray(wiring, jnp.int32), ZERO)


def _stranger(array: np.ndarray) -> str:
    if array.dtype.kind not in "iu":
        return f"dtype {array.dtype}"
    return f"kind {array[(array < ZERO) | (array > LINEAR)][0]}"
