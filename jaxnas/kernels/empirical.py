"""Finite-width kernels: Gram matrices `[B, B]` of per-example gradients, tensor by tensor.

Exact, and never through a matrix of all examples by all parameters: `gradients.per_example_vjp`
contracts the gradients of one tensor (or of a bounded group) and drops them.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas import gradients, tasks
from jaxnas.types import ApplyFn, Array, Batch, Params, Statistic

Of = Literal["loss", "label", "sum"]


def label_cotangent(logits: Array, labels: Any) -> Array:
    """Return the derivative of the summed logits of the labels, `[B, K]`."""
    classes = tasks.class_numbers(labels, "The kernel of the label's logit")
    return jax.nn.one_hot(classes, logits.shape[-1], dtype=logits.dtype)


def sum_cotangent(logits: Array, labels: Any) -> Array:
    """Return the derivative of the sum of all logits, `[B, K]`."""
    return jnp.ones_like(logits)


_COTANGENTS: dict[str, gradients.Cotangent] = {
    "loss": gradients.loss_cotangent,
    "label": label_cotangent,
    "sum": sum_cotangent,
}


class TensorGram(NamedTuple):
    """What is kept of a tensor: `gram` `[B, B]`, and `coordinate_sum` `[B]` of each gradient."""

    gram: Array
    coordinate_sum: Array


class TensorGrams(NamedTuple):
    """Gram matrices of all parameter tensors; those that no gradient reaches are zero.

    Attributes:
        gram: `[L, B, B]`, inner products of per-example gradients.
        coordinate_sum: `[L, B]`, sums of the coordinates of each gradient.
        size: `[L]`, number of coordinates.
        is_weight: `bool[L]`, whether the tensor is a matrix or a filter (not a scale or a bias).
    """

    gram: Array
    coordinate_sum: Array
    size: Array
    is_weight: Array


def gradient_grams(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch,
    *,
    of: Of = "loss",
    max_bytes: int = gradients.MAX_BYTES,
) -> Params:
    """Return the Gram matrix of each tensor's per-example gradients, a pytree of `[B, B]`.

    Args:
        apply_fn: any network.
        params: its parameters.
        batch: `B` labeled examples.
        of: what is differentiated for each example: its cross-entropy (`loss`), the logit of its
            label (`label`), or the sum of its logits (`sum`); the last two give the NTK features.
        max_bytes: see `gradients.per_example_vjp`.
    """
    kept = _read_grams(apply_fn, params, batch, of, max_bytes)
    return jax.tree.map(lambda leaf: leaf.gram, kept, is_leaf=_is_gram)


def gradient_gram(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch,
    *,
    of: Of = "loss",
    max_bytes: int = gradients.MAX_BYTES,
) -> Array:
    """Return the Gram matrix `[B, B]` of whole per-example gradients: the sum over all tensors.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import Batch
        >>> from jaxnas.kernels import empirical
        >>> params = {"w": jnp.zeros((2, 2))}
        >>> batch = Batch(jnp.eye(2), jnp.array([0, 1]))
        >>> empirical.gradient_gram(lambda p, x: x @ p["w"], params, batch).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    grams = gradient_grams(apply_fn, params, batch, of=of, max_bytes=max_bytes)
    return sum(jax.tree.leaves(grams), start=jnp.zeros(()))


def tensor_grams(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch,
    *,
    of: Of = "loss",
    max_bytes: int = gradients.MAX_BYTES,
) -> TensorGrams:
    """Return `gradient_grams` stacked, with what scores need to know of the tensors."""
    return stack_grams(_read_grams(apply_fn, params, batch, of, max_bytes), params)


def stack_grams(kept: Params, params: Params) -> TensorGrams:
    """Return what `GRAM` keeps of each tensor, stacked."""
    by_tensor = jax.tree.leaves(kept, is_leaf=_is_gram)
    leaves = jax.tree.leaves(params)
    return TensorGrams(
        gram=stack([one.gram for one in by_tensor]),
        coordinate_sum=stack([one.coordinate_sum for one in by_tensor]),
        size=jnp.asarray([leaf.size for leaf in leaves], jnp.float32),
        is_weight=jnp.asarray([leaf.ndim > 1 for leaf in leaves]),
    )


def ntk(apply_fn: ApplyFn, params: Params, inputs: Array) -> Array:
    """Return the empirical neural tangent kernel averaged over the logits, `[B, B]`.

    `(1/K) sum_k <d f_k(x_i)/d theta, d f_k(x_j)/d theta>` (Jacot et al., 2018, arXiv 1806.07572).

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas.kernels import empirical
        >>> params = {"w": jnp.ones((2, 1))}
        >>> empirical.ntk(lambda p, x: x @ p["w"], params, jnp.eye(2)).shape
        (2, 2)
    """
    out, pullback = gradients.per_example_vjp(apply_fn, params, inputs, (GRAM,))
    classes = out.logits.shape[-1]
    total = jnp.zeros((inputs.shape[0],) * 2, out.logits.dtype)
    for cotangent in jnp.eye(classes, dtype=out.logits.dtype):
        rows = jnp.broadcast_to(cotangent[None], out.logits.shape)
        for leaf in jax.tree.leaves(pullback(rows, (GRAM,)), is_leaf=_is_gram):
            total = total + leaf.gram
    return total / classes


def nngp(apply_fn: ApplyFn, params: Params, inputs: Array) -> Array:
    """Return the Gram matrix `[B, B]` of the classifier's input, divided by its width.

    Raises:
        ValueError: the network gives no `Outputs.features`.
    """
    features = gradients.outputs(apply_fn, params, inputs).features
    if features is None:
        raise ValueError(
            "The NNGP kernel needs Outputs.features: got bare logits; "
            "return jaxnas.Outputs(logits, features) from apply_fn."
        )
    return jnp.matmul(features, features.T, precision="highest") / features.shape[-1]


def gram_of(tensor: Array, per_example: Array) -> TensorGram:
    """Return the Gram matrix and the coordinate sums of per-example gradients `[B, *shape]`."""
    rows = per_example.reshape(per_example.shape[0], -1)
    # GPUs and TPUs round the factors of a product unless told otherwise.
    return TensorGram(jnp.matmul(rows, rows.T, precision="highest"), rows.sum(1))


GRAM = Statistic(gram_of, additive=True)
"""The Gram matrix of a tensor's per-example gradients."""


@jax.jit
def stack(arrays: list[Array]) -> Array:
    """Return arrays of one shape stacked, by one program for each number of them.

    The eager plan gives hundreds of little arrays: stacked one by one, as many dispatches.
    """
    return jnp.stack(arrays)


def _read_grams(apply_fn: ApplyFn, params: Params, batch: Batch, of: Of, max_bytes: int) -> Params:
    if of not in _COTANGENTS:
        raise ValueError(f"Unknown function to differentiate: got {of!r}; use loss, label or sum.")
    wanted = {_COTANGENTS[of]: (GRAM,)}
    return gradients.read(apply_fn, params, batch, wanted, max_bytes=max_bytes)[_COTANGENTS[of]][0]


def _is_gram(node: Any) -> bool:
    return isinstance(node, TensorGram)
