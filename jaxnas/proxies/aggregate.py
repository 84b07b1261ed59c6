"""Scores of a whole pool from several of its numbers: HNAS' hybrid score, its bounds, and ranks.

Sources: Shu, Dai, Wu and Low, "Unifying and Boosting Gradient-Based Training-Free Neural
Architecture Search", NeurIPS 2022, arXiv 2201.09785 (hybrid score and bounds); Lee and Ham,
"AZ-NAS", CVPR 2024, arXiv 2403.19232 (`log_rank`).

For HNAS an architecture has a metric `M` (gradient norm, SNIP, |GraSP|, or the root of the mean
NTK trace; larger is better) and the condition number `kappa` of its NTK, itself and not its
negative. One whose `M` or `kappa` is not finite or not positive is excluded: its score is `-inf`,
its bound `inf`. How many those are is the caller's to count and to report.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check

_FINITE = np.finfo(np.float64).max


def hybrid_score(
    metric: ArrayLike, condition: ArrayLike, *, tau: float, mu: float
) -> NDArray[np.float64]:
    """Return `-S`, `S = k / m + mu |m^2 - tau^2|`, `float64[A]`; larger is better.

    `m` and `k` are the ranks of `M` and `kappa` among those that are usable, divided by their
    number: from `1 / A` to 1. So `tau` is the share of the pool whose `M` is smaller than the one
    that is aimed at, `mu` weighs that target, and both mean the same for every metric. The target
    keeps networks with exploding gradients from being the best. `mu = 0` orders by `m / k`; a large
    `mu` by `M` with `tau >= 1` (all such are one order), by `-M` with `tau = 0`.

    Source: HNAS, the unified objective `kappa / M + mu F(M^2 - nu)` with `F = |.|` as in the
    released code. Differs from both by the ranks. Magnitudes are spread over orders: where the
    largest, or the 99th percentile, has an `m` of 1, the best networks of NAS-Bench-201 have .04 to
    .09, and a search over `tau` hardly sees them (docs/results/hnas.md has both).

    Args:
        metric: `[A]`, `M`.
        condition: `[A]`, `kappa`.
        tau: The target of `m`; useful from 0 to 1.
        mu: The weight of the target; useful from 1e-4 to 1e2.

    Raises:
        ValueError: If the arrays are not two vectors of one length, or `tau` or `mu` is negative or
            not finite.

    Examples:
        >>> from jaxnas.proxies import aggregate
        >>> aggregate.hybrid_score([1.0, 2.0], [4.0, 3.0], tau=0.5, mu=1.0).tolist()
        [-2.0, -1.25]
    """
    magnitudes, conditions, usable = _checked_pool(metric, condition)
    _not_negative(tau=tau, mu=mu)
    m, k = np.ones(len(usable)), np.ones(len(usable))
    m[usable], k[usable] = (
        scipy.stats.rankdata(each[usable]) / max(1, usable.sum())
        for each in (magnitudes, conditions)
    )
    return np.where(usable, -(k / m + mu * np.abs(m**2 - tau**2)), -np.inf)


def published_hybrid_score(
    metric: ArrayLike, condition: ArrayLike, *, tau: float, mu: float, scale: float = 5e3
) -> NDArray[np.float64]:
    """Return `-S`, `S = kappa / (M + 1e-6) + mu |M^2 - (tau scale)^2|`, `float64[A]`.

    Source: HNAS, released code, whose search has `tau` in [0, 1], `log10(mu)` in [-4, 0] and a
    scale of 5e3 on NAS-Bench-201; [-4, 1] and 1e2 on DARTS. The scale fits the NTK trace; other
    metrics are far below it.

    Differs from the released code: negative metrics (signed GraSP) and negative condition numbers
    (rounding) are excluded, which there make the best scores of all.

    Args:
        metric: `[A]`, `M`.
        condition: `[A]`, `kappa`.
        tau: The target of `M`, in units of `scale`.
        mu: The weight of the target.
        scale: The unit of `tau`.

    Raises:
        ValueError: If the arrays are not two vectors of one length, or `tau`, `mu` or `scale` is
            negative or not finite.
    """
    magnitudes, conditions, usable = _checked_pool(metric, condition)
    _not_negative(tau=tau, mu=mu, scale=scale)
    target = mu * np.abs(magnitudes**2 - (tau * scale) ** 2)
    return np.where(usable, -(conditions / (magnitudes + 1e-6) + target), -np.inf)


def realizable_bound(metric: ArrayLike, condition: ArrayLike) -> NDArray[np.float64]:
    """Return `kappa / M`, `float64[A]`: the order of the generalization bound; smaller is better.

    Source: HNAS, Theorem 2 and Corollary 1: where training ends at zero loss, the generalization
    loss is `O(kappa / M)`.

    Raises:
        ValueError: If the arrays are not two vectors of one length.
    """
    magnitudes, conditions, usable = _checked_pool(metric, condition)
    return np.where(usable, conditions / magnitudes, np.inf)


def non_realizable_bound(
    metric: ArrayLike,
    condition: ArrayLike,
    *,
    learning_rate: float,
    num_steps: int,
    constant: float = 1.0,
) -> NDArray[np.float64]:
    """Return `(1 - eta M^2 / kappa)^(2T) / 2 + c kappa / M`, `float64[A]`; smaller is better.

    Source: HNAS, Corollary 2: the training loss after `T` steps of gradient descent on the
    linearized network (squared loss, residuals of at most 1) and what generalizing adds. It is a
    bound for `M` the root of the mean NTK trace and `eta` below one over the largest eigenvalue of
    the NTK; beyond that it grows without limit, to `inf`.

    Args:
        metric: `[A]`, `M`.
        condition: `[A]`, `kappa`.
        learning_rate: `eta`.
        num_steps: `T`.
        constant: `c`, the constant of the `O`.

    Raises:
        ValueError: If the arrays are not two vectors of one length, or a constant is negative or
            not finite.
    """
    magnitudes, conditions, usable = _checked_pool(metric, condition)
    _not_negative(learning_rate=learning_rate, num_steps=num_steps, constant=constant)
    with np.errstate(over="ignore"):  # far beyond the largest stable eta, inf is the answer
        training = (1 - learning_rate * magnitudes**2 / conditions) ** (2 * num_steps) / 2
    return np.where(usable, training + constant * conditions / magnitudes, np.inf)


def mean_rank(scores: ArrayLike) -> NDArray[np.float64]:
    """Return the mean over scores of the rank of each architecture, `float64[..., A]`.

    Rank `A` is the best and 1 the worst; ties share the mean of their ranks.

    Args:
        scores: `[..., P, A]` of P scores, larger is better; `-inf` and `nan` are equal and worst.

    Raises:
        ValueError: If the shape is another, or there is no score.

    Examples:
        >>> from jaxnas.proxies import aggregate
        >>> aggregate.mean_rank([[0.1, 0.5, 0.3], [1, 2, 3]]).tolist()
        [1.0, 2.5, 2.5]
    """
    return _ranks(scores).mean(axis=-2)


def log_rank(scores: ArrayLike) -> NDArray[np.float64]:
    """Return `sum_p log(rank_p / A)`, `float64[..., A]` in nats; 0 is the best of every score.

    One bad rank costs more than several good ones gain. Ranks as in `mean_rank`; the value depends
    on the pool.

    Source: AZ-NAS, the non-linear ranking aggregation.

    Args:
        scores: `[..., P, A]` of P scores, larger is better; `-inf` and `nan` are equal and worst.

    Raises:
        ValueError: If the shape is another, or there is no score.

    Examples:
        >>> from jaxnas.proxies import aggregate
        >>> aggregate.log_rank([[0.1, 0.5, 0.3], [1, 2, 3]]).tolist()
        [-2.1972, -0.4055, -0.4055]
    """
    ranks = _ranks(scores)
    return np.log(ranks / ranks.shape[-1]).sum(axis=-2)


def regularized_swap(
    scores: ArrayLike, *, mu: float | None = None, sigma: float | None = None
) -> NDArray[np.float64]:
    """Return the regularized SWAP score, `SWAP exp(-(P - mu)^2 / sigma)`, `float64[..., A]`.

    Source: Peng et al., "SWAP-NAS", ICLR 2024, arXiv 2403.04161. Differs from the paper, where both
    constants are chosen by hand for a size that is wanted: without them `mu` is the largest `P` of
    the pool and `sigma` the variance of `P` in it.

    Args:
        scores: `[..., 2, A]`: SWAP, and `P`, the number of parameters.
        mu: the `P` that is aimed at.
        sigma: the width, in squares of `P`.

    Raises:
        ValueError: If the shape is another, or `sigma` is not positive.
    """
    matrix = np.asarray(check.array("scores", scores), np.float64)
    if matrix.ndim < 2 or matrix.shape[-2] != 2 or not matrix.size:
        raise ValueError(
            f"scores must be [..., 2, A], SWAP and #params: got shape {list(matrix.shape)}; stack "
            "the two."
        )
    mu = mu if mu is None else check.real("mu", mu)
    if sigma is not None and not (sigma := check.real("sigma", sigma)) > 0:
        raise ValueError(f"sigma must be positive: got {sigma}; it is in squares of #params.")
    swap, sizes = matrix[..., 0, :], matrix[..., 1, :]
    aim = sizes.max(-1, keepdims=True) if mu is None else mu
    spread = sizes.var(-1, keepdims=True) if sigma is None else sigma
    factor = np.exp(-((sizes - aim) ** 2) / np.where(spread > 0, spread, 1))
    return np.where(np.isfinite(swap), np.where(np.isfinite(swap), swap, 0) * factor, swap)


class Recipe(NamedTuple):
    """A score of a pool that is made of others, mostly of their ranks.

    Attributes:
        parts: names of the proxies.
        combine: `combine(scores [..., P, A]) -> float64[..., A]`, such as `log_rank`.
    """

    parts: tuple[str, ...]
    combine: Callable[[ArrayLike], NDArray[np.float64]]

    def __call__(self, scores: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Return the score, `float64[..., A]`; each draw is ranked by itself.

        Args:
            scores: of the parts, `[..., A]` by name; others may be among them.
        """
        return self.combine(np.stack([np.asarray(scores[name]) for name in self.parts], axis=-2))


