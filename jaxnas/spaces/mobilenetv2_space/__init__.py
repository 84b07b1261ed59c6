"""Spaces of MobileNetV2 networks: in each layer an inverted residual block is chosen."""

import functools

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, encoding
from jaxnas.network import normalization
from jaxnas.spaces.image_space import image_space
from jaxnas.spaces.mobilenetv2_space.blocks import IDENTITY, Block, BlockPlace, Candidate
from jaxnas.spaces.mobilenetv2_space.layout import (
    BY_LAYOUT,
    Layout,
    Stage,
    layers,
    num_choices,
    resolve,
)
from jaxnas.spaces.mobilenetv2_space.network import Bypass, Costs, SearchedNetwork, costs
from jaxnas.types import SearchSpace

__all__ = [
    "BY_LAYOUT",
    "IDENTITY",
    "BlockPlace",
    "Candidate",
    "Costs",
    "Layout",
    "SearchedNetwork",
    "Stage",
    "costs",
    "layers",
    "mobilenetv2",
    "num_choices",
    "resolve",
    "space_of",
]


def mobilenetv2(
    layout: str | Layout = "img32",
    *,
    classes: int = 10,
    colors: int = 3,
    norm: str = "batch",
    bypass: Bypass = "identity",
) -> SearchSpace:
    """Return a search space of MobileNetV2 networks; an architecture is `int32[L]`.

    Its notation is that of the published code: the choices with commas, -1 for the identity.

    Args:
        layout: what the networks look like, or a name in `BY_LAYOUT`.
        classes: number of classes, K.
        colors: channels of the images.
        norm: what the normalization layers do, `batch`, `instance`, `eval` or `none`.
        bypass: what runs beside a block that keeps the shape: the `identity`, as published for
            networks, or a normalization (`norm`), as arXiv 2307.02263 trains its supernet.

    Raises:
        ValueError: an unknown name or mode, a size too small, or a table that makes no network.
    """
    return space_of(resolve(layout), classes=classes, colors=colors, norm=norm, bypass=bypass)


def space_of(
    layout: Layout,
    *,
    name: str = "mobilenetv2",
    classes: int = 10,
    colors: int = 3,
    norm: str = "batch",
    bypass: Bypass = "identity",
) -> SearchSpace:
    """Return the search space of a checked layout; its notation is that of `mobilenetv2`.

    Raises:
        ValueError: an unknown mode, or a size too small.
    """
    check.choice("bypass", bypass, ("identity", "norm"))
    classes, colors = check.integer("classes", classes, 2), check.integer("colors", colors, 1)
    network = SearchedNetwork(normalization.checked_mode(norm), colors, layout, classes, bypass)
    candidates = [layer.candidates for layer in layers(layout)]

    def to_string(arch: ArrayLike) -> str:
        chosen = zip(candidates, encoding.one(arch, num_choices(layout)), strict=True)
        return ",".join("-1" if each[i] == IDENTITY else str(i) for each, i in chosen)

    space = image_space(
        name,
        network,
        num_choices(layout),
        image_size=layout.image_size,
        to_string=to_string,
        from_string=functools.partial(_from_string, candidates=candidates),
    )
    options = dict(space.options)
    return space._replace(options=options.pop("layout")._asdict() | options)


def _from_string(string: str, candidates: list[tuple[Block, ...]]) -> np.ndarray:
    words = check.instance("string", string, str, "a string").split(",")
    decisions = []
    for candidate, word in zip(candidates, words, strict=False):
        if word == "-1" and IDENTITY in candidate:
            decisions.append(candidate.index(IDENTITY))
        elif word.isdecimal() and int(word) < len(candidate) and candidate[int(word)] != IDENTITY:
            decisions.append(int(word))
    if len(decisions) < len(candidates) or len(words) != len(candidates):
        raise ValueError(
            f"A network is written as {len(candidates)} choices with commas, -1 for the identity "
            f"where a layer offers it: got {string!r}."
        )
    return np.array(decisions, np.int32)
