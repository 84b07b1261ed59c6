"""NAS-Bench-201: 15,625 cells of four nodes, one network that is any of them."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas.spaces import normalization, plans
from jaxnas.spaces.chain import ImageChain, initialiser, validate_sizes
from jaxnas.spaces.nasbench201 import cell, equivalence
from jaxnas.spaces.nasbench201.network import NASBench201
from jaxnas.types import Array, Network, Params, SearchSpace

__all__ = ["NASBench201", "cell", "equivalence", "nasbench201"]


def nasbench201(
    *,
    channels: int = 16,
    cells: int = 5,
    classes: int = 10,
    colours: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the NAS-Bench-201 search space.

    Its `bind` takes a super-network too, `bool[6, 5]`: which operations are alive on each edge;
    their outputs are added, as in one-shot searches.

    Args:
        channels: width of the first stage, C; the benchmark trained 16.
        cells: cells in each stage, N; the benchmark trained 5.
        classes: number of classes, K.
        colours: channels of the images, 1 for grey ones.
        norm: what the normalisation layers do, `batch`, `instance`, `eval` or `none`: the most
            decisive switch of a training-free score.

    Raises:
        ValueError: a size below 1 (2 classes), or an unknown mode.
    """
    validate_sizes(
        ("channels", channels, 1, 2**16),
        ("cells", cells, 1, 30),  # the names of the blocks have two digits
        ("classes", classes, 2, 2**31),
        ("colours", colours, 1, 2**16),
    )
    module = NASBench201(
        channels=channels, cells=cells, classes=classes, norm=normalization.checked_mode(norm)
    )

    def bind(arch: ArrayLike | plans.Bucket, params: Params) -> tuple[Network, Params]:
        if isinstance(arch, plans.Bucket):
            return BoundNetwork(module, arch), params
        if isinstance(arch, jax.core.Tracer):
            plans.validate_traced(arch, len(cell.EDGES))
            return BoundNetwork(module, arch), params
        if np.ndim(arch) == 2 and np.asarray(arch).dtype == bool:
            alive = cell.alive_operations(arch)
            return BoundNetwork(module, plans.SuperArch(alive)), _own(alive, params)
        decisions = plans.StaticArch(cell.one(arch))
        return BoundNetwork(module, decisions), _own([(own,) for own in decisions], params)

    return SearchSpace(
        name="nasbench201",
        num_choices=cell.NUM_CHOICES,
        init=initialiser(module, space="nasbench201", colours=colours),
        bind=bind,
        to_string=cell.to_string,
        from_string=cell.from_string,
        is_connected=cell.is_connected,
        representative=equivalence.representative,
        pattern=cell.pattern,
        num_params=lambda arch: cell.num_params(
            arch,
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
    """A NAS-Bench-201 network that knows its cost."""

    space = "nasbench201"

    def num_macs(self, params: Params, inputs: Array) -> ArrayLike:
        """Return the multiply-accumulates for one image; see `cell.num_macs`."""
        module = self.module
        assert isinstance(module, NASBench201)
        return cell.num_macs(
            plans.decisions(self.arch),
            channels=module.channels,
            cells=module.cells,
            classes=module.classes,
            colours=inputs.shape[-1],
            pixels=inputs.shape[1] * inputs.shape[2],
        )


def _own(alive: Sequence[tuple[int, ...]], params: Params) -> Params:
    """Return the parameters of the chosen operations only: those of the static network."""

    def own_edges(edges: Params) -> Params:
        chosen = {
            f"edge_{edge}": {cell.OPERATIONS[decision] for decision in own}
            for edge, own in enumerate(alive)
        }
        own = {
            edge: {name: weights for name, weights in by_name.items() if name in chosen[edge]}
            for edge, by_name in edges.items()
        }
        return {edge: by_name for edge, by_name in own.items() if by_name}

    return {
        name: own_edges(block) if name.endswith("_cell") else block
        for name, block in params.items()
    }