RECIPES: Mapping[str, Recipe] = {
    "az_nas": Recipe(("expressivity", "progressivity", "trainability", "flops"), log_rank),
    "te_nas": Recipe(("ntk_condition_sum_exact_weights", "linear_regions"), mean_rank),
    "swap_regularized": Recipe(("swap", "params"), regularized_swap),
    "panel": Recipe(("layer_balance", "expressivity", "channel_independence", "swap"), log_rank),
    "pair": Recipe(("layer_balance", "channel_independence"), log_rank),
    "quintet": Recipe(
        ("layer_evenness", "expressivity", "channel_independence", "channel_entropy", "swap"),
        log_rank,
    ),
}
"""Aggregates that are scores by name, see `proxies.expand`. `az_nas` is Lee and Ham's.
`te_nas` is the sum of two ranks of Chen, Gong and Wang (arXiv 2102.11535), here their mean; they
count regions of thinner networks, of thousands of images (see `te_nas.linear_regions`).

`panel` is ours: how evenly the layers get gradient, the entropy of the features, how independent
the channels are, and how many codes the ReLUs have; nothing that counts parameters. It was chosen
among the scores here by the 12-epoch validation accuracies of NAS-Bench-201 and the accuracies of
NAS-Bench-101. `pair` is ours too, for the head of a pool: what has even gradients and independent
channels at once. Two of its draws on all of NAS-Bench-201 chose it, others confirmed it; elsewhere
`panel` ranks better. `quintet` is `panel` with `layer_evenness` in place of `layer_balance`, so
that depth does not count, and with `channel_entropy`. It was chosen on pools of NAS-Bench-201 and
NAS-Bench-101 with NAS-Bench-Macro in sight: of the best cells it says more than `panel`.
"""


