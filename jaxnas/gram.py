"""Statistics of a Gram matrix `[B, B]`: positive semi-definite, symmetric.

The dtype of the input is kept. Differences of large sums (`offdiagonal_mean`) and small eigenvalues
(`condition_number`) need float64: pass a float64 array inside `jax.enable_x64(True)`.
"""

import jax
import jax.numpy as jnp
from jax import custom_batching
from jax.scipy.special import entr

from jaxnas.types import Array


def mean(gram: Array) -> Array:
    """Return the mean of all entries, `(1/B^2) sum_ij G_ij`: MGM."""
    return gram.mean()


def diagonal_mean(gram: Array) -> Array:
    """Return the mean of the diagonal, `(1/B) sum_i G_ii`: mean squared norm, V."""
    return jnp.trace(gram) / gram.shape[0]


def offdiagonal_mean(gram: Array) -> Array:
    """Return the mean over `i != j`, O; `mean = diagonal_mean / B + (1 - 1/B) O`.

    Unbiased for the squared norm of the expected gradient; nan for one example.
    """
    count = gram.shape[0]
    if count == 1:
        return jnp.full((), jnp.nan, gram.dtype)
    return (gram.sum() - jnp.trace(gram)) / (count * (count - 1))


def split_half_mean(gram: Array) -> Array:
    """Return the inner product of the mean gradients of both halves; a last odd one is left out.

    Unbiased for the squared norm of the expected gradient; nan for one example.
    """
    half = gram.shape[0] // 2
    if half == 0:
        return jnp.full((), jnp.nan, gram.dtype)
    return gram[:half, half : 2 * half].mean()


def correlation_matrix(gram: Array) -> Array:
    """Return the cosines `[B, B]`; rows and columns of zero vectors are zero."""
    squares = jnp.diagonal(gram)
    inverse = jnp.where(squares > 0, 1 / jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return gram * inverse[:, None] * inverse[None, :]


def cosine_mean(gram: Array) -> Array:
    """Return the mean cosine of all pairs (with itself too), zero vectors left out; 0 if all are.

    R of KNAS: `(1/B^2) sum_ij cos(g_i, g_j)`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import gram
        >>> float(gram.cosine_mean(jnp.array([[4.0, 1.0], [1.0, 1.0]])))
        0.75
    """
    count = (jnp.diagonal(gram) > 0).sum()
    return correlation_matrix(gram).sum() / jnp.maximum(count, 1) ** 2


def center_coordinates(gram: Array, coordinate_sum: Array, size: Array | int) -> Array:
    """Return the Gram matrix after subtracting from each vector the mean of its own coordinates.

    The cosine of what remains is Pearson's correlation.

    Args:
        gram: `[B, B]`.
        coordinate_sum: sum of the coordinates of each vector, `[B]`.
        size: number of coordinates.
    """
    return gram - coordinate_sum[:, None] * coordinate_sum[None, :] / size


def eigenvalues(gram: Array) -> Array:
    """Return the eigenvalues `[B]`, ascending, never negative (rounding can make them so).

    On a CPU `jax.vmap` takes one matrix after the other: where a program has several batches of
    eigenvalues, jaxlib's LAPACK waits for threads that wait for it, and the program never ends.
    """
    values = jax.lax.platform_dependent(gram, cpu=_one_after_the_other, default=_eigenvalues)
    return jnp.maximum(values, 0)


def _eigenvalues(gram: Array) -> Array:
    return jnp.linalg.eigvalsh(gram)


_one_after_the_other = custom_batching.sequential_vmap(_eigenvalues)


def condition_number(gram: Array, *, eps: Array | float | None = None) -> Array:
    """Return the largest over the smallest eigenvalue; inf for a singular matrix.

    "Singular" means to working precision: the smallest is below `B * eps` of the largest.

    Args:
        gram: `[B, B]`.
        eps: relative precision of the entries; that of their dtype if None. A matrix that was
            measured in float32 is no more precise as float64.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import gram
        >>> float(gram.condition_number(jnp.diag(jnp.array([8.0, 2.0]))))
        4.0
    """
    values = eigenvalues(gram)
    floor = gram.shape[0] * (jnp.finfo(gram.dtype).eps if eps is None else eps) * values[-1]
    smallest = values[0]
    ratio = values[-1] / jnp.where(smallest > floor, smallest, 1)
    return jnp.where(smallest <= floor, jnp.inf, ratio)


def spectral_entropy(gram: Array) -> Array:
    """Return the entropy of the eigenvalues as shares of the trace, in nats; 0 for zeros."""
    values = eigenvalues(gram)
    return entr(values / jnp.where(values.sum() == 0, 1, values.sum())).sum()


def effective_rank(gram: Array) -> Array:
    """Return the exponential of the spectral entropy (Roy and Vetterli, EUSIPCO 2007), 1 to B.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import gram
        >>> float(gram.effective_rank(jnp.eye(3)))
        3.0
    """
    return jnp.exp(spectral_entropy(gram))
