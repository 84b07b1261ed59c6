"""SynFlow: how much flows through a network of positive weights.

It changes the network's weights, and sees a batch only for its shape. It reads a network stage by
stage, be they those of a space or the blocks of any other network (see `programs`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import activations, gradients
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy, Statistic, is_floating

_LARGE = 1e6


def synflow() -> Proxy:
    """Return the logarithm of SynFlow, `log sum_theta |theta dR / dtheta|`, in nats.

    `R` is the sum of the logits for an image of ones of the network without normalization, with
    the magnitudes of its parameters; the sum is over weights (matrices and filters). One forward
    and one backward pass of one image. `-inf` where no path leads from the image to a logit.

    Source: Tanaka et al., "Pruning Neural Networks without any Data by Iteratively Conserving
    Synaptic Flow", NeurIPS 2020, arXiv 2006.05467; as a score Abdelfattah et al., ICLR 2021,
    arXiv 2101.08134. `R` grows like a product over layers: where the largest value that a stage
    gives is beyond a million or its inverse, all are divided by it and the logarithm added up, so
    single precision has room for any depth. What float32 cannot hold of a single stage is run again
    in float64.

    Differs from the paper: the logarithm; and magnitudes of the terms, as in the released code,
    which are the terms themselves unless an activation makes one negative.

    Differs from the released code: normalization is left out, where that code keeps it, and its
    networks have biases at their convolutions.

    Raises:
        ValueError: when measured, the flow through a stage is beyond float64.
    """
    return Proxy("synflow", _flow, jnp.asarray)


def _product(tensor: Array, gradient: Array) -> Array:
    weighs = tensor.ndim > 1
    return jnp.abs(tensor * gradient).sum() if weighs else jnp.zeros((), tensor.dtype)


_PRODUCT = Statistic(_product, per_example=False)


def _flow(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    score = _log_flow(apply_fn, params, batch.inputs)
    if isinstance(score, jax.core.Tracer) or jnp.isfinite(score):
        return score
    if not jnp.isfinite(gradients.outputs(apply_fn, params, batch.inputs).logits).all():
        return score
    with jax.enable_x64(True):
        wide = jax.tree.map(_widened, (params, batch.inputs))
        score = _log_flow(apply_fn, *wide).astype(score.dtype)
    if jnp.isnan(score):
        raise ValueError(
            "SynFlow multiplies magnitudes over the layers: got more than float64 holds in one "
            "stage; score a network of smaller weights, or one that offers jaxnas.types.Staged."
        )
    return score


def _log_flow(apply_fn: ApplyFn, params: Params, inputs: Any) -> Array:
    magnitudes = jax.tree.map(jnp.abs, params)  # by tensor: jit of the tree compiles for each cell
    image = jax.tree.map(_ones_of_one, inputs)
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
    values = [leaf for leaf in jax.tree.leaves(outputs) if is_floating(leaf)]
    largest = jnp.stack([value.max() for value in values]).max()
    is_moderate = (largest > 1 / _LARGE) & (largest < _LARGE)
    scale = jnp.where((largest > 0) & ~is_moderate, largest, 1)
    return _divided(outputs, scale), scale


@jax.jit
def _divided(values: Any, scale: Array) -> Any:
    return jax.tree.map(lambda value: value / scale if is_floating(value) else value, values)


def _ones_of_one(inputs: Array) -> Array:
    """Return one example of ones; of tokens, the first example."""
    return jnp.ones_like(inputs[:1]) if is_floating(inputs) else inputs[:1]


def _widened(tensor: Array) -> Array:
    return tensor.astype(jnp.float64) if is_floating(tensor) else tensor
