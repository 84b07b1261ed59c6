"""Initial kernels of convolutions, from Gaussian to exactly isometric.

An isometric map keeps all lengths: the eigenvalues of `J Jᵀ`, `J` its Jacobian, are all 1. Closed
forms below are of `phi`, their mean, and `cv²`, their variance over `phi²` (0 for an isometry up to
scale), for circular padding, stride 1 and many channels; see `spectrum`.

Kernels are `[k, k, I, O]`; where `I` is 1 and `k` above 1 they count as depthwise, one filter for
each of `O` channels. A tensor initializer is `init(key, shape, dtype)`, as JAX has it; a block
initializer, `init(key, BlockShape, dtype)`, draws the three kernels of an inverted residual block
together, because in the mirrored ones they depend on each other.

Source: "Dynamical Isometry based Rigorous Fair Neural Architecture Search", arXiv 2307.02263. It
describes `qr`, which is isometric for 1x1 kernels only; `gauss` is what it compares with.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxnas.types import Array


class BlockShape(NamedTuple):
    """The widths of an inverted residual block; with `hidden == inputs` it does not expand."""

    inputs: int
    hidden: int
    outputs: int
    size: int


class BlockKernels(NamedTuple):
    """The kernels of an inverted residual block, in the order in which they are applied.

    Attributes:
        expand: `[1, 1, inputs, hidden]`, or None for a block that does not expand.
        depthwise: `[size, size, 1, hidden]`.
        project: `[1, 1, hidden, outputs]`.
    """

    expand: Array | None
    depthwise: Array
    project: Array


Initializer = Callable[..., Array]
"""`init(key, shape, dtype)`: a kernel."""

BlockInitializer = Callable[[Array, BlockShape, DTypeLike], BlockKernels]


class Initialization(NamedTuple):
    """How to draw a network: `tensor` for single kernels (stem, head), `block` for blocks."""

    tensor: Initializer
    block: BlockInitializer


def gauss(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """Return independent numbers of variance `2 / (k² O)`, what MobileNets are drawn from.

    Dense: `phi = 2 I / min(I, O)`, `cv² = 1` for `I = O`. Depthwise: `phi = 2 / C`, for the
    number of outputs counts all channels; `cv²` about 1.
    """
    size, _, _, outputs = _checked(shape)
    return jax.random.normal(key, shape, dtype) * (2 / (size**2 * outputs)) ** 0.5


def qr(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """Return the orthogonal factor of a Gaussian matrix `[k k I, O]`, uniform (Haar).

    1x1: `phi = 1`, `cv² = 0`. Dense of equal widths: `phi = 1`, `cv² = 1 - 1 / k²`. Depthwise of
    more than `k²` channels: filters of unequal norms and `phi = k² / C`. Independent expansion to
    `t` times the width and projection, nothing between: `phi = 1 / t`, `cv² = 1 - 1 / t`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxnas.isometry import initializers
        >>> kernel = initializers.qr(jax.random.key(0), (1, 1, 8, 8))[0, 0]
        >>> bool(jnp.allclose(kernel @ kernel.T, jnp.eye(8), atol=1e-5))
        True
    """
    size, _, inputs, outputs = _checked(shape)
    return _orthogonal(key, size**2 * inputs, outputs, dtype).reshape(shape)


def qr_scaled(
    key: Array, shape: Sequence[int], dtype: DTypeLike = float, *, gain: float = 1.0
) -> Array:
    """Return `qr` with filters of norm `gain`, so that a unit keeps the variance of its inputs.

    Dense filters have that norm in the mean square: an expansion is multiplied by the root of its
    ratio; depthwise ones each: `phi = gain²` and `cv² = (k² - 1) / (k² + 2)`. After a ReLU the gain
    that keeps second moments is the root of 2.
    """
    kernel = qr(key, shape, dtype)
    if _is_depthwise(shape):
        return gain * kernel / jnp.linalg.norm(kernel, axis=(0, 1), keepdims=True)
    filters = shape[0] ** 2 * shape[2]
    return gain * max(1.0, shape[3] / filters) ** 0.5 * kernel


def shift(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """Return an orthogonal 1x1 kernel after a shift of each input channel by a random tap.

    Dense and depthwise: `phi = 1`, `cv² = 0`, and the size of the kernel stays visible: a shift of
    each channel is, up to scale, the only depthwise filter that is isometric.
    """
    size, _, inputs, outputs = _checked(shape)
    key_taps, key_mix = jax.random.split(key)
    channels = outputs if _is_depthwise(shape) else inputs
    taps = jax.random.randint(key_taps, (channels,), 0, size**2)
    return _at_taps(key_mix, taps, shape, dtype)


def delta(key: Array, shape: Sequence[int], dtype: DTypeLike = float) -> Array:
    """Return an orthogonal 1x1 kernel at the center tap, ones there if depthwise.

    `phi = 1`, `cv² = 0`; kernels of all sizes are the same function, so that nothing can be learnt
    about their size: a control. Source of the dense form: Xiao et al., 2018, arXiv 1806.05393.

    Raises:
        ValueError: an even size, which has no center.
    """
    size, _, inputs, outputs = _checked(shape)
    if size % 2 == 0:
        raise ValueError(f"A delta sits at the center of the kernel: got size {size}; use an odd.")
    channels = outputs if _is_depthwise(shape) else inputs
    return _at_taps(key, jnp.full(channels, size**2 // 2), shape, dtype)


def mirror(key: Array, shape: BlockShape, dtype: DTypeLike = float) -> BlockKernels:
    """Return a block that is exactly `x -> x Q`, `Q` orthogonal, with ReLU and no normalization.

    With `A` of orthonormal rows and `B = Aᵀ Q`: expand `[A, -A]`, delta, project `[B; -B]`, since
    `relu(u) - relu(-u) = u`. `phi = 1`, `cv² = 0` (with ReLU6 while activations stay below 6), and
    therefore the same function, up to rotation, for every size and expansion. Standard
    normalization in the middle breaks it, unless its bias keeps the signal positive. Source of the
    mirror: Balduzzi et al., "The Shattered Gradients Problem", 2017, arXiv 1702.08591, section 4.

    Raises:
        ValueError: hidden units that are odd in number, or less than twice the inputs.
    """
    _check_mirror(shape)
    key_hidden, key_rotation = jax.random.split(key)
    half = _orthogonal(key_hidden, shape.inputs, shape.hidden // 2, dtype)
    taps = jnp.full(shape.hidden // 2, shape.size**2 // 2)
    return _mirrored(key_rotation, shape, half, taps)


def mirror_shift(key: Array, shape: BlockShape, dtype: DTypeLike = float) -> BlockKernels:
    """Return `mirror` with a shift, by a random tap, of each direction of an orthonormal basis.

    The columns of `A` are those of a basis, repeated and divided by the root of how often, and all
    of one direction share a tap: `x -> x U S Uᵀ Q`, `S` the shifts. `phi = 1`, `cv² = 0`; the size
    of the kernel is visible, the expansion is not.

    Raises:
        ValueError: as `mirror`.
    """
    _check_mirror(shape)
    key_basis, key_taps, key_rotation = jax.random.split(key, 3)
    directions = jnp.arange(shape.hidden // 2) % shape.inputs
    times = jnp.bincount(directions, length=shape.inputs)[directions]
    basis = _orthogonal(key_basis, shape.inputs, shape.inputs, dtype)
    half = basis[:, directions] / jnp.sqrt(times)[None].astype(basis.dtype)
    taps = jax.random.randint(key_taps, (shape.inputs,), 0, shape.size**2)[directions]
    return _mirrored(key_rotation, shape, half, taps)


def each(
    initializer: Initializer,
    key: Array,
    shape: BlockShape,
    dtype: DTypeLike = float,
    **after: float,
) -> BlockKernels:
    """Return the kernels of a block, drawn independently of each other.

    Args:
        initializer: of each kernel.
        key: random key.
        shape: widths of the block.
        dtype: of the kernels.
        **after: options of the initializer for the two kernels that read a rectified signal.
    """
    inputs, hidden, outputs, size = _checked_block(shape)
    keys = jax.random.split(key, 3)
    expands = hidden != inputs
    return BlockKernels(
        initializer(keys[0], (1, 1, inputs, hidden), dtype) if expands else None,
        initializer(keys[1], (size, size, 1, hidden), dtype, **(after if expands else {})),
        initializer(keys[2], (1, 1, hidden, outputs), dtype, **after),
    )


BY_NAME: Mapping[str, Initialization] = {
    "gauss": Initialization(gauss, functools.partial(each, gauss)),
    "qr": Initialization(qr, functools.partial(each, qr)),
    "qr_scaled": Initialization(qr_scaled, functools.partial(each, qr_scaled, gain=2**0.5)),
    "shift": Initialization(shift, functools.partial(each, shift)),
    "delta": Initialization(delta, functools.partial(each, delta)),
    "mirror": Initialization(delta, mirror),
    "mirror_shift": Initialization(shift, mirror_shift),
}
"""Initializations by name; the published method is `qr`."""


def _orthogonal(key: Array, rows: int, columns: int, dtype: DTypeLike) -> Array:
    """Return `[rows, columns]`, uniform among those with orthonormal rows or columns."""
    precise = jnp.promote_types(jax.dtypes.canonicalize_dtype(dtype), jnp.float32)
    tall = jax.random.normal(key, (max(rows, columns), min(rows, columns)), precise)
    factor, triangle = jnp.linalg.qr(tall)
    # Only with a positive diagonal of the triangle is the factor unique, and uniform.
    factor = factor * jnp.where(jnp.diag(triangle) < 0, -1, 1)[None].astype(precise)
    return (factor if rows >= columns else factor.T).astype(dtype)


def _at_taps(key: Array, taps: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Return the kernel with one non-zero tap for each of its channels."""
    where = jax.nn.one_hot(taps, shape[0] ** 2, dtype=dtype)
    if _is_depthwise(shape):
        return where.T.reshape(shape)
    mix = _orthogonal(key, shape[2], shape[3], dtype)
    return (where.T[:, :, None] * mix[None]).reshape(shape)


