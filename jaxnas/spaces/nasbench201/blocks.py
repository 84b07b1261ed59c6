"""The wiring of a NAS-Bench-201 cell and of the residual reduction between two stages."""

from typing import Any

import jax.numpy as jnp

from jaxnas.spaces import normalization, operations, plans, tensors
from jaxnas.spaces.nasbench201 import cell as facts
from jaxnas.spaces.tensors import Tensors
from jaxnas.types import Array, Params, Readings, Site


def cell(arch: plans.Arch, mode: normalization.Mode) -> plans.Block:
    """Return the cell: node `t` is the sum of the operations on the edges `s -> t`.

    On an edge of a super-network all operations that are alive are added.
    """
    by_name = {
        "none": operations.zero(),
        "skip_connect": operations.skip_connect(),
        "nor_conv_1x1": operations.convolution_norm(mode),
        "nor_conv_3x3": operations.convolution_norm(mode),
        "avg_pool_3x3": operations.average_pool(),
    }
    decided: plans.Arch
    if isinstance(arch, plans.SuperArch):
        decided = plans.StaticArch(facts.liveliest(arch))
        live = facts.live_edges(decided)
        edges = {edge: plans.mixture(by_name, arch[edge]) for edge in live}
    else:
        decided = arch
        is_static = isinstance(arch, plans.StaticArch)
        live = facts.live_edges(arch) if is_static else tuple(range(len(facts.EDGES)))
        edges = {edge: plans.block(plans.choose(by_name, arch[edge])) for edge in live}

    def total(terms: list[Array], like: Array) -> Array:
        return plans.add(*terms) if terms else jnp.zeros_like(like)

    def forward(weights: Params, inputs: Array, statistics: Any) -> tuple[Array, Any]:
        into: dict[int, list[Array]] = {node: [] for node in range(1, facts.NUM_NODES)}
        nodes, saved = {0: inputs}, {}
        for edge, block in edges.items():
            source, target = facts.EDGES[edge]
            if source not in nodes:
                nodes[source] = total(into[source], inputs)
            name = f"edge_{edge}"
            outputs, saved[name] = block.forward(
                weights.get(name, {}), nodes[source], (statistics or {}).get(name)
            )
            into[target].append(outputs)
        return total(into[facts.NUM_NODES - 1], inputs), saved

    def backward(saved: Any, cotangent: Array, readings: Readings) -> tuple[Array, dict[str, Any]]:
        into: dict[int, list[Array]] = {node: [] for node in range(facts.NUM_NODES)}
        into[facts.NUM_NODES - 1].append(cotangent)
        kept = {}
        for edge, block in reversed(edges.items()):
            source, target = facts.EDGES[edge]
            into[target] = [plans.add(*into[target])]
            name = f"edge_{edge}"
            gradient, kept[name] = block.backward(saved[name], into[target][0], readings)
            into[source].append(gradient)
        return total(into[0], cotangent), kept

    def see(saved: Any) -> tuple[Site, ...]:
        has_a_say = facts.is_live(plans.decisions(decided))
        seen = [
            (edge, site)
            for edge, block in edges.items()
            for site in block.see(saved[f"edge_{edge}"])
        ]
        return tuple(site._replace(alive=site.alive & has_a_say[edge]) for edge, site in seen)

    return plans.Block(forward, backward, see)


def cell_tensors(width: int, normalised: bool) -> Tensors:
    """Return both convolutions on every edge."""
    edge = {
        "nor_conv_1x1": tensors.conv(1, width, width, normalised),
        "nor_conv_3x3": tensors.conv(3, width, width, normalised),
    }
    return {f"edge_{position}": edge for position in range(len(facts.EDGES))}


def reduction(mode: normalization.Mode) -> plans.Block:
    """Return the residual block that halves the image and doubles the channels."""
    parts = {
        "conv_a": plans.block(operations.convolution_norm(mode, stride=2)),
        "conv_b": plans.block(operations.convolution_norm(mode)),
        "shortcut": plans.block(operations.average_pool_convolution()),
    }

    def forward(weights: Params, inputs: Array, statistics: Any) -> tuple[Array, Any]:
        saved = {}

        def run(name: str, x: Array) -> Array:
            outputs, saved[name] = parts[name].forward(
                weights[name], x, (statistics or {}).get(name)
            )
            return outputs

        outputs = plans.add(run("conv_b", run("conv_a", inputs)), run("shortcut", inputs))
        return outputs, saved

    def backward(saved: Any, cotangent: Array, readings: Readings) -> tuple[Array, dict[str, Any]]:
        kept = {}

        def run(name: str, g: Array) -> Array:
            gradient, kept[name] = parts[name].backward(saved[name], g, readings)
            return gradient

        gradient = plans.add(run("conv_a", run("conv_b", cotangent)), run("shortcut", cotangent))
        return gradient, kept

    def see(saved: Any) -> tuple[Site, ...]:
        return tuple(site for name, block in parts.items() for site in block.see(saved[name]))

    return plans.Block(forward, backward, see)


def reduction_tensors(narrow: int, wide: int, normalised: bool) -> Tensors:
    """Return the tensors of a residual reduction."""
    return {
        "conv_a": tensors.conv(3, narrow, wide, normalised),
        "conv_b": tensors.conv(3, wide, wide, normalised),
        "shortcut": tensors.conv(1, narrow, wide, False),
    }
