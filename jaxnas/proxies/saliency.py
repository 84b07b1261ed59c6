"""Scores from the gradient of one batch."""

import jax
import jax.numpy as jnp

from jaxnas import gradients
from jaxnas.kernels import empirical
from jaxnas.proxies import measures
from jaxnas.types import Array, Batch, Params, Proxy, Reading


def grad_norm() -> Proxy:
    """Return the sum over tensors of the norm of the batch gradient.

    Source: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, arXiv
    2101.08134, section 3.2. Differs from MGM by a square root per tensor.
    """
    return Proxy("grad_norm", measures.batch_gradient_squares, _sum_of_norms)


def _sum_of_norms(squares: Array) -> Array:
    return measures.or_nothing(jnp.sqrt(squares).sum(), squares > 0)


def snip() -> Proxy:
    """Return SNIP, the sum over weights of `|theta * dL/dtheta|`.

    How much the loss would change if a weight were cut. Matrices and filters count; scales and
    biases do not. Source: Lee, Ajanthan and Torr, "SNIP", ICLR 2019, arXiv 1810.02340, as a score
    of networks in Abdelfattah et al., ICLR 2021, arXiv 2101.08134, section 3.2.
    """
    return Proxy("snip", _CONNECTIONS, _sum_of_connections)


def _connection(tensor: Array, gradient: Array) -> Array:
    return jnp.abs(tensor * gradient).sum()


def _collect_connections(kept: Params, params: Params, batch: Batch) -> Array:
    """Collect the sums of the matrices and filters, `[L]`."""
    pairs = zip(jax.tree.leaves(kept), jax.tree.leaves(params), strict=True)
    of_weights = [own for own, tensor in pairs if tensor.ndim > 1]
    if not of_weights:
        raise ValueError("snip reads weights, tensors of rank 2 or more: got none.")
    return empirical.stack(of_weights) / batch.labels.size


_CONNECTIONS = measures.GradientMeasure(
    gradients.cross_entropy_cotangent,
    Reading(_connection, per_example=False),
    _collect_connections,
)


def _sum_of_connections(sums: Array) -> Array:
    return measures.or_nothing(sums.sum(), sums > 0)
