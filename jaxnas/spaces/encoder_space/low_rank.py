"""Low-rank fine-tuning: kernels stay as they are, and the product of two thin factors is trained.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv
2106.09685, section 4.1, Eq. 3: `h = W0 x + (alpha / r) B A x`, `B` zero at first, on the query and
value projections (section 4.2).

Differs from the paper: `alpha` is the rank, its neutral value; the learning rate does its work.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxnas.types import Array, Params

TARGETS = ("query", "value")


class Factors(NamedTuple):
    """What is trained of a kernel `[I, O]`: its change is `down @ up`.

    Attributes:
        down: `[I, R]`, normal with deviation `1 / sqrt(I)` at first.
        up: `[R, O]`, zero at first, so that nothing has changed.
    """

    down: Array
    up: Array


def init(
    key: Array, params: Params, rank: int, *, targets: Sequence[str] = TARGETS
) -> dict[str, Factors]:
    """Return the factors of the kernels of all layers that `targets` name, by path.

    Args:
        key: a key from `jax.random.key`.
        params: nested dictionaries of arrays; `.../query/kernel` is the kernel of a layer `query`.
        rank: R, at least 1; above the least side of a kernel it saves nothing.
        targets: names of layers.

    Raises:
        ValueError: `rank` is below 1, or no kernel `[I, O]` has such a name.
    """
    if rank < 1:
        raise ValueError(f"The rank is at least 1: got {rank}; 8 is usual.")
    kernels = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
        if path.endswith(tuple(f"/{target}/kernel" for target in targets))
    }
    if not kernels or any(leaf.ndim != 2 for leaf in kernels.values()):
        raise ValueError(
            f"Low-rank factors need kernels [I, O] of layers named {', '.join(targets)}: got "
            f"{len(kernels)} of such names; pass the parameters of the layers."
        )
    keys = jax.random.split(key, len(kernels))
    return {
        path: Factors(
            jax.random.normal(each, (leaf.shape[0], rank), leaf.dtype) * leaf.shape[0] ** -0.5,
            jnp.zeros((rank, leaf.shape[1]), leaf.dtype),
        )
        for each, (path, leaf) in zip(keys, kernels.items(), strict=True)
    }


def add(params: Params, factors: dict[str, Factors]) -> Params:
    """Return `params` with `down @ up` added to each kernel that has factors."""
    flat = traverse_util.flatten_dict(params, sep="/")
    changed = {path: flat[path] + factor.down @ factor.up for path, factor in factors.items()}
    return traverse_util.unflatten_dict(flat | changed, sep="/")
