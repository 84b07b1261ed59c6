"""NASWOT: how differently the ReLUs of a network see the examples."""

import jax.numpy as jnp

from jaxnas.proxies import measures, relu_codes
from jaxnas.types import Array, Proxy


def naswot() -> Proxy:
    """Return NASWOT, `log |det K|` of the kernel `K_ij = number of ReLUs in which i and j agree`.

    `K` is `[B, B]` over all units of all live ReLUs. One forward pass. `-inf` where two examples
    have one code.

    Source: Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training", ICML
    2021, arXiv 2006.04647, equation 2.

    Differs from the released code: it hooks each module whose class is called something with ReLU,
    some of which hold a ReLU and count it twice, and dead edges (see `relu_codes`); here each live
    ReLU counts once.
    """
    return Proxy("naswot", relu_codes.AGREEMENT, _log_determinant)


def _log_determinant(agreement: Array) -> Array:
    measures.compared(len(agreement), "naswot")
    return jnp.linalg.slogdet(agreement)[1]
