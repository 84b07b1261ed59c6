"""Scores of a network on inputs of its own: SynFlow and Zen-score. They need no data.

Both change the network's weights, and see a batch only for its shape. They read a network stage by
stage, be they those of a space or the blocks of any other network (see `programs`).
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import activations
from jaxnas.proxies import measures
from jaxnas.types import ApplyFn, Array, Batch, Params, Passed, Proxy, Stage, Statistic

_STEP = 0.01
_LARGE = 1e6


def synflow() -> Proxy:
    """Return the logarithm of SynFlow, `log sum_theta theta dR / dtheta`, in nats.

    `R` is the sum of the logits for an image of ones of the network without normalisation, with
    the magnitudes of its parameters; the sum is over weights (matrices and filters). One forward
    and one backward pass of one image. `-inf` where no path leads from the image to a logit.

    Source: Tanaka et al., "Pruning Neural Networks without any Data by Iteratively Conserving
    Synaptic Flow", NeurIPS 2020, arXiv 2006.05467; as a score Abdelfattah et al., ICLR 2021,
    arXiv 2101.08134. `R` grows like a product over layers: where the largest value that a stage
    gives is beyond a million or its inverse, all are divided by it and the logarithm added up, so
    single precision has room for any depth.
    """
    return Proxy("synflow", _flow, jnp.asarray)


def zen() -> Proxy:
    """Return Zen-score, `log E ||f(x) - f(x + 0.01 e)||_1 + sum_l log sigma_l`.

    `x` and `e` are normal images, the weights are drawn anew and normal, `f` is the last map of
    features behind its ReLU (of another activation, the positive part of its input; the norm of an
    example sums over it, the mean is over examples), and `sigma_l^2` the mean variance that a
    normalisation layer takes out. Two forward passes.

    Source: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV
    2021, arXiv 2102.01063, algorithm 1. Differs from the published code: the variance is of this
    batch, not of running statistics after a momentum of 0.1; one draw, where it takes 32.
    """
    return Proxy("zen", _zen_score, jnp.asarray)


def _product(tensor: Array, gradient: Array) -> Array:
    return (tensor * gradient).sum() if tensor.ndim > 1 else jnp.zeros((), tensor.dtype)


_PRODUCT = Statistic(_product, per_example=False)


def _flow(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    magnitudes = jax.tree.map(jnp.abs, params)  # by tensor: jit of the tree compiles for each cell
    image = jax.tree.map(_ones_of_one, batch.inputs)
    outputs: tuple[Array, ...] = (image,)
    scales, passes = [], []
    for stage in activations.stages(apply_fn, magnitudes, image, (_PRODUCT,), normalized=False):
        passed = stage(outputs)
        outputs, scale = _rescaled(passed.outputs)
        scales.append(scale)
        passes.append(passed)
    cotangents: Any = (jnp.ones_like(outputs[0]),)
    total = jnp.zeros(())
    for passed, scale in zip(reversed(passes), reversed(scales), strict=True):
        cotangents, kept = passed.pullback(_divided(cotangents, scale), (_PRODUCT,))
        total += sum(jax.tree.leaves(kept), start=jnp.zeros(()))
    score = jnp.log(total) + jnp.log(jnp.stack(scales)).sum()
    return jnp.where(jnp.isfinite(total), score, jnp.nan)


@jax.jit
def _rescaled(outputs: Any) -> tuple[Any, Array]:
    """Return what a stage gave, an array or several, divided by its scale, and that."""
    values = [own for own in jax.tree.leaves(outputs) if measures.is_floating(own)]
    largest = jnp.stack([own.max() for own in values]).max()
    is_moderate = (largest > 1 / _LARGE) & (largest < _LARGE)
    scale = jnp.where((largest > 0) & ~is_moderate, largest, 1)
    return _divided(outputs, scale), scale


@jax.jit
def _divided(values: Any, scale: Array) -> Any:
    return jax.tree.map(lambda own: own / scale if measures.is_floating(own) else own, values)


def _ones_of_one(inputs: Array) -> Array:
    """Return one example of ones; of tokens, the first example."""
    return jnp.ones_like(inputs[:1]) if measures.is_floating(inputs) else inputs[:1]


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
    if not any(map(measures.is_floating, jax.tree.leaves(inputs))):
        raise ValueError(
            "Zen-score moves its inputs a little: got tokens; score a network of images or vectors."
        )

    def moved(own: Array, by: Array) -> Array:
        return own + _STEP * by if measures.is_floating(own) else own

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
