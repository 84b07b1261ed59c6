"""NAS-Bench-201: 15,625 cells of four nodes, one network that is any of them."""

import dataclasses
from typing import Any

import jax
from jax.typing import ArrayLike

from jaxnas.spaces import images, normalization, plans
from jaxnas.spaces.chain import BoundChain
from jaxnas.spaces.nasbench201 import cell, equivalence
from jaxnas.spaces.nasbench201.network import NASBench201
from jaxnas.types import Array, Network, Outputs, Params, Pullback, SearchSpace

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
    for name, value, least, most in (
        ("channels", channels, 1, 2**16),
        ("cells", cells, 1, 30),  # the names of the blocks have two digits
        ("classes", classes, 2, 2**31),
        ("colours", colours, 1, 2**16),
    ):
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"{name} must be an integer from {least} to {most}: got {value!r}; "
                "the default is the benchmark's."
            )
    module = NASBench201(
        channels=channels, cells=cells, classes=classes, norm=normalization.checked_mode(norm)
    )

    def init(key: Array, inputs: Array) -> Params:
        images.validate(inputs, space="nasbench201", colours=colours, norm=norm)
        return module.init(key, inputs.shape[-1], inputs.dtype, method="declare")["params"]

    def bind(arch: ArrayLike | plans.Bucket, params: Params) -> tuple[Network, Params]:
        if isinstance(arch, plans.Bucket):
            return BoundNetwork(module, arch), params
        if isinstance(arch, jax.core.Tracer):
            if arch.shape != (len(cell.EDGES),) or arch.dtype.kind not in "iu":
                raise ValueError(
                    f"An architecture of this space is int32[{len(cell.EDGES)}]: got "
                    f"{arch.dtype}{list(arch.shape)}; use jax.vmap or jax.lax.map for many."
                )
            return BoundNetwork(module, arch), params
        decisions = plans.StaticArch(cell.one(arch))
        return BoundNetwork(module, decisions), _own(decisions, params)

    return SearchSpace(
        name="nasbench201",
        num_choices=cell.NUM_CHOICES,
        init=init,
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
class BoundNetwork(BoundChain):
    """A NAS-Bench-201 network that says which images it can read."""

    def __call__(self, params: Params, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for `inputs` `[B, H, W, colours]`."""
        self._validate(params, inputs)
        return super().__call__(params, inputs, statistics)

    def per_example_vjp(self, params: Params, inputs: Array) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients."""
        self._validate(params, inputs)
        return super().per_example_vjp(params, inputs)

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

    def _validate(self, params: Params, inputs: Array) -> None:
        colours = params["00_stem"]["kernel"].shape[2]
        images.validate(inputs, space="nasbench201", colours=colours, norm=self.module.norm)


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