def _ranks(scores: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(check.array("scores", scores), np.float64)
    if matrix.ndim < 2 or not matrix.size:
        raise ValueError(
            "scores must be [..., P, A], with one score and one architecture at least: got shape "
            f"{list(matrix.shape)}; stack the scores of the same architectures."
        )
    ordered = np.where(np.isnan(matrix), -np.inf, matrix)
    return np.asarray(scipy.stats.rankdata(ordered, axis=-1), np.float64)


def _checked_pool(
    metric: ArrayLike, condition: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return `M`, `kappa` and which are usable, all `[A]`; what is not reads 1."""
    magnitudes, conditions = (
        np.asarray(check.array(name, each), np.float64)
        for name, each in (("metric", metric), ("condition", condition))
    )
    if magnitudes.ndim != 1 or magnitudes.shape != conditions.shape:
        raise ValueError(
            "metric and condition must be vectors [A] of the same architectures: got shapes "
            f"{list(magnitudes.shape)} and {list(conditions.shape)}; align them first."
        )
    usable = np.isfinite(magnitudes) & np.isfinite(conditions)
    usable &= (magnitudes > 0) & (conditions > 0)
    return np.where(usable, magnitudes, 1), np.where(usable, conditions, 1), usable


def _not_negative(**constants: float) -> None:
    for name, value in constants.items():
        check.real(name, value, 0, _FINITE)
