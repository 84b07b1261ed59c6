"""Mean-field theory of wide random networks: what becomes of lengths and gradients with depth.

`q` is the variance of the pre-activations, `chi` the mean squared singular value of one layer's
Jacobian. Expectations over a standard Gaussian are sums over nodes, for any elementwise activation.
Gauss-Legendre on short panels, one of them ending at 0, and not Gauss-Hermite: a kink spoils only
the panel it is in, that of a ReLU none (Gauss-Hermite with 128 nodes errs by 0.3 % in `E relu(z)`).
Sources: Poole et al., 2016, arXiv 1606.05340 (the maps); Pennington, Schoenholz and Ganguli, 2017,
arXiv 1711.04735 (moments of a product).
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxnas.types import Array

Activation = Callable[[Array], Array]
"""An elementwise function."""

# Standard deviations from the mean, panels (an even number: one ends at 0) and nodes of each.
_REACH, _PANELS, _NODES = 12.0, 64, 8

# S-transform of the weights' spectrum, first order; see `product_spread`.
_FIRST_ORDER = {"gauss": -1.0, "orthogonal": 0.0}


def gaussian_mean(function: Callable[[Array], Array], variance: ArrayLike) -> Array:
    """Return `E function(u)` for `u` Gaussian with mean 0 and that variance, `float[]`."""
    nodes, weights = (jnp.asarray(row) for row in _quadrature())
    return jnp.sum(weights * function(jnp.sqrt(variance) * nodes))


def q_map(
    activation: Activation, q: ArrayLike, weight_variance: ArrayLike, bias_variance: ArrayLike = 0.0
) -> Array:
    """Return the variance one layer on, `weight_variance E f(u)² + bias_variance`.

    Args:
        activation: elementwise `f`.
        q: variance of the pre-activations `u`.
        weight_variance: of a weight, times the fan-in.
        bias_variance: of a bias.
    """
    scaled = jnp.asarray(weight_variance) * gaussian_mean(lambda u: activation(u) ** 2, q)
    return scaled + bias_variance


def chi_map(activation: Activation, q: ArrayLike, weight_variance: ArrayLike) -> Array:
    """Return `weight_variance E f'(u)²`: gradients vanish below 1 and explode above, with depth."""
    return jnp.asarray(weight_variance) * gaussian_mean(lambda u: _slope(activation, u) ** 2, q)


def fixed_point(
    activation: Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    *,
    start: float = 1.0,
    steps: int = 10_000,
) -> Array:
    """Return `q*` that `q_map` keeps, by iteration; nan where `steps` are not enough.

    They are not where the variance grows without end, nor at a critical point, where it falls to 0
    slower than exponentially. Where every `q` is kept (ReLU, weight variance 2), the start is.
    """

    def unsettled(state: tuple[Array, Array, Array]) -> Array:
        step, last, q = state
        return (step < steps) & jnp.isfinite(q) & (jnp.abs(q - last) > 1e-6 * q + 1e-12)

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, _, q = state
        return step + 1, q, q_map(activation, q, weight_variance, bias_variance)

    first = jnp.asarray(start, float)
    state = (jnp.asarray(0), jnp.full_like(first, jnp.inf), first)
    taken, _, q = lax.while_loop(unsettled, advance, state)
    return jnp.where((taken < steps) & jnp.isfinite(q), q, jnp.nan)


def product_spread(
    activation: Activation,
    q: ArrayLike,
    depth: int,
    weights: Literal["gauss", "orthogonal"],
) -> Array:
    """Return `cv²` of the squared singular values of `depth` layers `f'(u) W`, `float[]`.

    `L (m2 / m1² - 1 - s)`, `m` the moments of `f'(u)²` and `s` -1 for Gaussian weights and 0 for
    orthogonal ones: `2 L` and `L` for ReLU, so that neither is an isometry. Pennington, Schoenholz
    and Ganguli, 2017, equation 22.

    Raises:
        ValueError: unknown weights, or a depth below 1.
    """
    if weights not in _FIRST_ORDER:
        raise ValueError(f"weights must be gauss or orthogonal: got {weights!r}.")
    _check_depth(depth)
    first = gaussian_mean(lambda u: _slope(activation, u) ** 2, q)
    second = gaussian_mean(lambda u: _slope(activation, u) ** 4, q)
    return depth * (second / first**2 - 1 - _FIRST_ORDER[weights])


def normalized_chi(activation: Activation) -> Array:
    """Return `E f'(z)² / Var f(z)`: `phi` of an activation between two normalizations.

    The normalization after it divides by the standard deviation of `f`, so that no scale of the
    weights has a say: `pi / (pi - 1) = 1.467` for ReLU. An inverted residual block has two:
    `phi = 2.152` for all initializations.
    """
    mean = gaussian_mean(activation, 1.0)
    return chi_map(activation, 1.0, 1.0) / (q_map(activation, 1.0, 1.0) - mean**2)


def stack_phi(block_phi: float, depth: int, *, residual: bool) -> float:
    """Return `phi` of a stack of normalized blocks.

    Each starts and ends with a normalization. Without skip connections: the power. With them:
    the product of `1 + block_phi / j`, for block `j` adds variance 1 to a signal of variance `j`
    that its first normalization divides away.

    Raises:
        ValueError: a depth below 1.
    """
    _check_depth(depth)
    if not residual:
        return block_phi**depth
    return math.prod(1 + block_phi / position for position in range(1, depth + 1))


def _slope(activation: Activation, u: Array) -> Array:
    return jax.vmap(jax.grad(activation))(u)


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"depth must be at least 1 layer: got {depth}.")


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    width = 2 * _REACH / _PANELS
    middles = -_REACH + width * (np.arange(_PANELS) + 0.5)
    points = (middles[:, None] + width / 2 * nodes[None]).ravel()
    density = np.tile(weights, _PANELS) * np.exp(-np.square(points) / 2)
    return points, density / density.sum()
