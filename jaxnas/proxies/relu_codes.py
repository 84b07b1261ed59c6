"""Scores from which ReLUs are on: NASWOT, linear regions and SWAP.

The code of an example is one bit for each ReLU of the network, on or off. For any other activation
(GELU, SiLU, tanh, ...) the bit is the sign of its input. All scores here read the codes of one
forward pass, which they share with each other. They need no labels. A network of a space shows the
ReLUs that its architecture has; the activations of any other network are found in its program, see
`programs`, and must not be within `jax.lax` control flow other than a scan.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.proxies import measures
from jaxnas.types import Array, Passed, Proxy

_SWAP_EXAMPLES = 16


def naswot() -> Proxy:
    """Return NASWOT, `log |det K|` of the kernel `K_ij = number of ReLUs in which i and j agree`.

    Source: Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training", ICML
    2021, arXiv 2006.04647, equation 2. One forward pass. `-inf` where two examples have one code.
    Differs from the published code, which hooks each module whose class is called something with
    ReLU: each ReLU counts once, wherever it is.
    """
    return Proxy("naswot", _AGREEMENT, _log_determinant)


def linear_regions() -> Proxy:
    """Return in how many linear regions the examples lie: the number of different codes.

    Source: Chen, Gong and Wang, "Neural Architecture Search on ImageNet in Four GPU Hours"
    (TE-NAS), ICLR 2021, arXiv 2102.11535, section 3.1.2. At most the size of the batch, which all
    live networks of a usual width reach: a tie, and so no information. Published on networks of one
    channel and one cell with thousands of small images, where it does tell.
    """
    return Proxy("linear_regions", _AGREEMENT, _distinct)


def swap() -> Proxy:
    """Return SWAP, how many different patterns the ReLUs have over 16 examples.

    Source: Peng et al., "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-Fast NAS", ICLR 2024,
    arXiv 2403.04161. At most 65,536. One forward pass. The examples of a batch are taken in groups
    of 16 (a rest is left out; a smaller batch is one group), and the score is the mean over them.
    Differs from the published code: given weights and images, not normal ones.
    """
    return Proxy("swap", _PATTERNS, jnp.asarray)


def _each_relu(
    keep: Callable[[Array, Any], Array], combine: Callable[[Array, Array], Array]
) -> Callable[[Any, Passed, int], Array | None]:
    """Return what to keep of a stage: that of its ReLUs, combined; None if it has none."""

    def of_stage(inputs: Any, passed: Passed, position: int) -> Array | None:
        kept = [
            keep(shown.value, shown.alive)
            for shown in passed.shown
            if shown.kind == "preactivation"
        ]
        return functools.reduce(combine, kept) if kept else None

    return of_stage


def _combined(combine: Callable[[Array, Array], Array], kept: list[Array | None]) -> Array:
    of_relus = [own for own in kept if own is not None]
    if not of_relus:
        raise ValueError(
            "The score reads the activations of a network: got a network without; score another, "
            "or choose a score of gradients such as grad_norm."
        )
    return functools.reduce(combine, of_relus)


@jax.jit
def _agree(preactivation: Array, alive: Any) -> Array:
    """Return in how many ReLUs each pair of examples agrees, `[B, B]`."""
    signs = jnp.where(preactivation > 0, 1.0, -1.0).reshape(preactivation.shape[0], -1)
    agreement = (signs @ signs.T + signs.shape[1]) / 2
    return jnp.where(alive, agreement, 0) + _nan_unless_finite(preactivation)


@jax.jit
def _patterns(preactivation: Array, alive: Any) -> Array:
    """Return 1 for each pattern that a ReLU has and 0 for others, `[groups, 2 ** size]`."""
    size = min(_SWAP_EXAMPLES, preactivation.shape[0])
    groups = preactivation.shape[0] // size
    bits = (preactivation > 0)[: groups * size].reshape(groups, size, -1)
    numbers = (bits.astype(jnp.int32) << jnp.arange(size, dtype=jnp.int32)[None, :, None]).sum(1)
    seen = jnp.zeros((groups, 2**size)).at[jnp.arange(groups)[:, None], numbers].set(1)
    return jnp.where(alive, seen, 0) + _nan_unless_finite(preactivation)


def _nan_unless_finite(preactivation: Array) -> Array:
    return jnp.where(jnp.isfinite(preactivation).all(), 0, jnp.nan)


def _collect_agreement(kept: list[Array | None]) -> Array:
    return _combined(jnp.add, kept)


def _collect_patterns(kept: list[Array | None]) -> Array:
    return _combined(jnp.maximum, kept).sum(1).mean()


_AGREEMENT = measures.StageMeasure(_each_relu(_agree, jnp.add), _collect_agreement)
_PATTERNS = measures.StageMeasure(_each_relu(_patterns, jnp.maximum), _collect_patterns)


def _log_determinant(agreement: Array) -> Array:
    return jnp.linalg.slogdet(agreement)[1]


def _distinct(agreement: Array) -> Array:
    same = agreement == jnp.diag(agreement)[:, None]
    first = same.argmax(1) == jnp.arange(same.shape[0])
    number = first.sum(dtype=agreement.dtype)
    return jnp.where(jnp.isnan(agreement).any(), jnp.nan, jnp.where(number > 1, number, -jnp.inf))
