"""NAS-Bench-Macro: eight layers, in each of which one of three blocks is chosen, 6,561 networks.

A stem of 32 channels, stages of 2, 3 and 3 layers with 64, 128 and 256 channels, each of which
halves the image, and a head of 1280. The identity is a choice in all layers; where the shape
changes it is a 1x1 convolution. Weights are drawn as the benchmark drew them. Source: Su et al.,
CVPR 2021, arXiv 2103.11922; parameters and FLOPs are those of its table, `benchmarks.macro`.
"""

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.benchmarks import macro
from jaxnas.spaces.mobilenetv2_space import space_of
from jaxnas.spaces.mobilenetv2_space.blocks import IDENTITY, Candidate
from jaxnas.spaces.mobilenetv2_space.layout import Layout, Stage, layers, resolve
from jaxnas.spaces.mobilenetv2_space.network import Bypass, Costs, SearchedNetwork, costs
from jaxnas.types import SearchSpace

CANDIDATES = (IDENTITY, Candidate(3, 3), Candidate(5, 6))


def layout(channels: int = 32, head: int = 1280, image_size: int = 32) -> Layout:
    """Return what the networks look like, for other widths too.

    Args:
        channels: of the stem; the stages have 2, 4 and 8 times as many.
        head: of the 1x1 convolution at the end.
        image_size: height and width of the images, pixels.

    Raises:
        ValueError: a size that is too small.
    """
    channels, head = check.integer("channels", channels, 1), check.integer("head", head, 1)
    image_size = check.integer("image_size", image_size, 1)
    stages = tuple(Stage(factor * channels, count, 2) for factor, count in ((2, 2), (4, 3), (8, 3)))
    return resolve(Layout(image_size, channels, 1, 0, stages, head, CANDIDATES, activation="relu"))


def cost_table(classes: int = 10) -> Costs:
    """Return what the networks of the benchmark cost; the FLOPs of its table are `num_macs`."""
    return costs(SearchedNetwork(layout=layout(), classes=classes))


def nasbench_macro(
    *,
    channels: int = 32,
    head: int = 1280,
    classes: int = 10,
    colors: int = 3,
    norm: str = "batch",
    bypass: Bypass = "identity",
) -> SearchSpace:
    """Return the NAS-Bench-Macro search space.

    Args:
        channels: of the stem; the benchmark trained 32.
        head: of the last convolution; the benchmark trained 1280.
        classes: number of classes, K.
        colors: channels of the images.
        norm: what the normalization layers do, `batch`, `instance`, `eval` or `none`.
        bypass: as in `mobilenetv2`.

    Raises:
        ValueError: a size that is too small, or an unknown mode.
    """
    stages = layout(channels, head)
    space = space_of(
        stages, name="nasbench_macro", classes=classes, colors=colors, norm=norm, bypass=bypass
    )
    return space._replace(
        to_string=macro.to_string, from_string=macro.from_string, representative=representative
    )


def representative(arch: ArrayLike) -> np.ndarray:
    """Return the architecture `int32[8]` that stands for all that are the same function.

    Identities in layers that keep the shape vanish, so it does not matter where in their stage
    they are: here last.
    """
    decisions = macro.one(arch)
    found: list[int] = []
    stage: list[int] = []
    for layer, decision in zip(layers(layout()), decisions, strict=True):
        if layer.is_plain:
            stage.append(decision)
            continue
        found += [*_identities_last(stage), decision]
        stage = []
    return np.array([*found, *_identities_last(stage)], np.int32)


def _identities_last(stage: list[int]) -> list[int]:
    chosen = [decision for decision in stage if CANDIDATES[decision] != IDENTITY]
    return chosen + [CANDIDATES.index(IDENTITY)] * (len(stage) - len(chosen))
