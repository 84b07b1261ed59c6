"""NAS-Bench-101: 423,624 cells, graphs of up to seven vertices; one draw of weights for all."""

from jaxnas import check
from jaxnas.network import StaticArch, normalization
from jaxnas.spaces.image_space import image_space
from jaxnas.spaces.nasbench101_space import cell
from jaxnas.spaces.nasbench101_space.network import NASBench101
from jaxnas.types import SearchSpace

__all__ = ["NASBench101", "cell", "nasbench101"]


def nasbench101(
    *,
    channels: int = 128,
    cells: int = 3,
    classes: int = 10,
    colors: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the NAS-Bench-101 search space.

    Isomorphic cells are one (`representative`), as in the benchmark; the order of their vertices
    may decide who of those that lead to the output has a channel more, so `num_params` is exact
    for the order given. `is_legal` asks for nine edges at most; `is_connected` does not.

    The eager plan compiles small programs for each number of channels that it meets: the first
    cells are slow. The compiled plan computes all channels, and masks those that a cell has not.

    Args:
        channels: width of the first stack, C; the benchmark trained 128. If divisible by 12, two,
            three and four vertices share channels evenly: there are fewer programs to compile, and
            isomorphic cells have the same cost.
        cells: cells in each stack, N; the benchmark trained 3.
        classes: number of classes, K.
        colors: channels of the images, 1 for grey ones.
        norm: what the normalization layers do, `batch`, `instance`, `eval` or `none`.

    Raises:
        ValueError: a size that is too small, or an unknown mode.
    """
    channels = check.integer(
        "channels", channels, 4, 2**16, "; the default is the benchmark's."
    )  # four vertices may share them
    cells = check.integer(
        "cells", cells, 1, 30, "; the default is the benchmark's."
    )  # the names of the stages have two digits
    classes = check.integer("classes", classes, 2, 2**31)
    colors = check.integer("colors", colors, 1, 2**16)
    return image_space(
        "nasbench101",
        NASBench101(
            norm=normalization.checked_mode(norm),
            colors=colors,
            channels=channels,
            classes=classes,
            cells=cells,
        ),
        cell.NUM_CHOICES,
        concrete=lambda arch: StaticArch(cell.one(arch)),
        to_string=cell.to_string,
        from_string=cell.from_string,
        is_connected=cell.is_connected,
        is_legal=cell.is_valid,
        representative=cell.canonical,
        cells=cell.drawn,
        num_params=lambda arch: cell.num_params(
            cell.graph(cell.one(arch)),
            channels=channels,
            cells=cells,
            classes=classes,
            colors=colors,
            normalized=norm != "none",
        ),
    )
