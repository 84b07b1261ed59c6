"""The wiring of a DARTS network: its cells read the outputs of the two before them.

What passes from block to block is a pair, the last output but one and the last. Source: Liu,
Simonyan and Yang, ICLR 2019, arXiv 1806.09055, section 2.1.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.spaces import normalization, plans, pooling, tensors
from jaxnas.spaces import operations as common
from jaxnas.spaces.darts import operations
from jaxnas.spaces.darts.cell import INPUTS, NODES, OPERATIONS, Cell, Edge
from jaxnas.spaces.operations import Residuals
from jaxnas.spaces.tensors import Tensors
from jaxnas.types import Array, Params, Readings, Site

_Pair = tuple[Array, Array]


def edges(cell: Cell) -> dict[str, Edge]:
    """Return the edges of a cell by the name of their weights, in the order of the nodes."""
    return {
        f"node_{node}_{which}": edge
        for node, pair in enumerate(cell)
        for which, edge in zip("ab", pair, strict=True)
    }


def stride_of(edge: Edge, reduction: bool) -> int:
    """Return the stride of an edge: reduction cells halve the two states that they are given."""
    return 2 if reduction and edge.state < INPUTS else 1


def cell_tensors(
    inputs: tuple[int, int], width: int, reduction: bool, after_reduction: bool, normalised: bool
) -> Tensors:
    """Return the tensors of all operations of a cell that is given so many channels."""
    before, last = inputs
    halve = operations.reduction_tensors if after_reduction else functools.partial(tensors.conv, 1)
    stride = 2 if reduction else 1  # an identity of stride 2 has weights, others are alike
    every = {
        name: operations.operation_tensors(name, stride, width, normalised) for name in OPERATIONS
    }
    edge = {name: own for name, own in every.items() if own}
    return {
        "preprocess_0": halve(before, width, normalised),
        "preprocess_1": tensors.conv(1, last, width, normalised),
        **{f"node_{node}_{which}": edge for node in range(NODES) for which in "ab"},
    }


def own_tensors(tree: Any, cell: Cell, reduction: bool) -> Any:
    """Return of a tree like `cell_tensors` what belongs to the operations of one cell."""
    by_edge = edges(cell)

    def is_own(name: str, edge: Edge) -> bool:
        needs_none = edge.operation == "skip_connect" and stride_of(edge, reduction) == 1
        return edge.operation in tree[name] and not needs_none

    return {
        name: {by_edge[name].operation: own[by_edge[name].operation]} if name in by_edge else own
        for name, own in tree.items()
        if name not in by_edge or is_own(name, by_edge[name])
    }


def cell_block(
    cell: Cell, reduction: bool, after_reduction: bool, mode: normalization.Mode
) -> plans.Block:
    """Return the cell: `(before, last) -> (last, concatenation of its nodes)`."""
    by_edge = edges(cell)
    parts = {
        name: operations.operation(edge.operation, stride_of(edge, reduction), mode)
        for name, edge in by_edge.items()
    }
    project = plans.block(common.convolution_norm(mode))
    halve = plans.block(operations.factorized_reduction(mode))
    unread = plans.block(common.skip_connect())
    read = {edge.state for edge in by_edge.values()}
    for state, block in enumerate((halve if after_reduction else project, project)):
        parts[f"preprocess_{state}"] = block if state in read else unread
    own = _Cell(by_edge, parts)
    return plans.Block(own.forward, own.backward, own.see)


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A cell; see `plans.Block` for what its methods do.

    Attributes:
        edges: by the name of their weights.
        parts: the operation of each edge, and of `preprocess_0` and `preprocess_1`.
    """

    edges: dict[str, Edge]
    parts: dict[str, plans.Block]

    def forward(self, weights: Params, inputs: _Pair, statistics: Any) -> tuple[_Pair, Any]:
        saved = {}

        def run(name: str, x: Array) -> Array:
            own, running = weights.get(name, {}), (statistics or {}).get(name)
            if name in self.edges:
                own = own.get(self.edges[name].operation, {})
            outputs, saved[name] = self.parts[name].forward(own, x, running)
            return outputs

        states = [run(f"preprocess_{state}", x) for state, x in enumerate(inputs)]
        for node in range(NODES):
            names = [f"node_{node}_{which}" for which in "ab"]
            states.append(plans.add(*(run(own, states[self.edges[own].state]) for own in names)))
        return (inputs[1], _concatenated(states[INPUTS:])), saved

    def backward(
        self, saved: Any, cotangent: _Pair, readings: Readings
    ) -> tuple[_Pair, dict[str, Any]]:
        passed_on, of_nodes = cotangent
        kept = {}
        into: list[list[Array]] = [[], [], *([own] for own in _split(of_nodes))]

        def run(name: str, g: Array) -> Array:
            gradient, own = self.parts[name].backward(saved[name], g, readings)
            is_operation = own and name in self.edges
            kept[name] = {self.edges[name].operation: own} if is_operation else own
            return gradient

        for node in reversed(range(NODES)):
            total = plans.add(*into[INPUTS + node])
            for name in (f"node_{node}_{which}" for which in "ab"):
                into[self.edges[name].state].append(run(name, total))
        before, last = (
            run(f"preprocess_{state}", plans.add(*into[state]))
            if into[state]
            else jnp.zeros_like(saved[f"preprocess_{state}"].inputs)
            for state in range(INPUTS)
        )
        return (before, plans.add(last, passed_on)), kept

    def see(self, saved: Any) -> tuple[Site, ...]:
        return tuple(site for name, own in saved.items() for site in self.parts[name].see(own))


def stem(mode: normalization.Mode) -> plans.Block:
    """Return convolution - normalisation, twice the same output: `images -> (before, last)`."""
    convolve = plans.block(common.convolution_norm(mode, relu=False))

    def forward(weights: Params, inputs: Array, statistics: Any) -> tuple[_Pair, Any]:
        outputs, saved = convolve.forward(weights, inputs, statistics)
        return (outputs, outputs), saved

    def backward(saved: Any, cotangent: _Pair, readings: Readings) -> tuple[Array, Any]:
        return convolve.backward(saved, plans.add(*cotangent), readings)

    return plans.Block(forward, backward, convolve.see)


def pool() -> plans.Block:
    """Return the mean over the pixels of the last output: `(before, last) -> [B, C]`."""
    mean = plans.block(pooling.global_average_pool())

    def forward(weights: Params, inputs: _Pair, statistics: Any) -> tuple[Array, Any]:
        outputs, saved = mean.forward({}, inputs[1], None)
        return outputs, {"before": Residuals({}, inputs[0], None), "last": saved}

    def backward(saved: Any, cotangent: Array, readings: Readings) -> tuple[_Pair, dict[str, Any]]:
        gradient, kept = mean.backward(saved["last"], cotangent, readings)
        return (jnp.zeros_like(saved["before"].inputs), gradient), kept

    return plans.Block(forward, backward, lambda saved: ())


@jax.jit
def _concatenated(parts: list[Array]) -> Array:
    return jnp.concatenate(parts, axis=-1)


@jax.jit
def _split(x: Array) -> list[Array]:
    return jnp.split(x, NODES, axis=-1)
