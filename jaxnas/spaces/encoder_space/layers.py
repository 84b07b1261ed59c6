"""The operations that an encoder has beside those of other transformers."""

import jax
import jax.numpy as jnp

from jaxnas.network import Weights, layers, operation
from jaxnas.spaces.transformer.layers import activate, dense
from jaxnas.types import Array

JOINS = ("sum", "mean", "norm", "gate")
POOLINGS = ("cls", "mean")


@operation
def join(
    weights: Weights, usual: Array, chosen: Array, *earlier: Array, how: str, gate: float
) -> Array:
    """Return what enters a layer, `[B, T, C]`: its usual input, and outputs of earlier layers.

    Args:
        weights: of the operation: a gate for each of S earlier layers.
        usual: `[B, T, C]`.
        chosen: `int32[N, S]`, row by row 1 at the layer that the output is of; 0 cuts it off.
        *earlier: N of `[B, T, C]`.
        how: one of `JOINS`.
        gate: initial value of the gates.
    """
    each = jnp.stack(earlier, 1)
    if how == "gate":
        gates = {"gate": weights.tensor("gate", chosen.shape[1:], value=gate)}
        placed = jnp.einsum("ns,bnth->bsth", chosen.astype(each.dtype), each)
        return usual + weights.layer(layers.Readable(_gated), gates, placed)
    total = usual + jnp.einsum("n,bnth->bth", chosen.sum(1).astype(each.dtype), each)
    count = chosen.sum()
    if how == "mean":
        return total / (1 + count)
    if how == "norm":
        return jnp.where(count > 0, _with_moments_of(usual, total), usual)
    return total


def _gated(tensors: layers.Tensors, x: Array) -> Array:
    return jnp.einsum("s,bsth->bth", tensors["gate"], x)


def _with_moments_of(usual: Array, total: Array) -> Array:
    mean, deviation = usual.mean(-1, keepdims=True), usual.std(-1, keepdims=True)
    centered = total - total.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    return mean + deviation * centered * jax.lax.rsqrt(variance + 1e-12)


@operation
def pooler(weights: Weights, x: Array, present: Array, *, how: str, dropout: float) -> Array:
    """Return the features `[B, C]` of tokens `[B, T, C]`; `present` `[B, T]` is 0 for padding."""
    if how == "cls":
        pooled = x[:, 0]
    else:
        shares = present.astype(x.dtype)[..., None]
        pooled = (x * shares).sum(1) / shares.sum(1)
    features = activate(weights, dense(weights, pooled, x.shape[-1]), ["tanh"])
    return weights.dropout(features, dropout)
