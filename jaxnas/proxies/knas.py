"""KNAS: the kernel of per-example gradients, and what it is made of.

Sources: Xu et al., "KNAS: Green Neural Architecture Search", ICML 2021, arXiv 2111.13293 (MGM), and
its earlier version, "A Gradient-based Kernel Approach for Efficient Network Architecture Search",
ICLR 2021 submission (gradient values and gradient correlations).

With `g_i` the loss gradient of example `i` with respect to one tensor, `G_ij = <g_i, g_j>`:

    MGM = (1/n^2) sum_ij G_ij = V/n + (1 - 1/n) O = || (1/n) sum_i g_i ||^2

where V is the mean of the diagonal (values) and O that of the rest. At initialization, with tens of
examples, V/n is nearly all of MGM and O is not reproducible between draws: see `decomposition`.

Scores are taken per tensor and aggregated: `sum`, `mean` over the tensors that a gradient reaches,
or `log_sum` (sum of logarithms). They are `-inf` where no gradient reaches any tensor.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr

from jaxnas import gram
from jaxnas.kernels.empirical import TensorGrams
from jaxnas.proxies import measures
from jaxnas.proxies.measures import or_nothing
from jaxnas.types import Array, Proxy

Aggregate = Literal["sum", "mean", "log_sum"]
Similarity = Literal["cosine", "pearson"]

# Gradients that are zero by structure (a bias in front of a normalization) come out as rounding.
_NEGLIGIBLE = float(jnp.finfo(jnp.float32).eps) ** 2


def mgm(*, aggregate: Aggregate = "sum") -> Proxy:
    """Return the mean of the Gram matrix, MGM (ICML version, section 3).

    Computed as the squared norm of the batch gradient: the same number by one backward pass. With
    batch-statistics normalization the gradient is that of the coupled batch; `instance` mode is
    what the published code trains (batch size 1).
    """
    return Proxy(
        _named("mgm", aggregate),
        measures.batch_gradient_squares,
        functools.partial(_aggregate, how=_checked(aggregate)),
    )


def gradient_values(*, aggregate: Aggregate = "sum") -> Proxy:
    """Return V, the mean squared norm of per-example gradients (ICLR version: gradient values)."""
    return _per_tensor("gradient_values", gram.diagonal_mean, aggregate)


def offdiagonal(*, aggregate: Literal["sum", "mean"] = "sum") -> Proxy:
    """Return O, the mean inner product of the gradients of different examples.

    Unbiased for `|| E g ||^2`, unlike MGM; may be negative, so `log_sum` is refused.
    """
    return _per_tensor(
        "offdiagonal", gram.offdiagonal_mean, _signed("offdiagonal", aggregate), compares=True
    )


def split_half(*, aggregate: Literal["sum", "mean"] = "sum") -> Proxy:
    """Return the inner product of the mean gradients of two halves of the batch.

    Unbiased for `|| E g ||^2`: what the published code would be without its centring.
    """
    return _per_tensor(
        "split_half", gram.split_half_mean, _signed("split_half", aggregate), compares=True
    )


def gradient_correlation(*, similarity: Similarity = "cosine", per_tensor: bool = True) -> Proxy:
    """Return R, the mean correlation of the gradients of two examples (ICLR version).

    Args:
        similarity: `cosine`, or `pearson`: each gradient is centered over its coordinates first.
        per_tensor: mean over tensors of each tensor's R; otherwise R of the whole gradient.
    """
    if similarity not in ("cosine", "pearson"):
        raise ValueError(f"Unknown similarity {similarity!r}: use cosine or pearson.")
    name = "gradient_correlation" + ("" if similarity == "cosine" else "_pearson")
    name += "" if per_tensor else "_global"
    pearson = similarity == "pearson"
    reduce = functools.partial(_correlation, name, pearson=pearson, per_tensor=per_tensor)
    return Proxy(name, measures.tensor_grams, reduce)


def unified_kernel(*, aggregate: Aggregate = "sum") -> Proxy:
    """Return values x correlations per tensor, `(mean_i ||g_i||)^2 R` (ICLR version).

    A reading: the submission's formula is not public in full. Pair by pair the product value x
    value x correlation is `<g_i, g_j>` itself and its mean is MGM; this is the product of means.
    """
    return _per_tensor("unified_kernel", _values_times_correlation, aggregate, compares=True)


def gradient_diversity(*, aggregate: Literal["sum", "mean"] = "sum") -> Proxy:
    """Return the spectral entropy of the gradient correlations of each weight (in nats).

    `sum_l H(eig(C_l) / B)`, with `C_l` the cosines of layer `l`: how many directions the examples
    pull each layer in. Ours: the "correlations" of the ICLR version, measured layer by layer. A sum
    over layers partly counts layers: read it beside the partial correlation given #params. The mean
    is over the weights that a gradient reaches, so that depth does not count.
    """
    name = _named("gradient_diversity", _signed("gradient_diversity", aggregate))
    reduce = functools.partial(_diversity, how=aggregate)
    return Proxy(name, measures.tensor_grams, reduce)


def layer_balance() -> Proxy:
    """Return the entropy over weights of their share of the gradient norm (in nats).

    `H(s_l / sum s)`, `s_l = sqrt(tr G_l)`: the logarithm of an effective number of layers that
    receive gradient. Ours: the "values" of the ICLR version, as shares instead of a sum.
    """
    return Proxy("layer_balance", measures.tensor_grams, _balance)


def layer_evenness() -> Proxy:
    """Return `layer_balance` less the logarithm of the number of weights that get a gradient.

    `H(s_l / sum s) - log L`, in nats: 0 where all layers get the same share of the gradient norm,
    minus the divergence of the shares from that. Ours: `layer_balance` without its count of layers.
    By itself it ranks little; the aggregate `quintet` has it, so that depth alone decides nothing.
    """
    return Proxy("layer_evenness", measures.tensor_grams, _evenness)


class Decomposition(NamedTuple):
    """The parts of MGM, summed over tensors: `mgm = values / n + (1 - 1/n) * offdiagonal`.

    `diagonal_share` is `values / (n * mgm)`: 1 where MGM holds no correlation between examples.
    """

    mgm: Array
    values: Array
    offdiagonal: Array
    diagonal_share: Array


def decomposition(grams: TensorGrams) -> Decomposition:
    """Return the parts of MGM of a network, given its `empirical.tensor_grams`."""
    whole = grams.gram.sum(0)
    mean, values = gram.mean(whole), gram.diagonal_mean(whole)
    share = values / (whole.shape[0] * mean)
    return Decomposition(mean, values, gram.offdiagonal_mean(whole), share)


def _per_tensor(
    name: str, statistic: Callable[[Array], Array], aggregate: Aggregate, *, compares: bool = False
) -> Proxy:
    """Return the proxy that aggregates a statistic of each tensor's Gram matrix."""
    _checked(aggregate)

    def reduce(grams: TensorGrams) -> Array:
        if compares:
            measures.compared(grams.gram.shape[-1], name)
        alive = _alive(jax.vmap(jnp.trace)(grams.gram))
        return _combine(jax.vmap(statistic)(grams.gram), alive, aggregate)

    return Proxy(_named(name, aggregate), measures.tensor_grams, reduce)


