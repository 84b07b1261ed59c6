"""What the scores of ReLU codes share: NASWOT, the linear regions of TE-NAS, and SWAP.

The code of an example is one bit for each ReLU of the network, on or off. For any other activation
(GELU, SiLU, tanh, ...) the bit is the sign of its input. All scores of codes read one forward pass,
which they share with each other. They need no labels. A network of a space shows the ReLUs that its
architecture has; the activations of any other network are found in its program, see `programs`, and
must not be within `jax.lax` control flow other than a scan.

Differs from the released code: of all three scores, only live ReLUs count. An edge that does not
reach the output is no part of the function, but their hooks see it; and their `none` is `x * 0`, so
that they see what stands before a cut edge as well.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.proxies import measures
from jaxnas.types import Array, Passed


def each_relu(
    keep: Callable[[Array, Any], Array], combine: Callable[[Array, Array], Array]
) -> Callable[[Any, Passed, Array, int], Array | None]:
    """Return what to keep of a stage: that of its ReLUs, combined; None if it has none."""

    def of_stage(inputs: Any, passed: Passed, key: Array, position: int) -> Array | None:
        kept = [
            keep(shown.value, shown.alive)
            for shown in passed.shown
            if shown.kind == "preactivation"
        ]
        return functools.reduce(combine, kept) if kept else None

    return of_stage


def combined(combine: Callable[[Array, Array], Array], kept: list[Array | None]) -> Array:
    """Return what is kept of all stages, combined."""
    of_relus = [of_stage for of_stage in kept if of_stage is not None]
    if not of_relus:
        raise ValueError(
            "The score reads the activations of a network: got a network without; score another, "
            "or choose a score of gradients such as grad_norm."
        )
    return functools.reduce(combine, of_relus)


@jax.jit
def _agree(preactivation: Array, alive: Any) -> Array:
    """Return in how many ReLUs each pair of examples agrees, `[B, B]`."""
    signs = jnp.where(preactivation > 0, 1.0, -1.0)
    of_present = jnp.where(alive, signs, 0).reshape(signs.shape[0], -1)
    present = jnp.abs(of_present[0]).sum()
    return (of_present @ of_present.T + present) / 2 + nan_unless_finite(preactivation)


def nan_unless_finite(preactivation: Array) -> Array:
    """Return 0, or nan if a value is not finite: a comparison would hide it."""
    return jnp.where(jnp.isfinite(preactivation).all(), 0, jnp.nan)


def _collect_agreement(kept: list[Array | None]) -> Array:
    return combined(jnp.add, kept)


AGREEMENT = measures.StageMeasure(each_relu(_agree, jnp.add), _collect_agreement)
"""In how many ReLUs each pair of examples agrees, `[B, B]`."""
