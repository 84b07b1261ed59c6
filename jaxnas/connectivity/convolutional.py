"""Exact kernels of convolutional NAS-Bench-201 cells at infinite width, poolings included.

A node is a sum of signals, each the output of a convolution with weights of its own, on which the
edges without weights act: a skip as the identity, a pooling as a matrix on pixels. Signals of
different weights are independent, so with `A_s` what acts on signal `s` the kernels of a node are
`sum_s A_s K_s A_s^T`. That holds for the sum of a pooling and its own input too, which
neural-tangents takes for independent, so that `kernels.analytic` refuses it.

An edge with weights is a ReLU, then the weights (`pre` order), with zeros around the image. There
is no batch normalization, which has no kernel.

In NumPy: a cell is computed edge by edge in milliseconds, where a program would take seconds
to compile. Sources: Novak et al., 2019, arXiv 1810.05148; Arora et al., 2019, arXiv 1904.11955.
"""

import functools

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, wiring
from jaxnas.benchmarks import notation
from jaxnas.types import Kernels

MAX_BYTES = 4 * 2**30
_TENSORS = 24  # NNGP and NTK of the stem, of six convolutions and of four nodes, and temporaries

_NODES, _STEM = 4, -1
_SKIP, _CONV_1X1, _CONV_3X3, _POOL = range(1, len(notation.OPERATIONS))
_SHIFTS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]


def convolutional_kernels(arch: ArrayLike, images: ArrayLike, *, last_relu: bool = True) -> Kernels:
    """Return the kernels `float64[N, N]` of a 3x3 stem, a cell and a mean over pixels, read out.

    Args:
        arch: one NAS-Bench-201 cell, `int32[6]`.
        images: `[N, H, W, C]`; all pairs of pixels of all pairs of images must fit into memory, so
            let them be few and small.
        last_relu: a ReLU before the mean over pixels, as in the benchmark.

    Raises:
        ValueError: no cell of the benchmark, one without a path, or images that are none, or too
            many or large.
    """
    decisions = notation.one(arch)
    array = _checked(images)
    nodes = _nodes(decisions, *array.shape[1:3])
    if not nodes[-1]:
        raise ValueError(
            f"No path leads from the input to the output: got {list(decisions)}; such a network "
            "has no kernel."
        )
    stem = _stem(array)

    @functools.cache
    def signal(edge: int) -> Kernels:
        if edge == _STEM:
            return stem
        return _layer(node(wiring.edges(_NODES)[edge][0]), 3 if decisions[edge] == _CONV_3X3 else 1)

    @functools.cache  # only what the output asks for is computed, so dead edges cost nothing
    def node(position: int) -> Kernels:
        return _sum([_acted(signal(edge), matrix) for edge, matrix in nodes[position].items()])

    end = _relu(node(_NODES - 1)) if last_relu else node(_NODES - 1)
    nngp, ntk = (kernel.mean((2, 3, 4, 5)) for kernel in end)
    return Kernels(nngp, nngp + ntk)


def _nodes(arch: tuple[int, ...], height: int, width: int) -> list[dict[int, np.ndarray]]:
    """Return for each node what acts on which signals, `[H W, H W]` by edge; none if unfed."""
    identity, pooling = np.eye(height * width), _pooling(height, width)
    nodes: list[dict[int, np.ndarray]] = [{} for _ in range(_NODES)]
    nodes[0][_STEM] = identity
    for edge, (source, target) in enumerate(wiring.edges(_NODES)):
        if arch[edge] in (_CONV_1X1, _CONV_3X3) and nodes[source]:
            nodes[target][edge] = identity
        elif arch[edge] in (_SKIP, _POOL):
            acting = identity if arch[edge] == _SKIP else pooling
            for signal, before in nodes[source].items():
                nodes[target][signal] = nodes[target].get(signal, 0) + acting @ before
    return nodes


def _acted(signal: Kernels, matrix: np.ndarray) -> Kernels:
    if np.array_equal(matrix, matrix[0, 0] * np.eye(len(matrix))):  # skips alone
        return Kernels(*(matrix[0, 0] ** 2 * kernel for kernel in signal))
    pairs = (kernel.reshape(-1, *matrix.shape) for kernel in signal)
    return Kernels(*((matrix @ pair @ matrix.T).reshape(signal.nngp.shape) for pair in pairs))


def _sum(terms: list[Kernels]) -> Kernels:
    return Kernels(*(functools.reduce(np.add, each) for each in zip(*terms, strict=True)))


def _layer(before: Kernels, size: int) -> Kernels:
    """Return the kernels after a ReLU and a convolution of standard deviation sqrt(2 / fan_in)."""
    moments, ntk = _relu(before)
    ntk = moments + ntk
    return Kernels(moments, ntk) if size == 1 else Kernels(_patches(moments), _patches(ntk))


def _relu(before: Kernels) -> Kernels:
    """Return the kernels after a ReLU times sqrt(2)."""
    variance = np.einsum("nnhwhw->nhw", before.nngp)
    scale = np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    scales = scale[:, None, :, :, None, None] * scale[None, :, None, None]
    cosine = np.clip(before.nngp / scales, -1, 1)
    angle = np.arcsin(cosine)
    moments = ((cosine * angle + np.sqrt(1 - cosine**2)) / np.pi + cosine / 2) * scales
    return Kernels(moments, (0.5 + angle / np.pi) * before.ntk)


def _patches(kernel: np.ndarray) -> np.ndarray:
    """Return the mean over the nine pixels of a 3x3 patch, those outside the image being zero."""
    total = np.zeros_like(kernel)
    height, width = kernel.shape[2:4]
    for shift in _SHIFTS:
        (to_row, from_row), (to_column, from_column) = (
            (slice(max(0, -each), size - max(0, each)), slice(max(0, each), size + min(0, each)))
            for each, size in zip(shift, (height, width), strict=True)
        )
        total[:, :, to_row, to_column, to_row, to_column] += kernel[
            :, :, from_row, from_column, from_row, from_column
        ]
    return total / len(_SHIFTS)


def _pooling(height: int, width: int) -> np.ndarray:
    """Return the 3x3 mean over pixels inside the image as a matrix, `[H W, H W]`."""

    def along(size: int) -> np.ndarray:
        near = abs(np.subtract.outer(np.arange(size), np.arange(size))) < 2
        return near / near.sum(1, keepdims=True)

    return np.kron(along(height), along(width))


def _stem(images: np.ndarray) -> Kernels:
    products = np.einsum("nhwc,mvuc->nmhwvu", images, images) / images.shape[-1]
    kernel = _patches(products)
    return Kernels(kernel, kernel)


def _checked(images: ArrayLike) -> np.ndarray:
    array = np.asarray(check.array("images", images), np.float64)
    if array.ndim != 4 or not array.size or len(array) < 2:
        raise ValueError(
            f"A kernel compares two images or more, [N, H, W, C]: got shape {list(array.shape)}."
        )
    count, height, width = array.shape[:3]
    needed = _TENSORS * array.itemsize * (count * height * width) ** 2
    if needed > MAX_BYTES:
        raise ValueError(
            f"The kernels of {count} images of {height}x{width} pixels need about "
            f"{needed / 2**30:.1f} GiB of {MAX_BYTES / 2**30:.1f}: take fewer or smaller images."
        )
    return array
