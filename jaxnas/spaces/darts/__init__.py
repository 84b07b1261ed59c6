"""DARTS: a normal and a reduction cell, four nodes of two operations each; 10^18 networks."""

import dataclasses
import math

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas.spaces import normalization, plans, tensors
from jaxnas.spaces.chain import ImageChain, initialiser, validate_sizes
from jaxnas.spaces.darts import cell
from jaxnas.spaces.darts.network import NOT_TRACED, Darts
from jaxnas.types import Array, Network, Params, SearchSpace

__all__ = ["Darts", "cell", "darts"]


def darts(
    *,
    channels: int = 16,
    layers: int = 8,
    classes: int = 10,
    colours: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the DARTS search space, for the `walk` plan.

    Every architecture is connected: the first node reads both states that a cell is given.

    Args:
        channels: width of the first cells, C, even; found cells are trained at 36.
        layers: number of cells, L; found cells are trained at 20, and HNAS scores them at 5.
        classes: number of classes, K.
        colours: channels of the images, 1 for grey ones.
        norm: what the normalisation layers do, `batch`, `instance`, `eval` or `none`.

    Raises:
        ValueError: a size that is too small, odd channels, or an unknown mode.
    """
    validate_sizes(
        ("channels", channels, 2, 2**16),
        ("layers", layers, 3, 90),  # two reductions; the names of the blocks have two digits
        ("classes", classes, 2, 2**31),
        ("colours", colours, 1, 2**16),
        advice=".",
    )
    if channels % 2:
        raise ValueError(
            f"A factorized reduction halves the channels: got {channels}; make it even."
        )
    module = Darts(
        channels=channels, layers=layers, classes=classes, norm=normalization.checked_mode(norm)
    )

    def bind(arch: ArrayLike | plans.Bucket, params: Params) -> tuple[Network, Params]:
        if isinstance(arch, plans.Bucket | jax.core.Tracer):
            raise ValueError(NOT_TRACED.format(type(arch).__name__))
        decisions = plans.StaticArch(cell.one(arch))
        return BoundNetwork(module, decisions), module.own(decisions, params)

    def num_params(arch: ArrayLike) -> int:
        own = module.own(plans.StaticArch(cell.one(arch)), module.tensors(colours))
        leaves = jax.tree.leaves(own, is_leaf=lambda node: isinstance(node, tensors.Tensor))
        return sum(math.prod(tensor.shape) for tensor in leaves)

    return SearchSpace(
        name="darts",
        num_choices=cell.NUM_CHOICES,
        init=initialiser(module, space="darts", colours=colours),
        bind=bind,
        to_string=cell.to_string,
        from_string=cell.from_string,
        is_connected=lambda arch: np.True_,
        representative=cell.representative,
        num_params=num_params,
        options={
            "channels": channels,
            "layers": layers,
            "classes": classes,
            "colours": colours,
            "norm": norm,
        },
    )


@dataclasses.dataclass(frozen=True)
class BoundNetwork(ImageChain):
    """A DARTS network that knows its cost."""

    space = "darts"

    def num_macs(self, params: Params, inputs: Array) -> int:
        """Return the multiply-accumulates of one image: convolutions and classifier with bias."""
        module = self.module
        assert isinstance(module, Darts)
        pixels = inputs.shape[1] * inputs.shape[2]
        total = pixels * _weights(params["00_stem"])
        for name, layer in module.cells().items():
            before = {part: own for part, own in params[name].items() if "preprocess" in part}
            nodes = {part: own for part, own in params[name].items() if part not in before}
            total += pixels * _weights(before)
            pixels //= 4 if layer.reduction else 1
            total += pixels * _weights(nodes)
        classifier = params[f"{module.layers + 2:02d}_classifier"]
        return total + sum(tensor.size for tensor in jax.tree.leaves(classifier))


def _weights(params: Params) -> int:
    """Return how many weights the convolutions have; each is used once a pixel of its outputs."""
    return sum(tensor.size for tensor in jax.tree.leaves(params) if tensor.ndim == 4)
