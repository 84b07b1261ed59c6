"""NAS-Bench-201: 15,625 cells of four nodes, one network that is any of them."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.network import StaticArch, SuperArch, normalization
from jaxnas.spaces.image_space import image_space
from jaxnas.spaces.nasbench201_space import cell, equivalence
from jaxnas.spaces.nasbench201_space.network import NASBench201
from jaxnas.types import SearchSpace

__all__ = ["NASBench201", "cell", "equivalence", "nasbench201"]


def nasbench201(
    *,
    channels: int = 16,
    cells: int = 5,
    classes: int = 10,
    colors: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the NAS-Bench-201 search space.

    Its `bind` takes a supernet too, `bool[6, 5]`: which operations are alive on each edge;
    their outputs are added, as in one-shot searches.

    Args:
        channels: width of the first stage, C; the benchmark trained 16.
        cells: cells in each stage, N; the benchmark trained 5.
        classes: number of classes, K.
        colors: channels of the images, 1 for grey ones.
        norm: what the normalization layers do, `batch`, `instance`, `eval` or `none`: the most
            decisive switch of a training-free score.

    Raises:
        ValueError: a size below 1 (2 classes), or an unknown mode.

    Examples:
        >>> import jaxnas
        >>> space = jaxnas.spaces.nasbench201()
        >>> space.to_string([3, 3, 3, 3, 3, 3])
        '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|'
        >>> space.num_params([3, 3, 3, 3, 3, 3])
        1531546
    """
    channels = check.integer("channels", channels, 1, 2**16)
    cells = check.integer(
        "cells", cells, 1, 30, "; the default is the benchmark's."
    )  # the names of the stages have two digits
    classes = check.integer("classes", classes, 2, 2**31)
    colors = check.integer("colors", colors, 1, 2**16)
    return image_space(
        "nasbench201",
        NASBench201(
            norm=normalization.checked_mode(norm),
            colors=colors,
            channels=channels,
            classes=classes,
            cells=cells,
        ),
        cell.NUM_CHOICES,
        concrete=_concrete,
        to_string=cell.to_string,
        from_string=cell.from_string,
        is_connected=cell.is_connected,
        representative=equivalence.representative,
        pattern=cell.pattern,
        cells=cell.drawn,
    )


def _concrete(arch: ArrayLike) -> StaticArch | SuperArch:
    given: Any = np.asarray(arch)
    if given.ndim == 2 and given.dtype == bool:
        return SuperArch(cell.alive_operations(given))
    return StaticArch(cell.one(arch))