def _mirrored(key: Array, shape: BlockShape, half: Array, taps: Array) -> BlockKernels:
    """Return the block of half the hidden units, `[inputs, hidden / 2]`, and their taps."""
    size = shape.size
    back = half.T @ _orthogonal(key, shape.inputs, shape.outputs, half.dtype)
    filters = jax.nn.one_hot(taps, size**2, dtype=half.dtype).T.reshape(size, size, 1, -1)
    return BlockKernels(
        jnp.concatenate([half, -half], axis=1)[None, None],
        jnp.concatenate([filters, filters], axis=3),
        jnp.concatenate([back, -back], axis=0)[None, None],
    )


def _is_depthwise(shape: Sequence[int]) -> bool:
    return shape[0] > 1 and shape[2] == 1


def _checked(shape: Sequence[int]) -> Sequence[int]:
    if len(shape) != 4 or min(shape) < 1 or shape[0] != shape[1]:
        raise ValueError(
            "The kernel of a convolution is [k, k, inputs, outputs], all at least 1: got shape "
            f"{list(shape)}; dense layers are [1, 1, inputs, outputs]."
        )
    return shape


def _checked_block(shape: BlockShape) -> BlockShape:
    if min(shape) < 1:
        raise ValueError(f"The widths and the size of a block are at least 1: got {shape}.")
    return shape


def _check_mirror(shape: BlockShape) -> None:
    if min(shape) < 1 or shape.size % 2 == 0:
        raise ValueError(
            f"The widths of a mirrored block are at least 1 and its size is odd: got {shape}."
        )
    if shape.hidden % 2 or shape.hidden < 2 * shape.inputs:
        raise ValueError(
            "A mirrored block needs hidden units in pairs, twice as many as inputs or more: got "
            f"{shape.hidden} for {shape.inputs} inputs; use an expansion of 2, 3 or more with an "
            "even width."
        )
