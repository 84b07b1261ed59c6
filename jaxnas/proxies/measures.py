"""The expensive halves of proxies: proxies that share a measure share its cost."""

import jax
import jax.numpy as jnp

from jaxnas import gradients
from jaxnas.kernels import empirical
from jaxnas.types import ApplyFn, Array, Batch, Params


def tensor_grams(
    apply_fn: ApplyFn, params: Params, batch: Batch, key: Array
) -> empirical.TensorGrams:
    """Measure the Gram matrix of each tensor's per-example loss gradients."""
    return empirical.tensor_grams(apply_fn, params, batch)


def batch_gradient_squares(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    """Measure the squared norm of each tensor's gradient of the mean loss, `[L]`."""
    tensors = jax.tree.leaves(gradients.loss_gradient(apply_fn, params, batch))
    return empirical.stack([_square(tensor) for tensor in tensors])


def num_params(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    """Count the parameters."""
    return jnp.asarray(float(sum(tensor.size for tensor in jax.tree.leaves(params))))


def or_nothing(value: Array, alive: Array) -> Array:
    """Return `value`, but -inf where nothing is alive; nan stays nan."""
    return jnp.where(alive.any() | jnp.isnan(value), value, -jnp.inf)


@jax.jit
def _square(tensor: Array) -> Array:
    return jnp.square(tensor).sum()
