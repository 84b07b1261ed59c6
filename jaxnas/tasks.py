"""What a network is asked for, when that is not one class an example: labels with their loss.

Scores that read gradients differentiate the loss of each example. For plain class numbers that is
the cross-entropy; `Targets` are labels of any other kind, with a loss of their own.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.types import Array

Loss = Callable[[Array, Any], Array]
"""`loss(outputs, labels)`: `[B]`, or `[B, ...]` of which the mean counts, for outputs `[B, ...]`
and labels, an array or a pytree of arrays `[B, ...]`."""


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy in nats, `[B]`: the mean over positions whose label is not negative.

    Args:
        logits: `[B, ..., K]`: of sequences `[B, T, K]`, of pictures `[B, H, W, K]`.
        labels: integers `[B, ...]`, in `[0, K)`; a negative one masks its position.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import tasks
        >>> tasks.cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[3, -1]])).tolist()
        [1.3863]

    Raises:
        ValueError: labels of another shape.
    """
    _check_shape(labels, logits.shape[:-1], "outputs without their last axis")
    return _cross_entropy(logits, labels)


@jax.jit
def _cross_entropy(logits: Array, labels: Array) -> Array:
    kept = labels >= 0
    chosen = jnp.where(kept, labels, 0)[..., None]
    each = -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[..., 0]
    axes = tuple(range(1, labels.ndim))
    return jnp.where(kept, each, 0).sum(axes) / jnp.maximum(kept.sum(axes), 1).astype(each.dtype)


def mse(outputs: Array, labels: Array) -> Array:
    """Return half the squared error, `[B]`: the mean over all numbers of an example.

    Args:
        outputs: `[B, ...]`.
        labels: real numbers of the same shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import tasks
        >>> tasks.mse(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])).tolist()
        [1.0]

    Raises:
        ValueError: labels of another shape.
    """
    _check_shape(labels, outputs.shape, "outputs")
    return _mean(jnp.square(outputs - labels) / 2)


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy of independent yes and no in nats, `[B]`: the mean over all.

    Args:
        logits: `[B, ...]`, of yes.
        labels: 0 to 1, of the same shape: several labels an example, or a mask.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import tasks
        >>> tasks.binary_cross_entropy(jnp.zeros((1, 3)), jnp.array([[0, 1, 1]])).tolist()
        [0.6931]

    Raises:
        ValueError: labels of another shape.
    """
    _check_shape(labels, logits.shape, "outputs")
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return _mean(-labels * yes - (1 - labels) * no)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "binary_cross_entropy": binary_cross_entropy,
}
"""Losses by name."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["loss"])
@dataclasses.dataclass(frozen=True)
class Targets:
    """Labels of a task, in the place of `Batch.labels`.

    Attributes:
        values: an array or a pytree of arrays `[B, ...]`.
        loss: see `Loss`; use a module-level function, as each other one compiles anew.
    """

    values: Any
    loss: Loss

    def losses(self, outputs: Array) -> Array:
        """Return the loss of each example, `[B]`."""
        return _mean(self.loss(outputs, self.values))


def loss_name(labels: Any, *, stored: bool = False) -> str:
    """Return the name of what is asked for: stores and checkpoints know a loss by it.

    Args:
        labels: class numbers, or `Targets`.
        stored: refuse what has no name: a lambda, or a `functools.partial` of arrays.

    Raises:
        ValueError: a loss without a name that would be stored.
    """
    loss = labels.loss if isinstance(labels, Targets) else cross_entropy
    for name, known in LOSSES.items():
        if loss is known:
            return name
    given: list[Any] = []
    while isinstance(loss, functools.partial):
        given += [*loss.args, *(part for pair in sorted(loss.keywords.items()) for part in pair)]
        loss = loss.func
    name = f"{loss.__module__}.{getattr(loss, '__qualname__', loss)}"
    plain = all(isinstance(each, str | int | float) for each in given)
    if stored and ("<lambda>" in name or not plain):
        raise ValueError(
            f"A store knows a loss by its name: got {name}{given or ''}; define it by def, with "
            "numbers and texts as the arguments of a functools.partial."
        )
    return f"{name}{given or ''}"


def class_numbers(labels: Any, reader: str) -> Array:
    """Return labels that are class numbers, `int32[B]`.

    Raises:
        ValueError: they are `Targets`.
    """
    if isinstance(labels, Targets):
        raise ValueError(
            f"{reader} reads class numbers, one an example: got labels with a loss; choose a score "
            "that does not."
        )
    return labels


def _check_shape(labels: Array, shape: tuple[int, ...], of: str) -> None:
    """Refuse labels that would be broadcast: each number would be compared with all labels."""
    if jnp.shape(labels) != shape:
        raise ValueError(
            f"Labels must have the shape of the {of}, {list(shape)}: got "
            f"{list(jnp.shape(labels))}; reshape them, such as labels[:, None]."
        )


def _mean(values: Array) -> Array:
    return values.reshape(values.shape[0], -1).mean(1)
