"""Training predicted by the NTK: full-batch gradient descent on half the squared error.

A wide network is linear in its weights, so with the loss `L = ||y - f||^2 / 2` over all examples
the error along the eigenvector of eigenvalue `lambda` shrinks by `1 - learning_rate * lambda` each
step. Of all predictors of how fast a wiring trains it is the one that holds at a fixed and at a
tuned learning rate.

Sources: Jacot et al., 2018, arXiv 1806.07572; Lee et al., 2019, arXiv 1902.06720, equation 9.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.types import Array

_LONGEST = 2.0**62


def centered_one_hot(labels: ArrayLike, classes: int) -> np.ndarray:
    """Return targets `float64[N, K]` of labels `int[N]`: one-hot, less `1 / K`.

    Raises:
        ValueError: labels that are no classes.
    """
    check.integer("classes", classes, 1)
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise ValueError(
            f"Labels are integers [N]: got {array.dtype}{list(array.shape)}; a regression needs no "
            "one-hot targets."
        )
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"Labels are in [0, {classes}): got {array.min()} to {array.max()}; raise classes."
        )
    return np.eye(classes)[array] - 1 / classes


def largest_eigenvalue(ntk: Array) -> Array:
    """Return the largest eigenvalue, `float[]`: descent is stable below 2 over it, best near 1."""
    return jnp.linalg.eigvalsh(ntk)[-1]


def linearized_loss(
    ntk: ArrayLike, labels: ArrayLike, learning_rate: ArrayLike, steps: ArrayLike
) -> Array:
    """Return the loss after some steps of gradient descent from the output zero.

    Works under jit and vmap. Precise in float64, inside `jax.enable_x64(True)`.

    Args:
        ntk: `[N, N]`, of one output.
        labels: what to fit, `float[N]` or `float[N, K]`; see `centered_one_hot`.
        learning_rate: `float[]`, of the summed loss.
        steps: `[]` or `[S]`, not negative.

    Returns:
        `||y - f||^2 / 2`, summed over examples and outputs, in the shape of `steps`; inf where it
        diverges.

    Raises:
        ValueError: a kernel and labels that do not fit.
    """
    modes = _modes(ntk, labels)
    counts = jnp.asarray(check.array("steps", steps))
    return _loss(modes, _scalar("learning_rate", learning_rate), counts)


def predicted_steps_to(
    ntk: ArrayLike, labels: ArrayLike, learning_rate: ArrayLike, loss: ArrayLike
) -> Array:
    """Return the first number of steps with at most this loss, `float[]`; inf if there is none.

    There is none if the learning rate is 2 over the largest eigenvalue or more (unless the loss is
    that small to begin with), or if more than 2**62 steps are needed, as by a singular kernel.

    Args:
        ntk: `[N, N]`, of one output.
        labels: `float[N]` or `float[N, K]`.
        learning_rate: `float[]`, of the summed loss.
        loss: `float[]`, as `linearized_loss` returns it.

    Raises:
        ValueError: a kernel and labels that do not fit.
    """
    modes = _modes(ntk, labels)
    rate, goal = _scalar("learning_rate", learning_rate), _scalar("loss", loss)

    def reached(steps: Array) -> Array:
        return _loss(modes, rate, steps) <= goal

    def halve(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        # Geometric at first: the answer may be 3 or 2**60. Whole steps above 2**53 have gaps.
        middle = jnp.where(high > 4 * low, jnp.sqrt((low + 1) * high), (low + high) / 2)
        middle = jnp.clip(jnp.floor(middle), low, high)
        hit = reached(middle)
        return jnp.where(hit, low, middle), jnp.where(hit, middle, high)

    dtype = modes.energies.dtype
    _, steps = jax.lax.fori_loop(
        0, 128, halve, (jnp.zeros((), dtype), jnp.full((), _LONGEST, dtype))
    )
    stable = rate * modes.eigenvalues[-1] < 2
    steps = jnp.where(stable & reached(jnp.full((), _LONGEST, dtype)), steps, jnp.inf)
    return jnp.where(reached(jnp.zeros((), dtype)), 0, steps)


def leave_one_out_loss(ntk: ArrayLike, labels: ArrayLike, ridge: float = 1e-2) -> Array:
    """Return the loss on examples that training did not see, each predicted from all others.

    Training to the end predicts by kernel ridge regression. With `A` the inverse of the kernel plus
    its ridge, the error of example `i` when it is left out is `(A y)_i / A_ii`.

    Args:
        ntk: `[N, N]`, of one output.
        labels: `float[N]` or `float[N, K]`; see `centered_one_hot`.
        ridge: over the mean of the kernel's diagonal; positive.

    Returns:
        `||y - f||^2 / 2`, summed over examples and outputs, `float[]`.

    Raises:
        ValueError: a kernel and labels that do not fit, or a ridge that is not positive.

    Source: Craven and Wahba, 1979 (cross-validation in closed form).
    """
    if not (ridge := check.real("ridge", ridge)) > 0:
        raise ValueError(f"The ridge must be positive: got {ridge}; 0.01 is usual.")
    kernel, targets = _checked(ntk, labels)
    size = len(kernel)
    scale = jnp.trace(kernel) / size
    inverse = jnp.linalg.inv(kernel / scale + ridge * jnp.eye(size, dtype=kernel.dtype))
    errors = jnp.matmul(inverse, targets.reshape(size, -1), precision="highest")
    return ((errors / jnp.diagonal(inverse)[:, None]) ** 2).sum() / 2


class _Modes(NamedTuple):
    """Eigenvalues `[N]`, ascending, and half the squared labels along each eigenvector, `[N]`."""

    eigenvalues: Array
    energies: Array


def _modes(ntk: ArrayLike, labels: ArrayLike) -> _Modes:
    kernel, targets = _checked(ntk, labels)
    eigenvalues, vectors = jnp.linalg.eigh(kernel)
    along = jnp.matmul(vectors.T, targets.reshape(len(targets), -1), precision="highest")
    return _Modes(jnp.maximum(eigenvalues, 0), (along**2).sum(1) / 2)


def _scalar(name: str, value: ArrayLike) -> Array:
    number = jnp.asarray(check.array(name, value))
    if number.ndim:
        raise ValueError(f"{name} must be one number: got {list(number.shape)}; use jax.vmap.")
    return number


def _checked(ntk: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    kernel = jnp.asarray(check.array("ntk", ntk))
    targets = jnp.asarray(check.array("labels", labels))
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not kernel.size:
        raise ValueError(f"The NTK of N inputs is [N, N]: got shape {list(kernel.shape)}.")
    if targets.ndim not in (1, 2) or len(targets) != len(kernel):
        raise ValueError(
            f"Labels for this kernel are [{len(kernel)}] or [{len(kernel)}, K]: got shape "
            f"{list(targets.shape)}; use centered_one_hot for classes."
        )
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError(
            f"Labels to fit are floats: got {targets.dtype}; use centered_one_hot for classes."
        )
    return kernel, targets


def _loss(modes: _Modes, learning_rate: Array, steps: Array) -> Array:
    shape = (*(1 for _ in steps.shape), -1)
    shrinkage = abs(1 - learning_rate * modes.eigenvalues).reshape(shape)
    powers = shrinkage ** (2 * steps[..., None].astype(shrinkage.dtype))
    return (powers * modes.energies.reshape(shape)).sum(-1)
