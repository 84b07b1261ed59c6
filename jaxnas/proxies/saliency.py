"""Scores from the gradient of one batch."""

import jax.numpy as jnp

from jaxnas.proxies import measures
from jaxnas.types import Array, Proxy


def grad_norm() -> Proxy:
    """Return the sum over tensors of the norm of the batch gradient.

    Source: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, arXiv
    2101.08134, section 3.2. Differs from MGM by a square root per tensor.
    """
    return Proxy("grad_norm", measures.batch_gradient_squares, _sum_of_norms)


def _sum_of_norms(squares: Array) -> Array:
    return measures.or_nothing(jnp.sqrt(squares).sum(), squares > 0)
