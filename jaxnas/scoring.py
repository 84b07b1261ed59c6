"""Scoring one network, of your own or of a space, by any set of proxies."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import check, engine, gradients
from jaxnas.proxies import resolve
from jaxnas.tasks import LOSSES, Loss, Targets
from jaxnas.types import ApplyFn, Array, Batch, Params, Proxy

_CALLED = (
    "jaxnas called apply_fn(params, inputs). Make a network of a model by "
    "jaxnas.as_network(model, variables, ...), which takes the other arguments of a call, such as "
    "train=False."
)


def score(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch | tuple[Any, Any],
    proxies: str | Proxy | Iterable[str | Proxy],
    *,
    loss: str | Loss | None = None,
    key: Array | None = None,
) -> dict[str, float]:
    """Return the scores of one network; larger is better.

    Args:
        apply_fn: any `apply_fn(params, inputs)` that gives logits `[B, K]` or `Outputs`: Flax
            (linen, nnx), Equinox or plain JAX; see `as_network`.
        params: its parameters, a pytree of arrays.
        batch: `(inputs, labels)`: an array or a pytree of arrays `[B, ...]`, and class numbers
            `[B]`; or the labels of the loss.
        proxies: names from `jaxnas.proxies.BY_NAME`, or `Proxy` values.
        loss: for another task than one class an example: `mse` for regression,
            `binary_cross_entropy` for several labels, `cross_entropy` for sequences and pictures of
            classes, with labels `[B, ...]` of which negative ones are masked; or
            `loss(outputs, labels)`, the loss of each example `[B]`.
        key: for scores that draw random numbers.

    Returns:
        Scores by name: `-inf` if there is nothing to score, such as no gradient at any tensor; nan
        if the network is not finite.

    Raises:
        ValueError: an unknown proxy, or a batch or a network that does not fit (see
            `validate_batch`).

    Examples:
        >>> import jax.numpy as jnp, jaxnas
        >>> params = {"w": jnp.ones((3, 1))}
        >>> batch = jnp.eye(3), jnp.array([[0.0], [1.0], [2.0]])
        >>> jaxnas.score(lambda p, x: x @ p["w"], params, batch, "grad_norm", loss="mse")
        {'grad_norm': 0.4714}
    """
    resolved = resolve(proxies)
    batch = validate_batch(batch, loss)
    validate_network(apply_fn, params, batch)
    key = jax.random.key(0) if key is None else check.key("key", key)
    values = engine.values(resolved, apply_fn, params, batch, key)
    return dict(zip((proxy.name for proxy in resolved), values.tolist(), strict=True))


def validate_batch(batch: Batch | tuple[Any, Any], loss: str | Loss | None = None) -> Batch:
    """Return the batch as arrays, checked; labels of a loss as `tasks.Targets`.

    Raises:
        ValueError: no example, another number of labels, labels that are not integers `[B]` from 0
            (or whatever the loss takes), an unknown loss, or inputs that are not finite numbers.
    """
    if isinstance(batch, str):
        raise ValueError(
            f"Data are loaded first: got the text {batch!r}; pass jaxnas.datasets.load({batch!r})."
        )
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"A batch is (inputs, labels): got {type(batch).__name__}; pass a pair.")
    inputs = jax.tree.map(jnp.asarray, check.tree("inputs", batch[0]))
    arrays = jax.tree.leaves(inputs)
    for leaf in arrays:
        if leaf.ndim < 2 or leaf.shape[:1] != arrays[0].shape[:1] or not leaf.shape[0]:
            raise ValueError(
                f"A batch needs examples [B, ...]: got inputs {leaf.shape}; pass B > 0."
            )
    if not arrays:
        raise ValueError("A batch needs examples [B, ...]: got no inputs; pass an array.")
    is_task = loss is not None or isinstance(batch[1], Targets)
    count = len(arrays[0])
    labels = _targets(batch[1], loss, count) if is_task else _class_numbers(batch[1], count)
    if not _are_finite(arrays):
        raise ValueError("Inputs must be finite: got nan or inf; clean or normalize the images.")
    return Batch(inputs, labels)


def _class_numbers(labels: Any, count: int) -> Array:
    if not isinstance(labels, jax.Array):
        labels = check.array(
            "Labels", labels
        )  # JAX would wrap 64-bit integers before they can be checked
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels are integers [{count}], one an example: "
            f"got {labels.dtype}{list(labels.shape)}; pass class numbers, not one-hot rows, or "
            "the loss of another task."
        )
    if int(labels.min()) < 0:
        raise ValueError(f"Labels count from 0: got {int(labels.min())}; shift or drop them.")
    if int(labels.max()) >= 2**31:
        raise ValueError(f"Labels are class numbers: got {int(labels.max())}; count from 0.")
    return jnp.asarray(labels, jnp.int32)


def _targets(labels: Any, loss: str | Loss | None, count: int) -> Targets:
    if isinstance(labels, Targets):
        labels, loss = labels.values, loss or labels.loss
    if not callable(loss):
        loss = LOSSES[check.choice("loss", loss, tuple(LOSSES))]
    labels = jax.tree.map(jnp.asarray, check.tree("labels", labels))
    arrays = jax.tree.leaves(labels)
    if not arrays or any(array.shape[:1] != (count,) for array in arrays):
        shapes = [list(array.shape) for array in arrays]
        raise ValueError(f"Labels of a loss are arrays [{count}, ...]: got {shapes}; pass as many.")
    if not _are_finite(arrays):
        raise ValueError("Labels must be finite: got nan or inf; clean or mask them.")
    return Targets(labels, loss)


def _are_finite(arrays: list[Array]) -> bool:
    floating = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact)]
    return all(bool(jnp.isfinite(each).all()) for each in floating)


def validate_network(apply_fn: ApplyFn, params: Params, batch: Batch) -> None:
    """Raise `ValueError` unless the network can be scored on the batch.

    It needs parameters that can be differentiated, and gives logits `[B, K]` for any number of
    examples, of as many classes as the labels have.
    """
    check.instance("apply_fn", apply_fn, Callable, "a function of parameters and inputs")
    leaves = jax.tree.leaves(check.tree("params", params))
    kinds = {str(jnp.result_type(leaf)) for leaf in leaves}
    if not leaves or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(
            f"A score needs parameters, floating arrays: got {', '.join(sorted(kinds)) or 'none'}; "
            "pass a pytree of them as params and close over the rest."
        )
    if isinstance(params, Mapping) and "batch_stats" in params:
        raise ValueError(
            "params must be parameters alone: got batch_stats too; pass variables['params'] and "
            "close over the statistics in apply_fn."
        )
    for count in (batch.size, 1):
        inputs = jax.tree.map(lambda each, count=count: each[:count], batch.inputs)
        try:
            given = jax.eval_shape(functools.partial(gradients.outputs, apply_fn), params, inputs)
        except Exception as error:
            error.add_note(_CALLED)
            raise
        shape: tuple[int, ...] = getattr(given.logits, "shape", ())
        is_task = isinstance(batch.labels, Targets)
        if shape[:1] != (count,) or (len(shape) != 2 and not is_task):
            raise ValueError(
                f"apply_fn must give logits [{count}, K] for {count} examples: got "
                f"{list(shape) or type(given.logits).__name__}; return one row of class scores "
                "an example, whatever their number, or name the loss of another task."
            )
        if not jnp.issubdtype(given.logits.dtype, jnp.floating):
            raise ValueError(
                f"apply_fn must give real logits: got {given.logits.dtype}; return floats, such as "
                "the absolute values of complex ones."
            )
        if count == batch.size:
            _validate_labels(batch.labels, given.logits)


def _validate_labels(labels: Any, logits: jax.ShapeDtypeStruct) -> None:
    if not isinstance(labels, Targets):
        if int(labels.max()) >= logits.shape[1]:
            raise ValueError(
                f"Labels must be below the {logits.shape[1]} logits: got {int(labels.max())}; "
                "match the number of classes."
            )
        return
    expected = f"A loss gives numbers [{logits.shape[0]}, ...] for outputs {list(logits.shape)}"
    try:
        found = jax.eval_shape(labels.loss, logits, labels.values)
        shape, floating = found.shape, jnp.issubdtype(found.dtype, jnp.floating)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        if labels.loss in LOSSES.values() and isinstance(error, ValueError):
            raise  # it says what to do
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{expected}: got {reason!r}; match outputs and labels.") from error
    if shape[:1] != logits.shape[:1] or not floating:
        raise ValueError(f"{expected}: got {found.dtype}{list(shape)}; return one an example.")
