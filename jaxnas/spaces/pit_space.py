"""PiT: pooling-based vision transformers, whose width doubles as the image is halved.

Three stages of layers with `base_dim` channels for each head; between two of them the patches are
pooled by a depthwise convolution and the class token is widened by a linear layer. Patches have 16
pixels and a stride of 8, and a learned map of places; the class token is classified. Sources: Heo
et al., "Rethinking Spatial Dimensions of Vision Transformers", ICCV 2021, arXiv 2103.16302; the
choices are those of Auto-Prox, whose trained networks are in `benchmarks.pit`.
"""

import functools
from typing import Any

from jaxnas import check
from jaxnas.benchmarks import transformers
from jaxnas.network import Net, Value
from jaxnas.spaces.transformer import layers
from jaxnas.spaces.transformer.space import VisionTransformer, space_of
from jaxnas.types import SearchSpace

PATCH, STRIDE = 16, 8


class PiT(VisionTransformer):
    """All PiT networks."""

    space, choices = "pit", transformers.PIT

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        options = self.chosen(arch)
        all_heads = map(int, options["heads"].split("/"))
        for stage, heads in enumerate(all_heads, start=1):
            width = options["base_dim"] * heads
            if stage == 1:
                patches = layers.embed_patches(
                    features=width, size=PATCH, stride=STRIDE, token_has_place=False
                )
                x = net.stage("patches", patches, x)
            else:
                x = net.stage("pool", layers.pool(features=width), x)
            hidden = (int(width * options["mlp_ratio"]),)
            layer = functools.partial(layers.layer, heads, hidden)
            x = net.repeat("layer", options[f"depth_{stage}"], layer, x)
        x = net.stage("norm", layers.normed_token(), x)
        return net.stage("classifier", layers.classify(features=self.classes), x)


def pit(*, image_size: int = 224, classes: int = 10, colors: int = 3) -> SearchSpace:
    """Return the PiT search space; an architecture is `int32[6]`, see `benchmarks.transformers`.

        >>> import jaxnas
        >>> table = jaxnas.benchmarks.pit()
        >>> space = jaxnas.spaces.pit(classes=100)
        >>> space.to_string(table.archs[0])
        'base_dim=40,mlp_ratio=4,depth_1=1,depth_2=6,depth_3=6,heads=4/4/8'
        >>> space.num_params(table.archs[0])
        9917380

    Args:
        image_size: height and width of the images in pixels; the benchmark trained 224.
        classes: number of classes, K.
        colors: channels of the images.

    Raises:
        ValueError: images smaller than a patch, fewer than two classes, or no colors.
    """
    check.integer("image_size", image_size, PATCH)
    check.integer("colors", colors, 1)
    return space_of(PiT(image_size=image_size, classes=classes, colors=colors))
