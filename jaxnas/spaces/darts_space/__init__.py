"""DARTS: a normal and a reduction cell, four nodes of two operations each; 10^18 networks."""

from jaxnas import check
from jaxnas.network import normalization
from jaxnas.spaces.darts_space import cell
from jaxnas.spaces.darts_space.network import Darts
from jaxnas.spaces.image_space import image_space
from jaxnas.types import SearchSpace

__all__ = ["Darts", "cell", "darts"]


def darts(
    *,
    channels: int = 16,
    layers: int = 8,
    classes: int = 10,
    colors: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the DARTS search space.

    Every architecture is connected: the first node reads both states that a cell is given.

    Args:
        channels: width of the first cells, C, even; found cells are trained at 36.
        layers: number of cells, L; found cells are trained at 20, and HNAS scores them at 5.
        classes: number of classes, K.
        colors: channels of the images, 1 for grey ones.
        norm: what the normalization layers do, `batch`, `instance`, `eval` or `none`.

    Raises:
        ValueError: a size that is too small, odd channels, or an unknown mode.
    """
    channels = check.integer("channels", channels, 2, 2**16)
    layers = check.integer(
        "layers", layers, 3, 90
    )  # two reductions; the names of the stages have two digits
    classes = check.integer("classes", classes, 2, 2**31)
    colors = check.integer("colors", colors, 1, 2**16)
    if channels % 2:
        raise ValueError(
            f"A factorized reduction halves the channels: got {channels}; make it even."
        )
    return image_space(
        "darts",
        Darts(
            norm=normalization.checked_mode(norm),
            colors=colors,
            channels=channels,
            classes=classes,
            layers=layers,
        ),
        cell.NUM_CHOICES,
        to_string=cell.to_string,
        from_string=cell.from_string,
        representative=cell.representative,
        pattern=cell.pattern,
        cells=cell.drawn,
    )
