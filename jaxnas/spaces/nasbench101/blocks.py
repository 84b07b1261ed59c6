"""The wiring of a NAS-Bench-101 cell, and its weights as slices of those of the whole space."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.benchmarks.nasbench101_channels import PROJECTION, Kernel, name
from jaxnas.spaces import normalization, operations, plans, pooling, tensors
from jaxnas.spaces.nasbench101 import cell as facts
from jaxnas.spaces.tensors import Tensors
from jaxnas.types import Array, Params, Readings, Site

_OUTPUT = facts.VERTICES - 1


def cell(graph: facts.Graph, channels: int, mode: normalization.Mode) -> plans.Block:
    """Return the cell: a vertex applies its operation to the sum of what leads to it.

    An inner vertex that has more channels than its target is cut to the first ones; the input is
    projected. The output is the concatenation of what leads to it, plus the projected input.
    """
    if not graph.num_edges:
        return _nothing(channels)
    convolution = plans.block(operations.convolution_norm_relu(mode))
    own = _Cell(graph, facts.widths(graph, channels), convolution, plans.block(pooling.max_pool(3)))
    return plans.Block(own.forward, own.backward, own.see)


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A cell whose output depends on its input; see `plans.Block` for what its methods do."""

    graph: facts.Graph
    widths: tuple[int, ...]
    convolution: plans.Block
    pool: plans.Block

    def forward(self, weights: Params, inputs: Array, statistics: Any) -> tuple[Array, Any]:
        saved: dict[str, dict[str, Any]] = {}

        def run(vertex: int, part: str, x: Array) -> Array:
            at = name(vertex)
            running = ((statistics or {}).get(at) or {}).get(part)
            own = weights.get(at, {}).get(part, {})
            outputs, saved.setdefault(at, {})[part] = self._block(part).forward(own, x, running)
            return outputs

        vertices: dict[int, Array] = {}
        for vertex in self.graph.inner:
            sources = self.graph.sources[vertex]
            terms = [_first(vertices[source], self.widths[vertex]) for source in sources if source]
            if 0 in sources:
                terms.append(run(vertex, PROJECTION, inputs))
            vertices[vertex] = run(vertex, self._operation(vertex), plans.add(*terms))
        to_output = [vertices[vertex] for vertex in self.graph.to_output]
        terms = [_concatenated(to_output)] if to_output else []
        if 0 in self.graph.sources[_OUTPUT]:
            terms.append(run(_OUTPUT, PROJECTION, inputs))
        return plans.add(*terms), saved

    def backward(
        self, saved: Any, cotangent: Array, readings: Readings
    ) -> tuple[Array, dict[str, Any]]:
        kept: dict[str, dict[str, Any]] = {}
        into: dict[int, list[Array]] = {vertex: [] for vertex in (0, *self.graph.inner)}

        def run(vertex: int, part: str, g: Array) -> Array:
            at = name(vertex)
            gradient, own = self._block(part).backward(saved[at][part], g, readings)
            if own:
                kept.setdefault(at, {})[part] = own
            return gradient

        if 0 in self.graph.sources[_OUTPUT]:
            into[0].append(run(_OUTPUT, PROJECTION, cotangent))
        to_output = self.graph.to_output
        pieces = _split(cotangent, tuple(self.widths[vertex] for vertex in to_output))
        for vertex, piece in zip(to_output, pieces, strict=True):
            into[vertex].append(piece)
        for vertex in reversed(self.graph.inner):
            g = run(vertex, self._operation(vertex), plans.add(*into[vertex]))
            for source in self.graph.sources[vertex]:
                if source:
                    into[source].append(_widened(g, self.widths[source]))
                else:
                    into[0].append(run(vertex, PROJECTION, g))
        return plans.add(*into[0]), kept

    def see(self, saved: Any) -> tuple[Site, ...]:
        return tuple(
            site
            for parts in saved.values()
            for part, own in parts.items()
            for site in self._block(part).see(own)
        )

    def _operation(self, vertex: int) -> str:
        return self.graph.operations[vertex - 1]

    def _block(self, part: str) -> plans.Block:
        return self.pool if part == "maxpool3x3" else self.convolution


def _nothing(channels: int) -> plans.Block:
    """Return the cell without a path from its input to its output."""

    def forward(weights: Params, inputs: Array, statistics: Any) -> tuple[Array, Any]:
        outputs = jnp.zeros((*inputs.shape[:-1], channels), inputs.dtype)
        return outputs, operations.Residuals({}, inputs, None)

    def backward(saved: Any, cotangent: Array, readings: Readings) -> tuple[Array, dict[str, Any]]:
        return jnp.zeros_like(saved.inputs), {}

    return plans.Block(forward, backward, lambda saved: ())


def cell_tensors(inputs: int, channels: int, normalised: bool) -> Tensors:
    """Return both convolutions and the projection of every vertex, at all channels."""
    inner = {
        PROJECTION: tensors.conv(1, inputs, channels, normalised),
        "conv3x3-bn-relu": tensors.conv(3, channels, channels, normalised),
        "conv1x1-bn-relu": tensors.conv(1, channels, channels, normalised),
    }
    output = {PROJECTION: tensors.conv(1, inputs, channels, normalised)}
    return {name(vertex): inner for vertex in range(1, _OUTPUT)} | {name(_OUTPUT): output}


def own_weights(weights: Params, kernels: dict[str, dict[str, Kernel]]) -> Params:
    """Return the weights of the convolutions of one cell, cut from those of the whole space.

    The first channels of each, with kernels rescaled to their own fan-in: what was drawn from
    +- 1 / sqrt(fan_in) is as if drawn for the cell.
    """
    return {
        vertex: {part: _cut(weights[vertex][part], own) for part, own in parts.items()}
        for vertex, parts in kernels.items()
    }


@functools.partial(jax.jit, static_argnames="kernel")
def _cut(weights: Params, kernel: Kernel) -> Params:
    whole = weights["kernel"]
    scale = (whole.shape[2] / kernel.inputs) ** 0.5
    cut = {part: own[: kernel.outputs] for part, own in weights.items() if part != "kernel"}
    return cut | {"kernel": whole[:, :, : kernel.inputs, : kernel.outputs] * scale}


def _first(x: Array, width: int) -> Array:
    return x if x.shape[-1] == width else lax.slice_in_dim(x, 0, width, axis=-1)


@functools.partial(jax.jit, static_argnames="width")
def _widened(x: Array, width: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


@jax.jit
def _concatenated(parts: list[Array]) -> Array:
    return jnp.concatenate(parts, axis=-1)


@functools.partial(jax.jit, static_argnames="widths")
def _split(x: Array, widths: tuple[int, ...]) -> list[Array]:
    starts = [sum(widths[:position]) for position in range(len(widths))]
    return [x[..., start : start + own] for start, own in zip(starts, widths, strict=True)]
