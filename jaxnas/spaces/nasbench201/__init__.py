"""NAS-Bench-201: 15,625 cells of four nodes, one network that is any of them."""

import dataclasses
from typing import Any

import jax
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.spaces import normalization, plans
from jaxnas.spaces.nasbench201 import cell
from jaxnas.spaces.nasbench201.network import NASBench201
from jaxnas.types import Array, Network, Outputs, Params, Pullback, SearchSpace

__all__ = ["NASBench201", "cell", "nasbench201"]


_MOST_CELLS = 30  # the names of the blocks have two digits


def nasbench201(
    *,
    channels: int = 16,
    cells: int = 5,
    classes: int = 10,
    norm: str = "batch",
) -> SearchSpace:
    """Return the NAS-Bench-201 search space.

    Args:
        channels: width of the first stage, C; the benchmark trained 16.
        cells: cells in each stage, N; the benchmark trained 5.
        classes: number of classes, K.
        norm: what the normalisation layers do, `batch`, `instance`, `eval` or `none`: the most
            decisive switch of a training-free score.

    Raises:
        ValueError: a size below 1 (2 classes), or an unknown mode.
    """
    if cells > _MOST_CELLS:
        raise ValueError(f"cells must be at most {_MOST_CELLS}: got {cells}; 5 is the benchmark's.")
    for name, value, least in (
        ("channels", channels, 1),
        ("cells", cells, 1),
        ("classes", classes, 2),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}: got {value}; the default is fine.")
    module = NASBench201(
        channels=channels, cells=cells, classes=classes, norm=normalization.checked_mode(norm)
    )

    def init(key: Array, inputs: Array) -> Params:
        _validate_images(inputs)
        nothing = plans.StaticArch([cell.NONE] * len(cell.EDGES))
        return module.init(key, nothing, inputs[:1])["params"]

    def bind(arch: ArrayLike, params: Params) -> tuple[Network, Params]:
        if isinstance(arch, jax.core.Tracer):
            return BoundNetwork(module, arch), params
        decisions = plans.StaticArch(encoding.validate_archs(arch, cell.NUM_CHOICES).tolist())
        return BoundNetwork(module, decisions), _own(decisions, params)

    return SearchSpace(
        name="nasbench201",
        num_choices=cell.NUM_CHOICES,
        init=init,
        bind=bind,
        to_string=cell.to_string,
        from_string=cell.from_string,
        is_connected=cell.is_connected,
        num_params=lambda arch: cell.num_params(
            arch, channels=channels, cells=cells, classes=classes
        ),
        options={"channels": channels, "cells": cells, "classes": classes, "norm": norm},
    )


@dataclasses.dataclass(frozen=True)
class BoundNetwork:
    """A `NASBench201` module with its architecture filled in: a `PerExampleDifferentiable`."""

    module: NASBench201
    arch: plans.StaticArch | Array

    def __call__(self, params: Params, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for `inputs` `[B, H, W, colours]`."""
        _validate_images(inputs)
        outputs = self.module.apply({"params": params}, self.arch, inputs, statistics)
        assert isinstance(outputs, Outputs)
        return outputs

    def per_example_vjp(self, params: Params, inputs: Array) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients."""
        _validate_images(inputs)
        return self.module.per_example_vjp(self.arch, params, inputs)


def _own(arch: plans.StaticArch, params: Params) -> Params:
    """Return the parameters of the chosen operations only: those of the static network."""

    def own_edges(edges: Params) -> Params:
        chosen = {f"edge_{edge}": cell.OPERATIONS[decision] for edge, decision in enumerate(arch)}
        return {
            edge: {chosen[edge]: by_name[chosen[edge]]}
            for edge, by_name in edges.items()
            if chosen[edge] in by_name
        }

    return {
        name: own_edges(block) if name.endswith("_cell") else block
        for name, block in params.items()
    }


def _validate_images(inputs: Array) -> None:
    if inputs.ndim != 4 or inputs.shape[1] % 4 or inputs.shape[2] % 4 or not inputs.shape[0]:
        raise ValueError(
            "NAS-Bench-201 reads images [B, H, W, colours] with H and W divisible by 4: "
            f"got shape {inputs.shape}; resize or pad them."
        )
