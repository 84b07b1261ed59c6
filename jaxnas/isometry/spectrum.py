"""The singular values of a module's Jacobian, and what a stack does to signals and gradients.

Written for one function of arrays, `y = f(x)`, at one point. Normalization by the statistics of a
batch couples its examples: fix the statistics first, or pass the whole batch as `x`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxnas.types import Array

Module = Callable[[Array], Array]


class Spectrum(NamedTuple):
    """The squared singular values of a Jacobian, exactly or as a quadrature.

    Those of the smaller of `J Jᵀ` and `Jᵀ J`: without the zeros that unequal widths alone cause.

    Attributes:
        eigenvalues: `[N]`, squared singular values, ascending.
        weights: `[N]`, the share of each, of sum 1.
    """

    eigenvalues: Array
    weights: Array

    @property
    def phi(self) -> Array:
        """Mean squared singular value, `float[]`: 1 for an isometry."""
        return jnp.sum(self.weights * self.eigenvalues)

    @property
    def cv_squared(self) -> Array:
        """Variance of the squared singular values over `phi²`, `float[]`: 0 for an isometry."""
        phi = self.phi
        return jnp.sum(self.weights * jnp.square(self.eigenvalues - phi)) / jnp.square(phi)

    def quantiles(self, shares: ArrayLike | Sequence[float]) -> Array:
        """Return the squared singular values `[Q]` below which lie these shares `[Q]`."""
        # A share that ends exactly with an eigenvalue is not lost to rounding.
        reached = jnp.cumsum(self.weights) + 1e-6
        positions = jnp.searchsorted(reached, jnp.asarray(shares, reached.dtype))
        return self.eigenvalues[jnp.minimum(positions, self.eigenvalues.size - 1)]


def exact_spectrum(module: Module, inputs: Array) -> Spectrum:
    """Return all squared singular values of the Jacobian at `inputs`.

    Args:
        module: any function of one array.
        inputs: of any shape; the Jacobian has its size times that of the outputs.
    """
    flat, outputs = _flat(module, inputs)
    differentiate = jax.jacrev if outputs < inputs.size else jax.jacfwd
    singular = jnp.linalg.svd(differentiate(flat)(inputs.ravel()), compute_uv=False)
    return Spectrum(jnp.square(singular[::-1]), jnp.full(singular.shape, 1 / singular.size))


def lanczos_spectrum(
    module: Module, inputs: Array, key: Array, *, steps: int = 16, probes: int = 8
) -> Spectrum:
    """Return an estimate of the spectrum from products with the Jacobian, which is never built.

    Stochastic Lanczos quadrature: `phi` and `cv_squared` are Hutchinson's estimates, with an error
    of one over the root of `probes` times the size of the Jacobian; quantiles are as coarse as
    `steps`. Sources: Golub and Meurant, 1994; Hutchinson, 1990.

    Args:
        module: any function of one array.
        inputs: of any shape.
        key: random key of the probes.
        steps: products with `J Jᵀ` for each probe, 2 or more.
        probes: random vectors of signs.

    Raises:
        ValueError: `steps` or `probes` too few.
    """
    if steps < 2 or probes < 1:
        raise ValueError(
            f"Lanczos needs 2 steps and 1 probe at least: got steps={steps}, probes={probes}."
        )
    flat, outputs = _flat(module, inputs)
    value, pull = jax.vjp(flat, inputs.ravel())
    push = jax.linearize(flat, inputs.ravel())[1]
    if outputs < inputs.size:
        size, product = outputs, lambda v: push(pull(v)[0])
    else:
        size, product = inputs.size, lambda v: pull(push(v))[0]
    signs = jax.random.rademacher(key, (probes, size), value.dtype)
    nodes, weights = lax.map(lambda v: _lanczos(product, v, min(steps, size)), signs)
    order = jnp.argsort(nodes.ravel())
    return Spectrum(nodes.ravel()[order], weights.ravel()[order] / probes)


class Propagation(NamedTuple):
    """What a stack of `L` layers does to one batch and to a gradient that comes back.

    Attributes:
        means: `[L]`, root mean square over the channels (last axis) of their means, layer by layer.
        variances: `[L]`, variance of all outputs of each layer.
        gradients: `[L]`, norm of the gradient at the input of each layer, that at the output of
            the last being 1.
    """

    means: Array
    variances: Array
    gradients: Array


def propagate(layers: Sequence[Module], inputs: Array, key: Array) -> Propagation:
    """Return how a signal and a random gradient pass a stack.

    Args:
        layers: functions of one array, applied in turn.
        inputs: of the first, channels last.
        key: random key of the gradient at the end.

    Raises:
        ValueError: no layers.
    """
    if not layers:
        raise ValueError("There is nothing to pass: got no layers; give one at least.")
    x, means, variances, pulls = inputs, [], [], []
    for layer in layers:
        x, pull = jax.vjp(layer, x)
        channel_means = x.mean(tuple(range(x.ndim - 1)))
        means.append(jnp.sqrt(jnp.mean(jnp.square(channel_means))))
        variances.append(x.var())
        pulls.append(pull)
    cotangent = jax.random.normal(key, x.shape, x.dtype)
    cotangent = cotangent / jnp.linalg.norm(cotangent.ravel())
    gradients = []
    for pull in reversed(pulls):
        (cotangent,) = pull(cotangent)
        gradients.append(jnp.linalg.norm(cotangent.ravel()))
    return Propagation(jnp.stack(means), jnp.stack(variances), jnp.stack(gradients[::-1]))


def _flat(module: Module, inputs: Array) -> tuple[Module, int]:
    """Return the module as a function of vectors, and the size of its outputs.

    Raises:
        ValueError: inputs or outputs that have no derivative.
    """
    outputs = jax.eval_shape(module, inputs)
    for name, array in (("inputs", inputs), ("outputs", outputs)):
        if not jnp.issubdtype(array.dtype, jnp.floating) or not array.size:
            raise ValueError(
                f"A Jacobian needs floating-point {name}, one number at least: got "
                f"{array.dtype}{list(array.shape)}."
            )
    return lambda x: module(x.reshape(inputs.shape)).ravel(), outputs.size


def _lanczos(product: Module, start: Array, steps: int) -> tuple[Array, Array]:
    """Return nodes and weights `[steps]` of the quadrature that belongs to one start vector."""
    floor = jnp.finfo(start.dtype).eps

    def advance(state: tuple[Array, Array], position: Array) -> tuple[tuple[Array, Array], Array]:
        basis, vector = state
        basis = basis.at[position].set(vector)
        image = product(vector)
        diagonal = vector @ image
        for _ in range(2):  # once is not orthogonal in floating point
            image = image - (basis @ image) @ basis
        length = jnp.linalg.norm(image)
        # An invariant subspace, all there is of an isometry: the rest of the matrix is zero.
        ended = length <= 10 * floor * jnp.abs(diagonal)
        length = jnp.where(ended, 0, length)
        following = jnp.where(ended, 0, image / jnp.where(ended, 1, length))
        return (basis, following), jnp.stack([diagonal, length])

    first = start / jnp.linalg.norm(start)
    basis = jnp.zeros((steps, start.size), start.dtype)
    _, rows = lax.scan(advance, (basis, first), jnp.arange(steps))
    diagonal, off = rows.T
    matrix = jnp.diag(diagonal) + jnp.diag(off[:-1], 1) + jnp.diag(off[:-1], -1)
    nodes, vectors = jnp.linalg.eigh(matrix)
    return nodes, jnp.square(vectors[0])
