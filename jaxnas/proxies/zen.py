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
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy, is_floating, wide

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

    def draw(path: Any, leaf: Array) -> Array:
        # By name, because both plans know a tensor by the same one.
        name = zlib.crc32(jax.tree_util.keystr(path).encode())
        return _normal(jax.random.fold_in(weights, name), leaf) if leaf.ndim > 1 else leaf

    inputs = measures.normal_like(images, batch.inputs)
    drawn = jax.tree_util.tree_map_with_path(draw, params)
    moved = _moved(inputs, measures.normal_like(change, batch.inputs))
    distance, logs, has_any = jnp.zeros(()), jnp.zeros(()), False
    given: tuple[tuple[Array, ...], tuple[Array, ...]] = ((inputs,), (moved,))
    for stage in activations.stages(apply_fn, drawn, inputs):
        passed, other = map(stage, given)
        for shown, beside in zip(passed.shown, other.shown, strict=True):
            if jnp.ndim(shown.alive):
                raise ValueError(
                    "Zen-score draws weights for the channels that a network has: got a program "
                    "that computes more of them; use plan='eager'."
                )
            if shown.kind == "preactivation":
                distance = _last_distance(distance, shown.value, beside.value, shown.alive)
                has_any = True
            else:
                logs += _log_deviation(shown.value, shown.alive)
        given = passed.outputs, other.outputs
    if not has_any:
        raise ValueError(
            "Zen-score reads the features behind the last activation: got a network without; score "
            "another network, or choose another score."
        )
    return measures.or_nothing(jnp.log(distance) + logs, distance > 0)


@jax.jit
def _normal(key: Array, like: Array) -> Array:
    return jax.random.normal(key, like.shape, like.dtype)


def _moved(inputs: Any, noise: Any) -> Any:
    if not any(map(is_floating, jax.tree.leaves(inputs))):
        raise ValueError(
            "Zen-score moves its inputs a little: got tokens; score a network of images or vectors."
        )

    def moved(pixels: Array, by: Array) -> Array:
        return pixels + _STEP * by if is_floating(pixels) else pixels

    return jax.tree.map(moved, inputs, noise)


@jax.jit
def _last_distance(before: Array, preactivation: Array, moved: Array, alive: Any) -> Array:
    """Return the mean over examples of the 1-norm of what a move changes behind a ReLU.

    Behind one that is not alive it is `before`, that of the last one that was.
    """
    change = jnp.abs(jax.nn.relu(preactivation) - jax.nn.relu(moved))
    return jnp.where(alive, change.sum() / preactivation.shape[0], before)


@jax.jit
def _log_deviation(variance: Array, alive: Any) -> Array:
    variance = wide(variance)
    present = jnp.broadcast_to(alive, variance.shape)
    count = present.sum(dtype=variance.dtype)
    mean = jnp.where(present, variance, 0).sum() / jnp.maximum(count, 1)
    return jnp.where(mean > 0, jnp.log(jnp.where(mean > 0, mean, 1)) / 2, 0)
