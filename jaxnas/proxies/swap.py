"""SWAP: how many different patterns the ReLUs of a network have over the examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.proxies import measures, relu_codes
from jaxnas.types import Array, Proxy

_SWAP_EXAMPLES = 16
_NOT_FINITE = np.uint8(255)


def swap() -> Proxy:
    """Return SWAP, how many different patterns the ReLUs have over 16 examples.

    Source: Peng et al., "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-Fast NAS", ICLR 2024,
    arXiv 2403.04161. At most 65,536. One forward pass. The examples of a batch are taken in groups
    of 16 (a rest is left out; a smaller batch is one group), and the score is the mean over them.
    `aggregate.regularized_swap` is its product with a factor of the number of parameters.

    Differs from the released code: given weights and images, not normal ones; dead edges do not
    count (see `relu_codes`): of one cell 963 patterns here, 1,419 there.
    """
    return Proxy("swap", _PATTERNS, jnp.asarray)


@jax.jit
def _patterns(preactivation: Array, alive: Any) -> Array:
    """Return 1 for each pattern that a ReLU has and 0 for others, `uint8[groups, 2 ** size]`."""
    measures.compared(len(preactivation), "swap")
    size = min(_SWAP_EXAMPLES, preactivation.shape[0])
    groups = preactivation.shape[0] // size
    bits = (preactivation > 0)[: groups * size].reshape(groups, size, -1)
    numbers = (bits.astype(jnp.int32) << jnp.arange(size, dtype=jnp.int32)[None, :, None]).sum(1)
    present = jnp.broadcast_to(alive, preactivation.shape[1:]).reshape(1, -1).astype(jnp.uint8)
    seen = jnp.zeros((groups, 2**size), jnp.uint8)
    seen = seen.at[jnp.arange(groups)[:, None], numbers].max(present)
    return jnp.where(jnp.isfinite(preactivation).all(), seen, _NOT_FINITE)


def _collect_patterns(kept: list[Array | None]) -> Array:
    seen = relu_codes.combined(jnp.maximum, kept)
    number = seen.sum(1, dtype=jnp.int32).mean()
    return jnp.where((seen == _NOT_FINITE).any(), jnp.nan, number)


_PATTERNS = measures.StageMeasure(relu_codes.each_relu(_patterns, jnp.maximum), _collect_patterns)
