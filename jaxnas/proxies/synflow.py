"""SynFlow: how much flows through a network of positive weights.

It changes the network's weights, and sees a batch only for its shape. It reads a network stage by
stage; one that does not show stages (`types.Staged`) is one stage, normalization included.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import activations, gradients
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy, Statistic


def synflow() -> Proxy:
    """Return the logarithm of SynFlow, `log sum_theta |theta dR / dtheta|`, in nats.

    `R` is the sum of the logits for an image of ones of the network without normalization, with
    the magnitudes of its parameters; the sum is over weights (matrices and filters). One forward
    and one backward pass of one image. `-inf` where no path leads from the image to a logit.

    Source: Tanaka et al., "Pruning Neural Networks without any Data by Iteratively Conserving
    Synaptic Flow", NeurIPS 2020, arXiv 2006.05467; as a score Abdelfattah et al., ICLR 2021,
    arXiv 2101.08134. `R` grows like a product over layers: what a stage gives is divided by its
    largest value and the logarithm added up, so single precision has room for any depth. A network
    that shows no stages is one stage; what float32 cannot hold is run again in float64.

    Differs from the paper: the logarithm; and magnitudes of the terms, as in the released code,
    which are the terms themselves unless normalization or an activation makes one negative.

    Differs from the released code: normalization is left out of a network that shows its stages,
    where that code keeps it, and its networks have biases at their convolutions.

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
        wide = jax.tree.map(lambda tensor: tensor.astype(jnp.float64), (params, batch.inputs))
        score = _log_flow(apply_fn, *wide).astype(score.dtype)
    if jnp.isnan(score):
        raise ValueError(
            "SynFlow multiplies magnitudes over the layers: got more than float64 holds in one "
            "stage; score a network of smaller weights, or one that offers jaxnas.types.Staged."
        )
    return score


def _log_flow(apply_fn: ApplyFn, params: Params, inputs: Array) -> Array:
    magnitudes = jax.tree.map(jnp.abs, params)  # by tensor: jit of the tree compiles for each cell
    floating = jnp.issubdtype(inputs.dtype, jnp.floating)
    image = jnp.ones_like(inputs[:1], None if floating else jnp.result_type(float))
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
    """Return what a stage gave, an array or several, divided by its largest value, and that."""
    largest = jnp.stack([own.max() for own in jax.tree.leaves(outputs)]).max()
    scale = jnp.where(largest > 0, largest, 1)
    return _divided(outputs, scale), scale


@jax.jit
def _divided(values: Any, scale: Array) -> Any:
    return jax.tree.map(lambda own: own / scale, values)
