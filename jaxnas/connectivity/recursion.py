"""Exact NNGP and NTK kernels of infinitely wide networks of any wiring, in closed form.

The state are the second moments `M_uv` of every pair of nodes and the mean `mu_u` of a unit of each
node: a sum of ReLU outputs has a mean, which the published rule leaves out, and nodes that share
paths are not independent, which neural-tangents leaves out. Differs from the paper: it is what wide
networks do (within 4 % at width 1024), not a sum of branches.

Two orders of a layer: `post`, an edge is ReLU(W x) and a node the sum of ReLU outputs, which the
paper trains; `pre`, an edge is W ReLU(x), as in NAS-Bench-201 and neural-tangents. Weights have
standard deviation sqrt(2 / width) (1 / sqrt(width) in the read-out), there are no biases; the NTK
is of all weights, the stem's and the read-out's too.

Sources: Lee et al., 2018, arXiv 1711.00165 (NNGP); Jacot et al., 2018, arXiv 1806.07572 (NTK); Cho
and Saul, NIPS 2009 (moments of ReLUs); the wirings of Chen et al., 2022, arXiv 2205.05662.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.connectivity.bound import relu_layer
from jaxnas.connectivity.inputs import square
from jaxnas.types import Array, Kernels
from jaxnas.wiring import LINEAR, SKIP, incoming, num_nodes, validate

Order = Literal["post", "pre"]
Stem = Literal["linear", "relu"]

MAX_BYTES = 8 * 2**30


class _State(NamedTuple):
    """What is known of the units of all `n` nodes.

    Attributes:
        second: second moments of each pair of nodes, `[n, n, N, N]`.
        mean: `[n, N]`.
        relu: second moments of their ReLUs, scaled to keep the diagonal, `[n, N, N]`.
        slope: second moments of the derivatives of these ReLUs, `[n, N, N]`.
        relu_mean: means of these ReLUs, `[n, N]`.
    """

    second: Array
    mean: Array
    relu: Array
    slope: Array
    relu_mean: Array


def kernels(
    wiring: ArrayLike, gram: Array, *, order: Order = "post", stem: Stem = "linear"
) -> Kernels:
    """Return the NNGP and NTK of one wiring `int32[E]`, which may be traced.

    In the dtype of `gram`; small eigenvalues need float64 inside `jax.enable_x64(True)`, which
    `over_wirings` takes care of. Without a path from the input to the output both are zero.

    Args:
        wiring: `int32[E]`, see `jaxnas.wiring`.
        gram: Gram matrix of the inputs, `[N, N]`; any diagonal.
        order: `post` (sum of ReLU outputs) or `pre` (ReLU, then weights).
        stem: the layer before node 0, `linear` or `relu`.

    Raises:
        ValueError: an unknown order or stem, or a ReLU stem in `pre` order, whose node 0 must be
            Gaussian.
    """
    _check(order, stem)
    gram = jnp.asarray(square("gram", gram))
    kinds = incoming(wiring)
    skip, linear = (kinds == SKIP).astype(gram.dtype), (kinds == LINEAR).astype(gram.dtype)
    state = _forward(skip, linear, _start(gram, stem, len(kinds)), order)
    diagonals = _diagonal(state.second)
    backward = _backward(skip, linear, state.slope)
    signal = state.slope * diagonals if order == "post" else state.relu
    weights = jnp.einsum("ts,sij,tij->ij", linear, signal, backward, precision="highest")
    stem_ntk = gram * backward[0]
    if stem == "relu":
        stem_ntk = stem_ntk * relu_layer(gram)[1]
    return Kernels(_symmetric(diagonals[-1]), _symmetric(diagonals[-1] + weights + stem_ntk))


def over_wirings(
    measure: Callable[[Kernels], Any],
    wirings: ArrayLike,
    gram: ArrayLike,
    *,
    order: Order = "post",
    stem: Stem = "linear",
) -> Any:
    """Return `measure(kernels)` of each wiring, NumPy leaves `[A, ...]`, in float64, compiled once.

    One wiring after another, so that only one set of moments `[n, n, N, N]` is in memory.

    Args:
        measure: of one `Kernels`; static under jit, so define it once. Eigenvalues of many small
            matrices are cheaper afterwards, by NumPy, than inside the program.
        wirings: concrete, `int32[A, E]`.
        gram: `[N, N]`, see `inputs.input_gram`.
        order: see `kernels`.
        stem: see `kernels`.

    Raises:
        ValueError: as `kernels` and `wiring.validate`; a matrix that is no Gram matrix; or moments
            that need more than `MAX_BYTES`.
    """
    _check(order, stem)
    check.instance("measure", measure, Callable, "a function of Kernels")
    checked = validate(wirings)
    if checked.ndim != 2:
        raise ValueError(f"Pass the wirings as [A, E]: got shape {list(checked.shape)}.")
    with jax.enable_x64(True):
        matrix = jnp.asarray(check.array("gram", gram), jnp.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
            raise ValueError(
                f"The kernel of two inputs or more is [N, N]: got shape {list(matrix.shape)}; "
                "make it with input_gram."
            )
        needed = 2 * 8 * (num_nodes(checked) * len(matrix)) ** 2  # forward and backward
        if needed > MAX_BYTES:
            raise ValueError(
                f"The moments of {num_nodes(checked)} nodes and {len(matrix)} inputs need "
                f"{needed / 2**30:.1f} GiB of {MAX_BYTES / 2**30:.0f}: take fewer inputs."
            )
        return jax.tree.map(np.asarray, _map(measure, order, stem, jnp.asarray(checked), matrix))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _map(
    measure: Callable[[Kernels], Any], order: Order, stem: Stem, wirings: Array, gram: Array
) -> Any:
    return jax.lax.map(
        lambda wiring: measure(kernels(wiring, gram, order=order, stem=stem)), wirings
    )


def _check(order: str, stem: str) -> None:
    check.choice("order", order, ("post", "pre"))
    check.choice("stem", stem, ("linear", "relu"))
    if (order, stem) == ("pre", "relu"):
        raise ValueError(
            "In pre order node 0 must be Gaussian: got a relu stem; use stem='linear' or "
            "order='post'."
        )


def _start(gram: Array, stem: Stem, nodes: int) -> _State:
    size = len(gram)
    pairs, matrices, rows = (
        jnp.zeros(shape, gram.dtype)
        for shape in ((nodes, nodes, size, size), (nodes, size, size), (nodes, size))
    )
    if stem == "relu":
        rows_with_first = rows.at[0].set(jnp.sqrt(jnp.diagonal(gram) / jnp.pi))
        return _State(
            pairs.at[0, 0].set(relu_layer(gram)[0]), rows_with_first, matrices, matrices, rows
        )
    return _State(pairs.at[0, 0].set(gram), rows, matrices, matrices, rows)


def _forward(skip: Array, linear: Array, start: _State, order: Order) -> _State:
    """Return the state of all nodes; nothing is known of the ReLU of the last, which has none."""

    def add_node(target: Array, state: _State) -> _State:
        state = _with_relu(state, target - 1, order)
        skips, linears = skip[target], linear[target]
        layer_mean = linears @ state.relu_mean
        skip_mean = skips @ state.mean
        # With the earlier nodes: new weights are independent of them, but not the mean of a ReLU.
        shared = jnp.einsum("s,svij->vij", skips, state.second, precision="highest")
        shared += layer_mean[None, :, None] * state.mean[:, None, :]
        diagonal = jnp.einsum("v,vij->ij", skips, shared, precision="highest")
        diagonal += jnp.einsum("s,sij->ij", linears, state.relu, precision="highest")
        diagonal += (skip_mean + layer_mean)[:, None] * layer_mean[None, :]
        diagonal -= jnp.einsum(
            "s,si,sj->ij", linears, state.relu_mean, state.relu_mean, precision="highest"
        )
        return state._replace(
            second=_with_pairs(state.second, target, shared, diagonal),
            mean=state.mean.at[target].set(skip_mean + layer_mean),
        )

    return jax.lax.fori_loop(1, len(skip), add_node, start)


def _with_relu(state: _State, node: Array, order: Order) -> _State:
    moments = state.second[node, node]
    relu, slope = relu_layer(moments)
    mean = jnp.sqrt(jnp.diagonal(moments) / jnp.pi) * (order == "post")
    return state._replace(
        relu=state.relu.at[node].set(relu),
        slope=state.slope.at[node].set(slope),
        relu_mean=state.relu_mean.at[node].set(mean),
    )


def _with_pairs(second: Array, node: Array, shared: Array, diagonal: Array) -> Array:
    second = second.at[node].set(shared).at[:, node].set(shared.swapaxes(1, 2))
    return second.at[node, node].set(diagonal)


def _backward(skip: Array, linear: Array, slope: Array) -> Array:
    """Return the second moments of the gradients at the nodes, `[n, N, N]`."""
    nodes = len(skip)

    def add_node(step: Array, second: Array) -> Array:
        source = nodes - 1 - step
        skips, linears = skip[:, source], linear[:, source]
        shared = jnp.einsum("t,tuij->uij", skips, second, precision="highest")
        diagonal = jnp.einsum("u,uji->ij", skips, shared, precision="highest")
        through = jnp.einsum("t,tij->ij", linears, _diagonal(second), precision="highest")
        return _with_pairs(second, source, shared, diagonal + slope[source] * through)

    last = jnp.zeros((nodes, *slope.shape), slope.dtype).at[-1, -1].set(1)
    return _diagonal(jax.lax.fori_loop(1, nodes, add_node, last))


def _diagonal(second: Array) -> Array:
    nodes = jnp.arange(len(second))
    return second[nodes, nodes]


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2
