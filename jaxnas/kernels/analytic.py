"""Infinite-width kernels, by neural-tangents: exact NNGP and NTK without any weights.

Chains of layers, and cells of any wiring: fully connected and convolutional ones. In a cell an edge
with weights is a ReLU and then the weights (`pre` order, that of NAS-Bench-201; neural-tangents
cannot add the outputs of ReLUs). There is no batch normalization, which has no kernel. Branches
that share weights are added as what they are: neural-tangents' own `FanInSum` takes any two for
independent, and two identities of one node for twice its kernel instead of four times.

Sources: Lee et al., 2018, arXiv 1711.00165 (NNGP); Jacot et al., 2018, arXiv 1806.07572 (NTK);
Novak et al., 2019, arXiv 1810.05148 (convolutions), and 2020, arXiv 1912.02803 (neural-tangents).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas.kernels._neural_tangents import stax
from jaxnas.kernels._signals import Operation, propagate
from jaxnas.types import Array, Kernels
from jaxnas.wiring import is_connected, num_nodes

__all__ = [
    "CELL_OPERATIONS",
    "NASBENCH201_OPERATIONS",
    "Kernels",
    "convolutional_cell",
    "fully_connected",
    "fully_connected_cell",
    "kernel_bytes",
    "kernels",
    "stax",
]

KernelFn = Callable[..., Any]
Readout = Literal["flatten", "pool"]

CELL_OPERATIONS: tuple[Operation, ...] = ("zero", "skip", "convolution 3x3")
"""What the kinds of a wiring are in a convolutional cell."""

NASBENCH201_OPERATIONS: tuple[Operation, ...] = (
    *("zero", "skip", "convolution 1x1", "convolution 3x3", "pool 3x3"),
)
"""What the decisions of a NAS-Bench-201 architecture are."""

MAX_BYTES = 4 * 2**30

_KINDS: tuple[Operation, ...] = ("zero", "skip", "linear")


def kernels(kernel_fn: KernelFn, inputs: Array, others: Array | None = None) -> Kernels:
    """Return NNGP and NTK between `inputs` and `others` (or itself).

    Args:
        kernel_fn: the third part of a `stax` layer or network.
        inputs: `[B, ...]`.
        others: `[B', ...]` or None.
    """
    both = kernel_fn(inputs, others, ("nngp", "ntk"))
    return Kernels(both.nngp, both.ntk)


def fully_connected(depth: int, *, weight_std: float = 2**0.5, bias_std: float = 0.0) -> KernelFn:
    """Return the kernel function of `depth` hidden ReLU layers and a linear read-out.

    Args:
        depth: number of hidden layers, 0 for a linear model.
        weight_std: standard deviation of weights times sqrt(fan_in); sqrt(2) keeps the variance.
        bias_std: standard deviation of biases.

    Raises:
        ValueError: a negative depth.
    """
    if depth < 0:
        raise ValueError(f"depth must not be negative: got {depth}; 0 is a linear model.")
    hidden = [stax.Dense(1, weight_std, bias_std), stax.Relu()] * depth
    return stax.serial(*hidden, stax.Dense(1, weight_std, bias_std))[2]


def fully_connected_cell(wiring: ArrayLike, inputs: ArrayLike) -> Kernels:
    """Return the kernels of a linear stem, a cell in `pre` order and a linear read-out.

    The stem keeps the Gram matrix of the inputs: node 0 has the kernel `X X^T`.

    Args:
        wiring: concrete, `int32[E]`: 0 zero, 1 skip, 2 ReLU and weights; see `jaxnas.wiring`.
        inputs: `[B, F]`.

    Raises:
        ValueError: no path from the input to the output, an unknown kind, or no rows.
    """
    decisions = _checked(wiring, _KINDS)
    rows = jnp.asarray(inputs)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"Inputs are rows [B, F]: got shape {list(rows.shape)}; flatten them.")
    stem = stax.Dense(1, float(rows.shape[1]) ** 0.5)[2]
    end = propagate(decisions, _KINDS, stem(rows, None))
    return kernels(stax.Dense(1)[2], end)


def convolutional_cell(
    arch: ArrayLike,
    images: ArrayLike,
    *,
    operations: Sequence[Operation] = CELL_OPERATIONS,
    readout: Readout = "flatten",
    max_bytes: float = MAX_BYTES,
) -> Kernels:
    """Return the kernels of a 3x3 stem, a cell in `pre` order and a linear read-out.

    Args:
        arch: concrete, `int32[E]`: for each edge a position in `operations`.
        images: `[B, H, W, C]`.
        operations: `CELL_OPERATIONS` for a wiring, `NASBENCH201_OPERATIONS` for a cell of that
            benchmark.
        readout: `flatten`, whose kernel is that of pixels with themselves, or `pool`, the mean over
            pixels, which needs that of all pairs of pixels, in float32.
        max_bytes: what the kernels may take at most, by `kernel_bytes`.

    Raises:
        ValueError: what `fully_connected_cell` refuses; kernels that need more than `max_bytes`;
            float64 for pairs of pixels, where XLA crashes; a pooling that meets its own input in a
            sum, which neural-tangents would take for independent.
    """
    decisions = _checked(arch, operations)
    x = jnp.asarray(images)
    if x.ndim != 4 or not x.size:
        raise ValueError(f"Images are [B, H, W, C]: got shape {list(x.shape)}.")
    if readout not in ("flatten", "pool"):
        raise ValueError(f"readout must be 'flatten' or 'pool': got {readout!r}.")
    names = [operations[decision] for decision in decisions]
    pairs = readout == "pool" or "pool 3x3" in names
    needed = kernel_bytes(
        x.shape,
        pairs_of_pixels=pairs,
        weights=sum("convolution" in name for name in names),
        dtype=x.dtype,
    )
    if needed > max_bytes:
        raise ValueError(
            f"The kernels of {x.shape[0]} images of {x.shape[1]}x{x.shape[2]} pixels need about "
            f"{needed / 2**30:.1f} GiB of {max_bytes / 2**30:.1f}: take fewer or smaller images"
            + (", or no pooling and readout='flatten'." if pairs else ", or raise max_bytes.")
        )
    if pairs and x.dtype == jnp.float64:
        raise ValueError(
            "Kernels of pairs of pixels crash in float64: got float64 images; cast them to float32."
        )
    with jax.enable_x64(bool(x.dtype == jnp.float64)):
        return _convolutional(tuple(decisions.tolist()), tuple(operations), readout, pairs, x)


def kernel_bytes(
    shape: Sequence[int], *, pairs_of_pixels: bool, weights: int, dtype: Any = np.float32
) -> float:
    """Return an estimate of the memory that `convolutional_cell` takes at its peak, in bytes.

    Args:
        shape: of the images, `[B, H, W, C]`.
        pairs_of_pixels: whether the kernel is of all pairs of pixels, or of pixels with themselves.
        weights: number of convolutions in the cell.
        dtype: of the images.
    """
    batch, height, width = shape[:3]
    tensor = batch**2 * float(height * width) ** (2 if pairs_of_pixels else 1)
    # Measured: 2 to 10 tensors of pixels with themselves, 3 to 13 of pairs. XLA frees most of what
    # it has read, so that more convolutions than four take no more.
    return tensor * np.dtype(dtype).itemsize * (6 + 2 * min(weights, 4))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _convolutional(
    arch: tuple[int, ...],
    operations: tuple[Operation, ...],
    readout: Readout,
    pairs: bool,
    images: Array,
) -> Kernels:
    stem = stax.Conv(1, (3, 3), padding="SAME")[2]
    first = stem(images, None, diagonal_batch=True, diagonal_spatial=not pairs)
    end = propagate(np.array(arch), operations, first)
    head = stax.GlobalAvgPool() if readout == "pool" else stax.Flatten()
    return kernels(stax.serial(head, stax.Dense(1))[2], end)


def _checked(arch: ArrayLike, operations: Sequence[Operation]) -> np.ndarray:
    decisions = np.asarray(arch)
    nodes = num_nodes(decisions)
    if (
        decisions.ndim != 1
        or decisions.dtype.kind not in "iu"
        or ((decisions < 0) | (decisions >= len(operations))).any()
    ):
        raise ValueError(
            f"One wiring is int32[E] of 0 to {len(operations) - 1} ({', '.join(operations)}): got "
            f"{decisions.dtype}{list(decisions.shape)} {decisions.tolist()}."
        )
    if not is_connected(np.array([name != "zero" for name in operations])[decisions]):
        raise ValueError(
            f"No path leads from node 0 to node {nodes - 1}: got {decisions.tolist()}; such a "
            "network has no kernel."
        )
    return decisions
