"""Scores from the gradient of one batch: its norm, what it says of each weight, and its curvature.

With `L` the mean cross-entropy of the batch, `theta` a weight and `g = dL / dtheta`:

    grad_norm   sum over layers of || g ||        snip   sum over weights of | theta g |
    plain       sum over weights of theta g       grasp  - sum over weights of theta (H g)

and `fisher`, the squares of `theta g` by channel and example. All need labels, and one batch of
any size. All but GraSP are statistics of one backward pass, which
they share with each other and with the scores of `knas` and `gradient_statistics`. **Weights** are
matrices and filters, as in all published implementations; scales and biases do not count, but in
the norms. In a normalization mode that couples examples, `L` is that of the coupled batch, as
published. A score is `-inf` where no gradient reaches any weight, and nan where one is not finite.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from jaxnas import gradients
from jaxnas.kernels import empirical
from jaxnas.proxies import measures
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy, Statistic


def grad_norm(*, aggregate: Literal["sum", "global"] = "sum") -> Proxy:
    """Return the norm of the batch gradient: the sum of those of the tensors, or of the whole.

    `sum_l ||g_l||` (Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, arXiv
    2101.08134, section 3.2), or `||g||` (M_Grad of Shu et al., "Unifying and Boosting
    Gradient-Based Training-Free NAS", NeurIPS 2022, arXiv 2201.09785), which is the square root of
    MGM. One forward and one backward pass.

    Differs from the released code: it sums over weights; here scales and biases count too.

    Args:
        aggregate: `sum` (`grad_norm`), or `global` (`grad_norm_global`), which is never larger.
    """
    if aggregate not in ("sum", "global"):
        raise ValueError(f"Unknown aggregate {aggregate!r}: use sum or global.")
    if aggregate == "global":
        return Proxy("grad_norm_global", measures.batch_gradient_squares, _norm_of_all)
    return Proxy("grad_norm", measures.batch_gradient_squares, _sum_of_norms)


def _sum_of_norms(squares: Array) -> Array:
    return measures.or_nothing(jnp.sqrt(squares).sum(), squares > 0)


def _norm_of_all(squares: Array) -> Array:
    return measures.or_nothing(jnp.sqrt(squares.sum()), squares > 0)


def snip(*, form: Literal["elementwise", "total"] = "elementwise") -> Proxy:
    """Return SNIP, how much the loss would change if weights were cut.

    `sum |theta g|`: of each weight (Lee, Ajanthan and Torr, "SNIP", ICLR 2019, arXiv 1810.02340; as
    a score of networks in Abdelfattah et al., ICLR 2021, arXiv 2101.08134, section 3.2). Or
    `|sum theta g|`: of all together (M_SNIP of Shu et al., NeurIPS 2022, arXiv 2201.09785, whose
    code takes the first form). One forward and one backward pass.

    Behind a normalization by statistics of the activations the loss does not feel the scale of a
    filter, so that `<theta_l, g_l> = 0` but for the epsilon: the total then sees no more than the
    layers that are not normalized, and is nearly zero.

    Args:
        form: `elementwise` (`snip`), or `total` (`snip_total`), which is never larger.
    """
    if form not in ("elementwise", "total"):
        raise ValueError(f"Unknown form {form!r}: use elementwise or total.")
    if form == "total":
        return Proxy("snip_total", _PRODUCTS, _absolute_total)
    return Proxy("snip", _MAGNITUDES, _total)


def plain() -> Proxy:
    """Return the sum over weights of `theta g`, with its sign.

    Source: Abdelfattah et al., ICLR 2021, arXiv 2101.08134 (`plain` in the published code), larger
    taken for better as there. See `snip` for why normalized layers cancel in it: it is a control,
    uncorrelated with accuracy or against it. One forward and one backward pass.
    """
    return Proxy("plain", _PRODUCTS, _total)


def fisher() -> Proxy:
    """Return Fisher saliency, `sum_l n_l sum_c mean_i (sum a dL_i/da)^2 / 2` over channels.

    `a` is the output of channel `c` of a layer, its inner sum over pixels, `i` an example and `n_l`
    the number of weights of a channel, which all get its value. Source: Turner et al., "BlockSwap:
    Fisher-guided Block Substitution for Network Compression on a Budget", ICLR 2020,
    arXiv 1906.04113; as a score Abdelfattah et al., ICLR 2021, arXiv 2101.08134 (`fisher`), whose
    scale this is: the loss is the mean over the batch.

    A layer is linear in its weights, so `sum a da` over the pixels is `<w_c, g_c>` of the weights'
    own gradient: no activation is looked at. One forward and one backward pass.

    Differs from the released code: the bias of a layer is left out of its `a`. Here that is the
    classifier's; its networks of NAS-Bench-201 have biases at the convolutions of the cells too.
    """
    return Proxy("fisher", _CHANNELS, _total)


def l2_norm() -> Proxy:
    """Return the sum over weights of their own norms, `sum_l ||theta_l||`.

    Source: Abdelfattah et al., ICLR 2021, arXiv 2101.08134 (`l2_norm` in the published code). It
    sees depth and width, neither images nor labels.

    Differs from the released code: its NAS-Bench-201 networks hold all candidates of every edge and
    so have nearly the same score. Here a tensor counts if a gradient reaches it, which makes it a
    statistic of the shared backward pass instead of free.
    """
    return Proxy("l2_norm", _OWN_NORMS, _total)


def grasp(*, sign: Literal["abs", "signed"] = "abs") -> Proxy:
    """Return GraSP, `-sum theta (H g)`: how cutting weights would change the gradient's norm.

    Source: Wang, Zhang and Grosse, "Picking Winning Tickets Before Training by Preserving Gradient
    Flow", ICLR 2020, arXiv 2002.07376; as a score in Abdelfattah et al., ICLR 2021,
    arXiv 2101.08134 (temperature 1, one batch for both factors, larger is better), and in absolute
    value as M_GraSP of Shu et al., NeurIPS 2022, arXiv 2201.09785. `g`, `H` and the sum are of the
    weights. Two forward and two backward passes, the second pair with its derivatives along `g`.

    For a layer behind a normalization by statistics `-<theta_l, (H g)_l> = ||g_l||^2`, from the
    identity of `snip`; layers that are not normalized decide on the sign of the sum.

    Differs from M_GraSP as written: `H g` of the mean loss, not the mean of those of each example.
    A network with a `jax.custom_vjp` must offer `PerExampleDifferentiable`, as spaces do: JAX
    cannot differentiate a custom backward pass forwards.

    Args:
        sign: `abs` (`grasp`), or `signed` (`grasp_signed`), which the published codes rank by.
    """
    if sign not in ("abs", "signed"):
        raise ValueError(f"Unknown sign {sign!r}: use abs or signed.")
    if sign == "signed":
        return Proxy("grasp_signed", _curvature, _total)
    return Proxy("grasp", _curvature, _absolute_total)


def _magnitude(tensor: Array, gradient: Array) -> Array:
    return jnp.abs(tensor * gradient).sum()


def _product(tensor: Array, gradient: Array) -> Array:
    return (tensor * gradient).sum()


def _of_channels(tensor: Array, per_example: Array) -> Array:
    batch, *_, channels = per_example.shape
    of_channel = (tensor[None] * per_example).reshape(batch, -1, channels).sum(1)
    return tensor[..., 0].size * jnp.square(of_channel).mean(0).sum() / 2


def _collect_squares(kept: Params, params: Params, batch: Batch) -> Array:
    """Collect what is quadratic in the gradient of the mean loss, of each weight `[L]`."""
    return collect_weights(kept, params, batch) / batch.size**2


def _own_norm(tensor: Array, gradient: Array) -> Array:
    """Return the norm of a tensor that a gradient reaches; 0 for others, nan for one of nan."""
    return jnp.sqrt(jnp.square(tensor).sum()) * jnp.sign(jnp.abs(gradient).max())


def collect_weights(kept: Params, params: Params, batch: Batch) -> Array:
    """Collect what is kept of matrices and filters, `[L, ...]`, without scales and biases.

    Raises:
        ValueError: there are none.
    """
    pairs = zip(jax.tree.leaves(kept), jax.tree.leaves(params), strict=True)
    of_weights = [each for each, tensor in pairs if tensor.ndim > 1]
    if not of_weights:
        raise ValueError(
            "The score reads weights, tensors of rank 2 or more: got none; score another network, "
            "or choose a score of all tensors such as grad_norm."
        )
    return empirical.stack(of_weights)


def _collect_mean(kept: Params, params: Params, batch: Batch) -> Array:
    """Collect what is linear in the gradient of the mean loss, of each weight `[L]`."""
    return collect_weights(kept, params, batch) / batch.size


_of_loss = functools.partial(measures.GradientMeasure, gradients.loss_cotangent)
_MAGNITUDES = _of_loss(Statistic(_magnitude, per_example=False), _collect_mean)
_PRODUCTS = _of_loss(Statistic(_product, per_example=False), _collect_mean)
_CHANNELS = _of_loss(Statistic(_of_channels), _collect_squares)
_OWN_NORMS = _of_loss(Statistic(_own_norm, per_example=False), collect_weights)


def _curvature(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    """Measure `-<theta, H g>`, `[L]`: `H g` is the derivative of the gradient along itself."""

    def gradient(params: Params) -> Params:
        return gradients.loss_gradient(apply_fn, params, batch)

    direction = jax.tree.map(
        lambda leaf: leaf if leaf.ndim > 1 else jnp.zeros_like(leaf), gradient(params)
    )
    _, change = jax.jvp(gradient, (params,), (direction,))
    return -collect_weights(jax.tree.map(_product, params, change), params, batch)


def _total(parts: Array) -> Array:
    return measures.or_nothing(parts.sum(), parts != 0)


def _absolute_total(parts: Array) -> Array:
    return measures.or_nothing(jnp.abs(parts.sum()), parts != 0)
