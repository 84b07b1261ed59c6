"""Scores of the empirical neural tangent kernel, NTK: what its spectrum says of training.

The kernel of a scalar output f is `Theta = J J^T` `[B, B]`, row i of J `[B, P]` the gradient of
`f(x_i)` by all parameters. Of the K logits, f is one of these, by `logit`:

- `label`: the logit of the label of the example (as HNAS).
- `sum`: the sum of the logits (as TE-NAS); blind to the labels.
- `random`: one fixed direction, Gaussian and of length 1, the same for all examples. Over all
  directions Theta is then on average that of one logit, `empirical.ntk`; blind to the labels.

Where a normalization by the statistics of the batch couples the examples, `mode` decides:

- `split`: row i is what example i contributes to the gradient of the sum over the batch, input
  times back-propagated error layer by layer (as HNAS). One backward pass.
- `exact`: row i is the gradient of `f(x_i)`, also through what it does to the statistics that the
  others are normalized by (as TE-NAS). B backward passes.

Both are the same where examples are on their own. In `split` a network that does not bring its own
backward pass is read one example at a time; in `exact` always as a whole batch.

Differs from the released code: the hooks of HNAS read tensors of convolutions and linear layers
only; here scales and biases of normalization are parameters too (.3 % of trace and condition
number). TE-NAS reads what PyTorch calls a weight, filters, matrices and scales of
normalization, but no bias: `biases=False` of `ntk_condition`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import gradients, gram, lifetimes, tasks
from jaxnas.kernels import empirical
from jaxnas.proxies.measures import GradientMeasure, compared, or_nothing
from jaxnas.types import (
    ApplyFn,
    Array,
    Batch,
    Measure,
    Params,
    PerExampleDifferentiable,
    Proxy,
    wide,
)

Logit = Literal["label", "sum", "random"]
Mode = Literal["split", "exact"]


class Kernel(NamedTuple):
    """A measured kernel.

    Attributes:
        gram: Theta, `[B, B]`.
        eps: relative precision of what it was measured in: a score is computed in float64, which
            makes a kernel that was measured in float32 no more precise.
        labels: those of the batch.
    """

    gram: Array
    eps: Array
    labels: Any


def ntk_trace(*, logit: Logit = "label", mode: Mode = "split") -> Proxy:
    """Return M_Trace, `sqrt(tr(Theta) / B)`: the root mean square of the norms of the gradients.

    Source: Shu et al., "Unifying and Boosting Gradient-Based Training-Free Neural Architecture
    Search" (HNAS), NeurIPS 2022, arXiv 2201.09785. Its square is the trace norm of Shu et al.,
    "NASI", ICLR 2022, arXiv 2109.00817, over B. Larger is better: training converges faster.

    Needs labels only for `logit="label"`. One forward pass, and one backward pass that all `split`
    scores of the same logit share; B for `exact`. A disconnected network, where only the bias of
    the classifier has a gradient, is at exactly 1 by `label` and by `random`.
    """
    return Proxy(_named("ntk_trace", logit, mode), _measure(logit, mode), _trace)


def ntk_condition(*, logit: Logit = "label", mode: Mode = "split", biases: bool = True) -> Proxy:
    """Return `-kappa = -lambda_max / lambda_min` of Theta.

    Sources: Chen, Gong and Wang, "Neural Architecture Search on ImageNet in Four GPU Hours"
    (TE-NAS), ICLR 2021, arXiv 2102.11535, by `logit="sum"`, `mode="exact"` and `biases=False`; HNAS
    (see `ntk_trace`) by the defaults. The papers rank kappa ascending: training is slowest along
    the smallest eigenvalue.

    `-inf` where Theta is singular to the precision that it was measured in: equal examples, fewer
    parameters than examples, or a network that passes no gradient.

    Differs from the released code: HNAS ranks such a kernel by what rounding leaves of its
    `lambda_min`, first where that is negative; TE-NAS takes the mean of three draws of a network of
    one cell a stage. See the module for the tensors that both read.

    Needs labels only for `logit="label"`, and two examples. Passes as of `ntk_trace`.

    Args:
        logit: see the module.
        mode: see the module.
        biases: False leaves out tensors that are called `bias`, in the mode `exact`.
    """
    if not (biases or mode == "exact"):
        raise ValueError(
            "A kernel without biases is measured exactly: got split; use mode='exact'."
        )
    name = _named("ntk_condition", logit, mode) + ("" if biases else "_weights")
    return Proxy(name, _measure(logit, mode, biases), _condition)


def ntk_mean(*, logit: Logit = "label", mode: Mode = "split") -> Proxy:
    """Return the mean of all entries of Theta, `|| (1/B) sum_i J_i ||^2`.

    Source: MGM of Xu et al., "KNAS", ICML 2021, arXiv 2111.13293, section 3, as the mean of the
    NTK; `knas.mgm` is that of the gradients of the loss. Larger is better.

    Needs labels only for `logit="label"`. Passes as of `ntk_trace`.
    """
    return Proxy(_named("ntk_mean", logit, mode), _measure(logit, mode), _mean)


def kernel_alignment(*, mode: Mode = "split") -> Proxy:
    """Return the correlation of the entries of Theta with "both examples are of one class".

    `<Theta - mean, L - mean> / (||Theta - mean|| ||L - mean||)`, `L_ij = 1` if `y_i = y_j`, else 0
    (or -1: the same number), means over all entries. Source: LGA, label-gradient alignment, of Mok
    et al., "Demystifying the Neural Tangent Kernel from a Practical Perspective", CVPR 2022, arXiv
    2203.14577. A reading: which logit the paper differentiates is not certain here. It is the sum
    of the logits: by the logit of the label, the bias of the classifier alone would add L to Theta.
    Larger is better, at most 1.

    Needs labels of more than one class, and two examples. `-inf` if there is one class, or nothing
    is left of Theta but its mean, as of a network that passes no gradient. Passes as of
    `ntk_trace`.
    """
    return Proxy(_named("kernel_alignment", "label", mode), _measure("sum", mode), _alignment)


def random_cotangent(logits: Array, labels: Any) -> Array:
    """Return the derivative of a random direction of the logits, `[B, K]`, of length 1.

    The direction is that of the number of classes: the same for all networks and examples.
    """
    direction = np.random.default_rng(0).normal(size=logits.shape[1:])
    unit = jnp.asarray(direction / np.linalg.norm(direction), logits.dtype)
    return jnp.broadcast_to(unit[None], logits.shape)


@dataclasses.dataclass(frozen=True)
class CoupledKernel:
    """The kernel of a batch whose examples may be coupled: B backward passes, one forward pass.

    Rows of `gradients.MAX_BYTES` (or of one larger tensor) exist at the same time; every further
    group of tensors takes the backward passes once more.
    """

    of: gradients.Cotangent
    biases: bool = True

    def __call__(self, apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Kernel:
        """Return the kernel of one network."""
        if not isinstance(apply_fn, PerExampleDifferentiable):
            return _kernel_of_any(gradients.hashable(apply_fn), self, params, batch)
        only = (gradients.GRADIENT,)
        outputs, pullback = apply_fn.per_example_vjp(params, batch.inputs, only)

        def pull(cotangent: Array) -> Params:
            return pullback(cotangent, only)[0]

        return self.coupled(pull, outputs.logits, params, batch)

    def coupled(
        self, pull: Callable[[Array], Params], logits: Array, params: Params, batch: Batch
    ) -> Kernel:
        """Return the kernel, given the logits and the pullback to the gradient of the batch."""
        cotangent = self.of(logits, batch.labels)
        count = batch.size
        each = jnp.eye(count, dtype=cotangent.dtype)
        alone = each.reshape(count, count, *(1,) * (cotangent.ndim - 1)) * cotangent[None]
        paths = jax.tree_util.tree_leaves_with_path(params)
        read = [
            position
            for position, (path, _) in enumerate(paths)
            if self.biases or getattr(path[-1], "key", None) != "bias"
        ]
        sizes = [paths[position][1].nbytes * count for position in read]
        total = wide(jnp.zeros((count, count), cotangent.dtype))
        for group in gradients.groups(sizes, gradients.MAX_BYTES):
            total = total + _gram_of(pull, tuple(read[one] for one in group), alone)
        return _kernel(total, batch)


@lifetimes.for_each_network(1)
def _kernel_of_any(
    apply_fn: ApplyFn, measure: CoupledKernel, params: Params, batch: Batch
) -> Kernel:
    def logits(params: Params) -> Array:
        return gradients.outputs(apply_fn, params, batch.inputs).logits

    found, pullback = jax.vjp(logits, params)
    return measure.coupled(lambda leaf: pullback(leaf)[0], found, params, batch)


def _gram_of(pull: Callable[[Array], Params], positions: tuple[int, ...], alone: Array) -> Array:
    """Return the Gram matrix of the rows of some tensors, a backward pass for each row."""

    def row(cotangent: Array) -> list[Array]:
        found = jax.tree.leaves(pull(cotangent))
        return [found[position] for position in positions]

    if isinstance(alone, jax.core.Tracer):
        tensors = jax.lax.map(row, alone)
    else:  # the eager plan has programs of its own: to compile them as one takes longer
        tensors = [empirical.stack(list(rows)) for rows in zip(*map(row, alone), strict=True)]
    grams = [empirical.GRAM(tensor[0], tensor).gram for tensor in tensors]
    return sum(grams[1:], start=grams[0])


_COTANGENTS: dict[str, gradients.Cotangent] = {
    "label": empirical.label_cotangent,
    "sum": empirical.sum_cotangent,
    "random": random_cotangent,
}


def _measure(logit: Logit, mode: Mode, biases: bool = True) -> Measure:
    if logit not in _COTANGENTS:
        raise ValueError(f"Unknown logit {logit!r}: use label, sum or random.")
    if mode not in ("split", "exact"):
        raise ValueError(f"Unknown mode {mode!r}: use split or exact.")
    of = _COTANGENTS[logit]
    if mode == "exact":
        return CoupledKernel(of, biases)
    return GradientMeasure(of, empirical.GRAM, _collect)


def _named(name: str, logit: Logit, mode: Mode) -> str:
    return name + ("" if logit == "label" else f"_{logit}") + ("_exact" if mode == "exact" else "")


def _collect(kept: Params, params: Params, batch: Batch) -> Kernel:
    return _kernel(empirical.stack_grams(kept, params).gram.sum(0), batch)


def _kernel(product: Array, batch: Batch) -> Kernel:
    eps = jnp.asarray(jnp.finfo(product.dtype).eps, product.dtype)
    return Kernel(product, eps, batch.labels)


def _trace(kernel: Kernel) -> Array:
    mean_square = gram.diagonal_mean(kernel.gram)
    return or_nothing(jnp.sqrt(mean_square), mean_square > 0)


def _condition(kernel: Kernel) -> Array:
    compared(len(kernel.gram), "ntk_condition")
    return -gram.condition_number(kernel.gram, eps=kernel.eps)


def _mean(kernel: Kernel) -> Array:
    return or_nothing(gram.mean(kernel.gram), jnp.trace(kernel.gram) > 0)


def _alignment(kernel: Kernel) -> Array:
    compared(len(kernel.gram), "kernel_alignment")
    labels = tasks.class_numbers(kernel.labels, "kernel_alignment")
    same = (labels[:, None] == labels[None, :]).astype(kernel.gram.dtype)
    theta, classes = (each - each.mean() for each in (kernel.gram, same))
    norm = jnp.linalg.norm(theta)
    # What is left of a constant kernel is rounding.
    several = (classes != 0).any()
    alive = several & (norm > kernel.eps * kernel.gram.shape[0] * jnp.linalg.norm(kernel.gram))
    norms = jnp.where(alive, norm * jnp.linalg.norm(classes), 1)
    return or_nothing((theta * classes).sum() / norms, alive)
