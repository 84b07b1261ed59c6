"""The published bound on convergence, its propagation rule and its theorem, as printed.

Source: Chen et al., "Deep Architecture Connectivity Matters for Its Convergence", NeurIPS 2022,
arXiv 2205.05662, sections 3 and 4; the map is the arc-cosine kernel of order 1 of Cho and Saul,
NIPS 2009. What is known to be wrong with them, and what `recursion` and `linearized` do instead:

* the rule adds the kernels of branches as if they were independent and had mean zero. ReLU outputs
  have a mean, and two skips from one node are the same signal;
* the bound (equation 12) falls with depth at a fixed number of paths, where the smallest eigenvalue
  rises; it follows the number of paths, and with that the trace. It is no upper bound either where
  paths of different depth are added before a nonlinearity;
* the rate is that of the NNGP kernel. Training follows the NTK.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.connectivity.dag import path_histogram
from jaxnas.connectivity.inputs import square
from jaxnas.types import Array
from jaxnas.wiring import LINEAR, MAX_NODES, SKIP, incoming


def arc_cosine(cosine: ArrayLike) -> Array:
    """Return the cosine after a wide ReLU layer, `h(c)`, in [0, 1]; elementwise.

    `h(c) = (c arcsin c + sqrt(1 - c^2)) / pi + c / 2`, increasing and convex, `h(c) >= c`.
    """
    c = jnp.clip(jnp.asarray(cosine) * 1.0, -1, 1)
    return (c * jnp.arcsin(c) + jnp.sqrt(1 - c**2)) / jnp.pi + c / 2


def arc_cosine_derivative(cosine: ArrayLike) -> Array:
    """Return `h'(c) = 1/2 + arcsin(c) / pi`, in [0, 1]: twice the share of units active in both."""
    return 0.5 + jnp.arcsin(jnp.clip(jnp.asarray(cosine) * 1.0, -1, 1)) / jnp.pi


def arc_cosine_powers(cosine: ArrayLike, largest: int) -> Array:
    """Return `h` applied 0 to `largest` times, `[largest + 1, ...]`."""
    start = jnp.asarray(cosine) * 1.0
    rest = jax.lax.scan(lambda c, _: 2 * (arc_cosine(c),), start, length=largest)[1]
    return jnp.concatenate([start[None], rest])


def relu_layer(gram: Array) -> tuple[Array, Array]:
    """Return second moments and derivatives after a wide ReLU layer, both `[N, N]`.

    The moments are `f(K)_ij = h(C_ij) sqrt(K_ii K_jj)`, with `C` the cosines; the diagonal is kept
    and rows of zeros stay so. The derivatives are `h'(C_ij)`.
    """
    scale = jnp.sqrt(jnp.diagonal(gram))
    ratio = cosines(gram)
    moments = arc_cosine(ratio) * (scale[:, None] * scale[None, :])
    return moments, arc_cosine_derivative(ratio)


def cosines(gram: Array) -> Array:
    """Return `K_ij / sqrt(K_ii K_jj)`, `[N, N]`, exactly 1 on the diagonal and 0 for zero rows."""
    scale = jnp.sqrt(jnp.diagonal(gram))
    inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    ratio = gram * inverse[:, None] * inverse[None, :]
    # At 1 the map loses half the digits, so the diagonal must not be left to rounding.
    return jnp.where(jnp.eye(len(gram), dtype=bool), (scale > 0)[:, None], ratio)


def published_bound(wiring: ArrayLike, cosine: ArrayLike) -> Array:
    """Return equation 12, `min over cosines (P - |sum_p h^d_p(c)|)`, `float[]`.

    Said to bound the smallest eigenvalue of the NNGP kernel; see the module for what holds. Without
    a negative sum the minimum is at the largest cosine, so that one is enough.

    Args:
        wiring: `int32[E]`, may be traced.
        cosine: between different inputs, any shape, a scalar or all pairs.
    """
    histogram = path_histogram(wiring)
    cosines_ = jnp.ravel(jnp.asarray(check.array("cosine", cosine), float))
    powers = arc_cosine_powers(cosines_, len(histogram) - 1)
    total = (histogram[:, None] * powers).sum(0)
    # Differences first: at large P and c near 1 the sums are close to each other.
    positive = (histogram[:, None] * (1 - powers)).sum(0)
    return jnp.where(total >= 0, positive, histogram.sum() + total).min()


def published_kernel(wiring: ArrayLike, gram: Array) -> Array:
    """Return the NNGP kernel by the published rule, `[N, N]`: a node adds what comes in.

    Args:
        wiring: `int32[E]`, may be traced.
        gram: kernel of the input, `[N, N]`.
    """
    gram = jnp.asarray(square("gram", gram))
    kinds = incoming(wiring)

    def add(target: Array, kernels: Array) -> Array:
        skip, linear = (
            (kinds[target] == kind).astype(gram.dtype)[:, None, None] for kind in (SKIP, LINEAR)
        )
        layers = jax.vmap(lambda kernel: relu_layer(kernel)[0])(kernels)
        return kernels.at[target].set((skip * kernels + linear * layers).sum(0))

    start = jnp.zeros((len(kinds), *gram.shape), gram.dtype).at[0].set(gram)
    return jax.lax.fori_loop(1, len(kinds), add, start)[-1]


def smallest_minor(gram: Array) -> Array:
    """Return the smallest eigenvalue of all 2x2 principal minors, `float[]`.

    An upper bound of the smallest eigenvalue (Cauchy); lemma 3.3 of the paper.
    """
    diagonal = jnp.diagonal(gram)
    mean = (diagonal[:, None] + diagonal[None, :]) / 2
    half = (diagonal[:, None] - diagonal[None, :]) / 2
    smaller = mean - jnp.sqrt(half**2 + gram**2)
    return jnp.where(jnp.eye(len(gram), dtype=bool), jnp.inf, smaller).min()


class Theorem(NamedTuple):
    """What theorem 3.1 asks and promises, every hidden constant set to 1.

    Attributes:
        factor: per step of the squared error, `1 - learning_rate * eigenvalue / 2`.
        learning_rate: the largest that is allowed.
        width: the smallest that is allowed.
    """

    factor: float
    learning_rate: float
    width: float


def convergence_theorem(
    eigenvalue: float,
    *,
    samples: int,
    paths: float,
    nodes: int,
    failure: float = 0.01,
    learning_rate: float | None = None,
    published: bool = False,
) -> Theorem:
    """Return the rate of theorem 3.1 and its conditions; vacuous in practice.

    Args:
        eigenvalue: smallest of the NNGP kernel.
        samples: number of training inputs, N.
        paths: from input to output, P.
        nodes: of the wiring, H + 1.
        failure: probability that the theorem may fail with.
        learning_rate: that of the factor; the largest that is allowed if None.
        published: multiply the learning rate by 2^H, as printed. Differs from the paper otherwise:
            divide by it, as the theorem's source does (Du et al., ICML 2019, arXiv 1811.03804).

    Raises:
        ValueError: a kernel without a positive smallest eigenvalue, or numbers out of range.
    """
    check.integer("samples", samples, 2)
    check.integer("nodes", nodes, 2, MAX_NODES)
    check.real("paths", paths, 1)
    if learning_rate is not None:
        check.real("learning_rate", learning_rate)
    if not check.real("eigenvalue", eigenvalue) > 0:
        raise ValueError(
            f"The theorem needs a positive smallest eigenvalue: got {eigenvalue}; drop inputs that "
            "are parallel, and wirings without a linear edge where inputs outnumber features."
        )
    if not 0 < check.real("failure", failure) < 1:
        raise ValueError(f"failure must be a probability above 0 and below 1: got {failure}.")
    height = nodes - 1
    size = samples * paths
    allowed = eigenvalue / size**2 * 2.0 ** (height if published else -height)
    width = max(
        (size / eigenvalue) ** 4,
        size * height / failure,
        (size / eigenvalue) ** 2 * math.log(height * samples / failure) * 2.0**height,
    )
    rate = allowed if learning_rate is None else learning_rate
    return Theorem(1 - rate * eigenvalue / 2, allowed, width)
