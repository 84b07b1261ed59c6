"""Scores from how the outputs change with the inputs: Jacobian covariance and EPE-NAS.

`J_n` is the gradient of the summed logits with respect to image `n`, one forward and one backward
pass for all. The scores read the correlations between the rows `J_n`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import gradients, tasks
from jaxnas.proxies import measures
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy, is_floating

_EPSILON = 1e-5
_MANY_CLASSES = 100


def jacob_cov() -> Proxy:
    """Return the Jacobian covariance score, `-sum_i log(v_i + k) + 1 / (v_i + k)`.

    `v` are the eigenvalues of the correlation matrix `[B, B]` of the rows, `k = 1e-5`: largest, at
    about `-B`, where no two rows are correlated. No labels, two examples. `-inf` where no gradient
    reaches an image. Source: Mellor et al., "Neural Architecture Search without Training", arXiv
    2006.04647, version 1; Abdelfattah et al., ICLR 2021, arXiv 2101.08134 (`jacob_cov`). The size
    of the batch sets the scale: compare batches of one size only.
    """
    return Proxy("jacob_cov", _measure, _eigenvalue_score)


def epe_nas() -> Proxy:
    """Return EPE-NAS, how correlated the rows of each class are.

    With `E_c = sum_ij log(|corr_ij| + 1e-5)` over the examples of class `c`: `sum_c |E_c|`, or for
    more than 100 classes the sum of `|E_c / n_c - E_d / n_d|` over pairs of classes, divided by the
    number of classes. Needs labels, several examples of each class: `-inf` where every example is
    the only one of its class. Source: Lopes, Alirezazadeh and Alexandre, "EPE-NAS", ICANN 2021,
    arXiv 2102.08099, as in its code.

    Differs from the released code: its search script never passes the number of classes on, so that
    it takes the first form for any number (109.7 where this is 9.29, of 120 classes).
    """
    return Proxy("epe_nas", _measure, _class_score)


def _measure(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> dict[str, Any]:
    """Measure a factor of the covariances of the rows, with the classes `[B, K]` of the images."""
    if not all(map(is_floating, jax.tree.leaves(batch.inputs))):
        raise ValueError(
            "The score differentiates by the inputs: got tokens; score a network of images or "
            "vectors, or choose another score."
        )

    def logits(inputs: Array) -> Array:
        return gradients.outputs(apply_fn, params, inputs).logits

    given, pullback = jax.vjp(logits, batch.inputs)
    (of_inputs,) = pullback(jnp.ones_like(given))
    rows = jnp.concatenate(
        [leaf.reshape(len(given), -1) for leaf in jax.tree.leaves(of_inputs)], axis=1
    )
    classes: Any = batch.labels
    if not isinstance(classes, tasks.Targets):
        classes = jax.nn.one_hot(classes, given.shape[-1], dtype=given.dtype)
    return {"factor": _factor(rows), "classes": classes}


@jax.jit
def _factor(rows: Array) -> Array:
    """Return `R [B, B]`, so that `R^T R` are the covariances of the rows `[B, ...]`.

    Each step of Gram and Schmidt's takes one direction from all rows. Small eigenvalues of the
    covariances are squares of what float32 holds; the covariances themselves would round them off.
    """
    flat = rows.reshape(rows.shape[0], -1)
    # Only ratios are read; without this the products of small numbers vanish.
    largest = jnp.abs(flat).max()
    flat /= jnp.where(largest > 0, largest, 1)

    def take(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        left, factor = state
        norm = jnp.linalg.norm(left[step])
        unit = left[step] / jnp.where(norm > 0, norm, 1)
        along = jnp.matmul(left, unit, precision="highest")
        return left - along[:, None] * unit[None], factor.at[step].set(along)

    centered = flat - flat.mean(1, keepdims=True)
    factor = jnp.zeros((len(flat), len(flat)), flat.dtype)
    return jax.lax.fori_loop(0, len(flat), take, (centered, factor))[1]


def _correlation(factor: Array) -> tuple[Array, Array]:
    """Return the correlations, 0 with a row of zeros, and whether there is any other row."""
    deviations = jnp.linalg.norm(factor, axis=0)
    units = factor / jnp.where(deviations > 0, deviations, 1)[None]
    return jnp.where(jnp.isnan(deviations).any(), jnp.nan, units.T @ units), deviations > 0


def _eigenvalue_score(measured: dict[str, Array]) -> Array:
    measures.compared(len(measured["factor"]), "jacob_cov")
    correlation, alive = _correlation(measured["factor"])
    shifted = jnp.maximum(jnp.linalg.eigvalsh(correlation), 0) + _EPSILON
    return measures.or_nothing(-(jnp.log(shifted) + 1 / shifted).sum(), alive)


def _class_score(measured: dict[str, Array]) -> Array:
    measures.compared(len(measured["factor"]), "epe_nas")
    correlation, alive = _correlation(measured["factor"])
    classes = tasks.class_numbers(measured["classes"], "epe_nas")
    logs = jnp.log(jnp.abs(correlation) + _EPSILON)
    of_class = jnp.einsum("ik,ij,jk->k", classes, logs, classes)
    counts = classes.sum(0)
    alive &= (counts > 1).any()
    if classes.shape[1] <= _MANY_CLASSES:
        return measures.or_nothing(jnp.abs(of_class).sum(), alive)
    means = of_class / jnp.maximum(counts, 1)
    there = counts > 0
    apart = jnp.abs(means[:, None] - means[None, :]) * there[:, None] * there[None, :]
    return measures.or_nothing(apart.sum() / there.sum(), alive)
