"""NAS-Bench-101: 423,624 cells, graphs of up to seven vertices; weights of one draw for them all.

The number of channels in a vertex depends on the whole cell. Weights are drawn for all operations
at all channels; a cell takes the first ones and rescales them to its own fan-in.
"""

import dataclasses

import jax
from jax.typing import ArrayLike

from jaxnas.spaces import normalization, plans
from jaxnas.spaces.chain import ImageChain, initialiser, validate_sizes
from jaxnas.spaces.nasbench101 import blocks, cell
from jaxnas.spaces.nasbench101.network import NOT_TRACED, NASBench101
from jaxnas.types import Array, Network, Params, SearchSpace

__all__ = ["NASBench101", "cell", "nasbench101"]


def nasbench101(
    *,
    channels: int = 128,
    cells: int = 3,
    classes: int = 10,
    colours: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the NAS-Bench-101 search space, for the `walk` plan.

    Isomorphic cells are one (`representative`), as in the benchmark; the order of their vertices
    may decide who of those that lead to the output has a channel more, so `num_params` is exact
    for the order given. `is_connected` does not ask for the nine edges: `cell.is_valid` does.

    A walk compiles its kernels for each number of channels that it meets: the first cells are slow.

    Args:
        channels: width of the first stack, C; the benchmark trained 128. If divisible by 12, two,
            three and four vertices share channels evenly: there are fewer kernels to compile, and
            isomorphic cells have the same cost.
        cells: cells in each stack, N; the benchmark trained 3.
        classes: number of classes, K.
        colours: channels of the images, 1 for grey ones.
        norm: what the normalisation layers do, `batch`, `instance`, `eval` or `none`.

    Raises:
        ValueError: a size that is too small, or an unknown mode.
    """
    validate_sizes(
        ("channels", channels, 4, 2**16),  # four vertices may share them
        ("cells", cells, 1, 30),  # the names of the blocks have two digits
        ("classes", classes, 2, 2**31),
        ("colours", colours, 1, 2**16),
    )
    module = NASBench101(
        channels=channels, cells=cells, classes=classes, norm=normalization.checked_mode(norm)
    )

    def bind(arch: ArrayLike | plans.Bucket, params: Params) -> tuple[Network, Params]:
        if isinstance(arch, plans.Bucket | jax.core.Tracer):
            raise ValueError(NOT_TRACED.format(type(arch).__name__))
        decisions = plans.StaticArch(cell.one(arch))
        return BoundNetwork(module, decisions), _own(module, decisions, params)

    return SearchSpace(
        name="nasbench101",
        num_choices=cell.NUM_CHOICES,
        init=initialiser(module, space="nasbench101", colours=colours),
        bind=bind,
        to_string=cell.to_string,
        from_string=cell.from_string,
        is_connected=cell.is_connected,
        representative=cell.canonical,
        num_params=lambda arch: cell.num_params(
            cell.graph(cell.one(arch)),
            channels=channels,
            cells=cells,
            classes=classes,
            colours=colours,
            normalised=norm != "none",
        ),
        options={
            "channels": channels,
            "cells": cells,
            "classes": classes,
            "colours": colours,
            "norm": norm,
        },
    )


@dataclasses.dataclass(frozen=True)
class BoundNetwork(ImageChain):
    """A NAS-Bench-101 network that knows its cost."""

    space = "nasbench101"

    def num_macs(self, params: Params, inputs: Array) -> int:
        """Return the multiply-accumulates of one image: convolutions and classifier with bias."""
        module = self.module
        assert isinstance(module, NASBench101)
        pixels, total = inputs.shape[1] * inputs.shape[2], 0
        for name, kind in module.names().items():
            if kind == "halving":
                pixels //= 4
            tensors = jax.tree.leaves(params.get(name, {}))
            if kind == "classifier":
                total += sum(tensor.size for tensor in tensors)
            else:
                total += pixels * sum(tensor.size for tensor in tensors if tensor.ndim == 4)
        return total


def _own(module: NASBench101, arch: plans.StaticArch, params: Params) -> Params:
    """Return the parameters of one cell's network, cut from those of the whole space."""
    of_cells = iter(cell.stages(module.channels, module.cells))
    graph = cell.graph(arch)
    return {
        name: blocks.own_weights(params[name], cell.kernels(graph, *next(of_cells)))
        if kind == "cell"
        else params[name]
        for name, kind in module.names().items()
        if name in params
    }