def _aggregate(values: Array, how: Aggregate) -> Array:
    return _combine(values, _alive(values), how)


def _combine(values: Array, alive: Array, how: Aggregate) -> Array:
    if how == "log_sum":
        combined = jnp.where(alive, jnp.log(jnp.where(alive, values, 1)), 0).sum()
    else:
        combined = values.sum()
    if how == "mean":
        combined = combined / jnp.maximum(alive.sum(), 1)
    return or_nothing(combined, alive)


def _correlation(name: str, grams: TensorGrams, *, pearson: bool, per_tensor: bool) -> Array:
    measures.compared(grams.gram.shape[-1], name)
    alive = _alive(jax.vmap(jnp.trace)(grams.gram))
    products, sums, sizes = grams.gram, grams.coordinate_sum, jnp.where(alive, grams.size, 0)
    if not per_tensor:
        products, sums, sizes = products.sum(0)[None], sums.sum(0)[None], sizes.sum()[None]
    if pearson:
        products = jax.vmap(gram.center_coordinates)(products, sums, sizes)
        # A tensor of one coordinate has nothing left, but for rounding of either sign.
        products = jnp.where((sizes > 1)[:, None, None], products, 0)
    correlations = jax.vmap(gram.cosine_mean)(products)
    if not per_tensor:
        return or_nothing(correlations[0], alive)
    return _combine(jnp.where(alive, correlations, 0), alive, "mean")


def _values_times_correlation(product: Array) -> Array:
    norms = jnp.sqrt(jnp.diagonal(product))
    return jnp.square(norms.mean()) * gram.cosine_mean(product)


def _diversity(grams: TensorGrams, how: Aggregate) -> Array:
    measures.compared(grams.gram.shape[-1], "gradient_diversity")
    alive = _alive_weights(grams)
    entropies = jax.vmap(lambda leaf: gram.spectral_entropy(gram.correlation_matrix(leaf)))(
        grams.gram
    )
    return _combine(jnp.where(alive, entropies, 0), alive, how)


def _evenness(grams: TensorGrams) -> Array:
    number = _alive_weights(grams).sum()
    return _balance(grams) - jnp.log(jnp.maximum(number, 1))


def _alive_weights(grams: TensorGrams) -> Array:
    return _alive(jax.vmap(jnp.trace)(grams.gram)) & grams.is_weight


def _balance(grams: TensorGrams) -> Array:
    alive = _alive_weights(grams)
    traces = jax.vmap(jnp.trace)(grams.gram)
    norms = jnp.where(alive, jnp.sqrt(traces), 0)
    shares = norms / jnp.where(norms.sum() == 0, 1, norms.sum())
    return or_nothing(entr(shares).sum(), alive)


def _alive(traces: Array) -> Array:
    """Return which tensors a gradient reaches, given their squared gradient norms `[L]`.

    What is not finite counts as alive, so that the score is not finite either.
    """
    finite = jnp.isfinite(traces)
    return ~finite | (traces > _NEGLIGIBLE * jnp.where(finite, traces, 0).max())


def _signed(name: str, aggregate: Aggregate) -> Aggregate:
    if aggregate == "log_sum":
        raise ValueError(f"{name} can be negative and has no logarithm: use sum or mean.")
    return _checked(aggregate)


def _checked(aggregate: Aggregate) -> Aggregate:
    if aggregate not in ("sum", "mean", "log_sum"):
        raise ValueError(f"Unknown aggregate {aggregate!r}: use sum, mean or log_sum.")
    return aggregate


def _named(name: str, aggregate: Aggregate) -> str:
    return name if aggregate == "sum" else f"{name}_{aggregate}"
