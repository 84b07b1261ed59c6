"""AutoFormer-Tiny: vision transformers of one width, with heads and widening chosen layer by layer.

12 to 14 layers; patches of 16 pixels, a class token, learned places of all tokens; the mean over
the patches is classified. Heads divide the width, so they cost no parameters. Source: Chen et al.,
"AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021, arXiv 2107.00651.

Differs from the paper: heads have width / heads channels, not 64, and no relative positions: so the
networks of `benchmarks.autoformer` were trained.
"""

import functools
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.benchmarks import transformers
from jaxnas.network import Net, Value
from jaxnas.spaces.transformer import layers
from jaxnas.spaces.transformer.space import VisionTransformer, space_of
from jaxnas.types import SearchSpace

PATCH = 16


class AutoFormer(VisionTransformer):
    """All AutoFormer-Tiny networks."""

    space, choices = "autoformer", transformers.AUTOFORMER

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        options = self.chosen(arch)
        width = options["hidden_dim"]
        patches = layers.embed_patches(
            features=width, size=PATCH, stride=PATCH, token_has_place=True
        )
        x = net.stage("patches", patches, x)
        each = list(zip(options["num_heads"], options["mlp_ratio"], strict=True))[
            : options["depth"]
        ]
        for heads, ratio in each:
            layer = functools.partial(layers.layer, heads, (int(width * ratio),))
            x = net.stage("layer", layer, x)
        x = net.stage("norm", layers.normed_mean(), x)
        return net.stage("classifier", layers.classify(features=self.classes), x)

    def representative(self, arch: ArrayLike) -> np.ndarray:
        """Return the architecture whose decisions that nobody reads are 0."""
        return transformers.without_unread(self.choices, arch, self.chosen(arch)["depth"])


def autoformer(*, image_size: int = 224, classes: int = 10, colors: int = 3) -> SearchSpace:
    """Return the AutoFormer-Tiny search space; an architecture is `int32[30]`.

    Args:
        image_size: height and width of the images in pixels; the benchmark trained 224.
        classes: number of classes, K.
        colors: channels of the images.

    Raises:
        ValueError: images smaller than a patch, fewer than two classes, or no colors.
    """
    check.integer("image_size", image_size, PATCH)
    check.integer("colors", colors, 1)
    return space_of(AutoFormer(image_size=image_size, classes=classes, colors=colors))
