"""Zen-score: how far the features of a network of random weights move under noise.

It changes the network's weights, and sees a batch only for its shape. It reads a network stage by
stage, be they those of a space or the blocks of any other network (see `programs`).
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import activations
from jaxnas.proxies import measures
from jaxnas.types import ApplyFn, Array, Batch, Params, Passed, Proxy, Stage, is_floating

_STEP = 0.01


def zen() -> Proxy:
    """Return Zen-score, `log E ||f(x) - f(x + 0.01 e)||_1 + sum_l log sigma_l`.

    `x` and `e` are normal images, the weights are drawn anew and normal, `f` is the last map of
    features behind its ReLU (of another activation, the positive part of its input; the norm of an
    example sums over it, the mean is over examples), and `sigma_l^2` the mean variance that a
    normalization layer takes out. Two forward passes.

    Source: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV
    2021, arXiv 2102.01063, algorithm 1.

    Differs from the released code: dead edges and their variances do not count; the variance is of
    this batch, not of running statistics after a momentum of 0.1; one draw, where it takes 32.
    """
    return Proxy("zen", _zen_score, jnp.asarray)


def _zen_score(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    weights, images, change = jax.random.split(key, 3)

    def draw(path: Any, own: Array) -> Array:
        # By name, because both plans know a tensor by the same one.
        name = zlib.crc32(jax.tree_util.keystr(path).encode())
        return _normal(jax.random.fold_in(weights, name), own) if own.ndim > 1 else own

    inputs = measures.normal_like(images, batch.inputs)
    drawn = jax.tree_util.tree_map_with_path(draw, params)
    stages = activations.stages(apply_fn, drawn, inputs)
    features, logs = _last_features(stages, inputs)
    moved, _ = _last_features(stages, _moved(inputs, measures.normal_like(change, batch.inputs)))
    distance = jnp.abs(features - moved).sum() / features.shape[0]
    return measures.or_nothing(jnp.log(distance) + logs, distance > 0)


@jax.jit
def _normal(key: Array, like: Array) -> Array:
    return jax.random.normal(key, like.shape, like.dtype)


def _moved(inputs: Any, noise: Any) -> Any:
    if not any(map(is_floating, jax.tree.leaves(inputs))):
        raise ValueError(
            "Zen-score moves its inputs a little: got tokens; score a network of images or vectors."
        )

    def moved(own: Array, by: Array) -> Array:
        return own + _STEP * by if is_floating(own) else own

    return jax.tree.map(moved, inputs, noise)


def _last_features(stages: list[Stage], inputs: Array) -> tuple[Array, Array]:
    """Return the last map behind a ReLU, and the sum of the logarithms of all deviations."""
    features, logs = None, jnp.zeros(())
    given: tuple[Array, ...] = (inputs,)
    for stage in stages:
        passed: Passed = stage(given)
        for shown in passed.shown:
            if shown.kind == "preactivation":
                features = jax.nn.relu(shown.value)
            else:
                logs += _log_deviation(shown.value, shown.alive)
        given = passed.outputs
    if features is None:
        raise ValueError(
            "Zen-score reads the features behind the last activation: got a network without; score "
            "another network, or choose another score."
        )
    return features, logs


@jax.jit
def _log_deviation(variance: Array, alive: Array) -> Array:
    mean = variance.mean()
    return jnp.where(alive & (mean > 0), jnp.log(jnp.where(mean > 0, mean, 1)) / 2, 0)
