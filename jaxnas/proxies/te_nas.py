"""TE-NAS: in how many linear regions the examples lie; its kernel is `ntk.ntk_condition`.

Source: Chen, Gong and Wang, "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021,
arXiv 2102.11535. Its score is `te_nas` of `aggregate.RECIPES`, the mean of two ranks.
"""

import jax.numpy as jnp

from jaxnas.proxies import measures, relu_codes
from jaxnas.types import Array, Proxy


def linear_regions() -> Proxy:
    """Return in how many linear regions the examples lie: the number of different codes.

    Source: TE-NAS, section 3.1.2. At most the size of the batch, which all live networks of a usual
    width reach: a tie, and so no information. Published on networks of one channel and one cell
    with thousands of small images, where it does tell.

    Differs from the released code: dead edges do not count (see `relu_codes`), and the network is
    the one that is given.
    """
    return Proxy("linear_regions", relu_codes.AGREEMENT, _distinct)


def _distinct(agreement: Array) -> Array:
    measures.compared(len(agreement), "linear_regions")
    same = agreement == jnp.diag(agreement)[:, None]
    first = same.argmax(1) == jnp.arange(same.shape[0])
    number = first.sum(dtype=agreement.dtype)
    return jnp.where(jnp.isnan(agreement).any(), jnp.nan, jnp.where(number > 1, number, -jnp.inf))
