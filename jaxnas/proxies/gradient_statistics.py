"""Scores from how the gradients of a weight vary between examples: ZiCo and GradSign.

Both are statistics of per-example gradients of the cross-entropy: they need labels, and share one
forward and one backward pass with each other and with the scores of `knas` and `saliency`. Weights
are matrices and filters; scales and biases do not count, as published.

Where the normalization couples examples (`batch`), the gradient of an example is its contribution
to the gradient of the whole batch. In `instance` mode, and for a network without normalization, it
is that of the example alone. What is smaller than a millionth of the largest gradient of the tensor
counts as zero: of `zico` the deviation of a weight, of `gradsign` its gradient. So does a tensor
beside the network's largest. Both scores are blind to size and would count rounding.
"""

import functools

import jax.numpy as jnp

from jaxnas import gradients
from jaxnas.proxies import measures
from jaxnas.proxies.saliency import collect_weights
from jaxnas.types import Array, Proxy, Statistic

# Gradients that are zero by structure, such as those of a filter in front of a normalization that
# sees a constant image, come out as rounding.
_NEGLIGIBLE = 8 * float(jnp.finfo(jnp.float32).eps)


def zico(*, parts: int = 2) -> Proxy:
    """Return ZiCo, `sum_l log sum_theta mean|g| / std g` over the gradients of mini-batches.

    Source: Li et al., "ZiCo: Zero-Shot NAS via Inverse Coefficient of Variation on Gradients", ICLR
    2023, arXiv 2301.11300, as in its code: `l` over convolutions and linear layers, the standard
    deviation over mini-batches (not corrected for their number) of gradients with their sign.
    Weights without deviation are left out, and layers of nothing else; -inf if that leaves none. So
    are those whose deviation rounding could make, also where their gradients are large. Of
    two mini-batches a weight adds `(|a| + |b|) / |a - b|`, which has heavy tails, and the sum over
    layers partly counts them. Larger is better.

    Differs from the released code: it leaves out deviations of exactly 0 alone, and the few weights
    between weigh much (four of all weights of a network 2.09 of the score). And here mini-batches
    are consecutive equal parts of one batch (a rest is left out), of one forward and one backward
    pass. With coupled examples they also share the statistics of the batch, where those released
    have each their own.

    Args:
        parts: number of mini-batches, at least 2 and at most the batch size; `zico` is of 2, and
            more are named `zico_3` and so on.

    Raises:
        ValueError: fewer than 2 parts; and when measured, fewer examples than parts.
    """
    if parts < 2:
        raise ValueError(f"ZiCo needs a deviation between parts: got parts={parts}; use 2 or more.")
    return Proxy("zico" if parts == 2 else f"zico_{parts}", _variation(parts), _sum_of_logs)


def gradsign() -> Proxy:
    """Return GradSign, `sum_theta |sum_i sign(g_i)|`: how far examples agree on each weight's way.

    Source: Zhang and Jia, "GradSign: Model Performance Inference with Theoretical Insights", ICLR
    2022, arXiv 2110.08616. Larger is better. At most weights times examples: compare batches of one
    size only.

    Differs from the released code: it sends examples through one by one, so that its normalization
    is the `instance` mode; where it takes the mean over the weights of all candidates, this is the
    sum over those that a gradient reaches.
    """
    return Proxy("gradsign", _AGREEMENT, _sum_of_agreements)


@functools.cache
def _variation(parts: int) -> measures.GradientMeasure:
    """Return the one measure for a number of parts: equal measures share their cost."""
    return measures.GradientMeasure(
        gradients.loss_cotangent,
        Statistic(functools.partial(_inverse_variation, parts)),
        collect_weights,
    )


def _inverse_variation(parts: int, tensor: Array, per_example: Array) -> Array:
    """Return `[2]`: the sum over a tensor of `mean|g| / std g`, and the largest `|g|`."""
    count = per_example.shape[0] // parts
    if count == 0:
        raise ValueError(
            f"ZiCo needs an example for each of {parts} parts: got a batch of "
            f"{per_example.shape[0]}; use a larger batch or fewer parts."
        )
    whole = per_example[: parts * count]
    means = whole.reshape(parts, count, *tensor.shape).mean(1)
    largest = jnp.abs(means).max()
    scaled = means / jnp.where(largest > 0, largest, 1)
    deviation = scaled.std(0)
    varies = deviation > _NEGLIGIBLE
    ratio = jnp.abs(scaled).mean(0) / jnp.where(varies, deviation, 1)
    return jnp.stack([jnp.where(varies, ratio, 0).sum(), largest])


def _sum_of_logs(kept: Array) -> Array:
    sums, largest = kept.T
    counted = _is_reached(largest) & (sums > 0)
    return _total(jnp.log(jnp.where(counted, sums, 1)), counted, largest)


def _agreement(tensor: Array, per_example: Array) -> Array:
    """Return `[2]`: the sum over a tensor of `|sum_i sign(g_i)|`, and the largest `|g_i|`."""
    measures.compared(len(per_example), "gradsign")
    magnitudes = jnp.abs(per_example)
    largest = magnitudes.max()
    signs = jnp.where(magnitudes > _NEGLIGIBLE * largest, jnp.sign(per_example), 0)
    return jnp.stack([jnp.abs(signs.sum(0)).sum(), largest])


def _sum_of_agreements(kept: Array) -> Array:
    agreed, largest = kept.T
    return _total(agreed, _is_reached(largest), largest)


def _is_reached(largest: Array) -> Array:
    """Return which tensors a gradient reaches, given the largest of each `[L]`."""
    return largest > _NEGLIGIBLE * largest.max()


def _total(terms: Array, counted: Array, largest: Array) -> Array:
    """Return the sum of the counted terms: -inf for none, nan if a gradient is not finite."""
    total = measures.or_nothing(jnp.where(counted, terms, 0).sum(), counted)
    return jnp.where(jnp.isfinite(largest).all(), total, jnp.nan)


_AGREEMENT = measures.GradientMeasure(
    gradients.loss_cotangent, Statistic(_agreement), collect_weights
)
