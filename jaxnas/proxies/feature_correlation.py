"""MeCo: how far from singular the correlations between the channels of each feature map are."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.proxies import measures
from jaxnas.types import Array, Passed, Proxy


def meco() -> Proxy:
    """Return MeCo, the sum over layers of the least eigenvalue of the channels' correlations.

    Of one example, the first of the batch: the correlation matrix `[C, C]` of the channels of each
    feature map over its pixels. One forward pass, no labels. A layer with at least as many channels
    as pixels adds nothing: its matrix is singular.

    Source: Jiang, Wang and Bie, "MeCo: Zero-Shot NAS with One Data and Single Forward Pass via
    Minimum Eigenvalue of Correlation", NeurIPS 2023. Differs from the published code, which takes
    the outputs of all modules, containers and ReLUs included: here a feature map is the input of a
    ReLU or another activation, once each. Tokens `[T, C]` are pixels.
    """
    return Proxy("meco", _LEAST_EIGENVALUES, jnp.asarray)


def _keep(inputs: Any, passed: Passed, position: int) -> list[Array]:
    return [
        _least_eigenvalue(shown.value, shown.alive)
        for shown in passed.shown
        if shown.kind == "preactivation" and shown.value.ndim > 2
    ]


@jax.jit
def _least_eigenvalue(preactivation: Array, alive: Any) -> Array:
    channels = preactivation[0].reshape(-1, preactivation.shape[-1]).T
    # Half precision has no eigenvalues.
    channels = channels.astype(jnp.promote_types(channels.dtype, jnp.float32))
    if channels.shape[0] >= channels.shape[1]:  # as many rows as the centred pixels' dimensions
        return jnp.where(jnp.isfinite(channels).all(), 0.0, jnp.nan)
    centred = channels - channels.mean(1, keepdims=True)
    norms = jnp.linalg.norm(centred, axis=1, keepdims=True)
    rows = centred / jnp.where(norms > 0, norms, 1)
    least = jnp.linalg.eigvalsh(rows @ rows.T).min()
    return jnp.where(alive, jnp.maximum(least, 0), 0)


def _collect(kept: list[list[Array]]) -> Array:
    of_layers = [own for of_stage in kept for own in of_stage]
    if not of_layers:
        raise ValueError(
            "MeCo reads feature maps with channels, the inputs [B, ..., C] of activations: got a "
            "network without; score a convolutional network, or choose another score."
        )
    return sum(of_layers, start=jnp.zeros(()))


_LEAST_EIGENVALUES = measures.StageMeasure(_keep, _collect)
