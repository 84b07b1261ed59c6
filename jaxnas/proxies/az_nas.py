"""The scores of AZ-NAS: what each block does to the features, and to a gradient that passes it.

Source: Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR
2024, arXiv 2403.19232. Its own rank is `aggregate.log_rank` of the three scores here and `flops`.

Features `f_l` `[B, H, W, C]` are what the stages of a network give, stem and cells of a space, or
the blocks of any other network (see `programs`), for normal noise in place of the images, as
published: they need no data, and take one forward pass, all three together; `trainability` also
takes the backward pass of each block. Tokens `[B, T, C]` are pixels in a row. Where no stage has
any position, as in a perceptron, features are `[B, C]`. Differs from the released code: the weights
are those given, not drawn anew by He's rule; a network that reads tokens is given those of the
batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import gram
from jaxnas.proxies import measures
from jaxnas.types import Array, Passed, Proxy, is_floating, wide


def expressivity() -> Proxy:
    """Return the sum over blocks of the entropy of the features' principal components.

    `sum_l h_l`, `h_l = - sum_c p_c log p_c` in nats, `p` the eigenvalues of the `C x C` covariance
    of `f_l` over examples and pixels, divided by their sum (equation 3). `-inf` where features are
    constant.

    Differs from the released code: it adds 1e-8 inside the logarithm, 1e-7 of the score.
    """
    return Proxy("expressivity", _ENTROPIES, jnp.sum)


def progressivity() -> Proxy:
    """Return the smallest step in entropy from a block to the next, `min_l h_l - h_{l-1}`.

    Equation 4; see `expressivity` for `h_l`.
    """
    return Proxy("progressivity", _ENTROPIES, _smallest_step)


def trainability() -> Proxy:
    """Return the mean over blocks of `2 - s - 1 / s`, 0 where gradients keep their size.

    Equation 7: `s` is the largest singular value of `v^T u / (B H W)`, `u` a draw of signs in place
    of the gradient of `f_l`, and `v` what the block makes of it at its inputs, `f_{l-1}`. Where the
    block halves the image, pixels that go together are channels of `v`.

    Differs from the paper: a block that is the identity, `v = u`, has nothing to train and counts
    as one that passes nothing, `s = 0`.

    Differs from the released code: there such a block makes the whole score `-inf`, which has no
    order among networks that have one.
    """
    return Proxy("trainability", _NORMS, _mean_distance)


def _features(value: Any) -> tuple[bool, Array] | None:
    """Return the features `[B, H, W, C]` that a stage gives, and whether they have positions.

    Of several values it is the last. None if that holds no features.
    """
    features = jax.tree.leaves(value)[-1]
    if not is_floating(features) or features.ndim < 2:
        return None
    if features.ndim == 4:
        return True, features
    return features.ndim > 2, features.reshape(features.shape[0], -1, 1, features.shape[-1])


_Kept = tuple[bool, Array | None] | None
"""Of a stage: whether its features have positions, and what is kept; None without features."""


def _keep_entropy(inputs: Any, passed: Passed, key: Array, position: int) -> _Kept:
    found = _features(passed.outputs)
    return None if found is None else (found[0], _entropy(found[1]))


@jax.jit
def _entropy(features: Array) -> Array:
    rows = wide(features).reshape(-1, features.shape[-1])
    centered = rows - rows.mean(0, keepdims=True)
    variances = gram.eigenvalues(centered.T @ centered / rows.shape[0])
    total = variances.sum()
    shares = variances / jnp.where(total > 0, total, 1)
    entropy = -(shares * jnp.log(jnp.where(shares > 0, shares, 1))).sum()
    return jnp.where(total > 0, entropy, jnp.where(jnp.isnan(total), jnp.nan, -jnp.inf))


def _keep_norm(inputs: Any, passed: Passed, key: Array, position: int) -> _Kept:
    found, given = _features(passed.outputs), _features(inputs)
    if found is None:
        return None
    has_positions, features = found
    if given is None or given[0] != has_positions:
        return has_positions, None
    before, probe = given[1], _signs(jax.random.fold_in(key, position), features)
    nothing = (None,) * (len(passed.outputs) - 1)
    pulled, _ = passed.pullback((*nothing, probe.reshape(passed.outputs[-1].shape)), ())
    of_features = jnp.zeros_like(before) if pulled[-1] is None else pulled[-1]
    return has_positions, _spectral_norm(probe, of_features.reshape(before.shape))


@jax.jit
def _signs(key: Array, like: Array) -> Array:
    # In float32, so that JAX draws the same signs where float64 is the default.
    is_positive = jax.random.bernoulli(key, jnp.float32(0.5), like.shape)
    return jnp.where(is_positive, 1, -1).astype(like.dtype)


@jax.jit
def _spectral_norm(probe: Array, pulled: Array) -> Array:
    """Return `[2]`: the norm, and whether the block passed the probe on unchanged."""
    batch, height, width, channels = probe.shape
    unchanged = (probe == pulled).all() if probe.shape == pulled.shape else jnp.array(False)
    # Pixels that a border takes away, or tokens that a block adds, go with none.
    rows, columns = max(pulled.shape[1] // height, 1), max(pulled.shape[2] // width, 1)
    pulled = _fitted(_fitted(pulled, 1, rows * height), 2, columns * width)
    blocks = pulled.reshape(batch, height, rows, width, columns, -1).transpose(0, 1, 3, 2, 4, 5)
    pixels = batch * height * width
    jacobian = wide(blocks).reshape(pixels, -1).T @ wide(probe).reshape(pixels, channels) / pixels
    squares = gram.eigenvalues(jacobian.T @ jacobian)
    return jnp.stack([jnp.sqrt(squares.max()), unchanged.astype(squares.dtype)])


def _fitted(x: Array, axis: int, size: int) -> Array:
    """Return the first entries along an axis, with zeros behind the last."""
    missing = [(0, max(size - each, 0) if at == axis else 0) for at, each in enumerate(x.shape)]
    return jax.lax.slice_in_dim(jnp.pad(x, missing), 0, size, axis=axis)


def _of_blocks(kept: list[_Kept], first: int) -> list[Array]:
    """Return what is kept of the blocks from `first` on; the last one gives the logits.

    Only blocks with positions count, unless there are none.
    """
    features = [of_stage for of_stage in kept[:-1] if of_stage is not None]
    if not features:
        raise ValueError(
            "The scores of AZ-NAS read features [B, ..., C] between blocks: got a network without; "
            "score one of several layers, or one that offers jaxnas.types.Staged."
        )
    with_positions = any(has_positions for has_positions, _ in features)
    wanted = [
        of_stage[1]
        for of_stage in kept[first:-1]
        if of_stage is not None and of_stage[0] == with_positions
    ]
    return [value for value in wanted if value is not None]


def _collect_entropies(kept: list[_Kept]) -> Array:
    return jnp.stack(_of_blocks(kept, 0))


def _collect_norms(kept: list[_Kept]) -> Array:
    # In front of the stem are no features.
    return jnp.vstack(_of_blocks(kept, 1) or [jnp.zeros((0, 2))])


_ENTROPIES = measures.StageMeasure(_keep_entropy, _collect_entropies, of_noise=True)
_NORMS = measures.StageMeasure(_keep_norm, _collect_norms, of_noise=True)


def _smallest_step(entropies: Array) -> Array:
    _need_blocks(len(entropies) - 1)
    empty = jnp.isneginf(entropies).any()
    steps = jnp.diff(jnp.where(empty, 0, entropies))
    return jnp.where(empty, -jnp.inf, steps.min())


def _mean_distance(measured: Array) -> Array:
    _need_blocks(len(measured))
    norms, unchanged = measured.T
    passed = jnp.where(unchanged > 0, 0, norms)
    return (2 - passed - 1 / (passed + 1e-6)).mean()


def _need_blocks(steps: int) -> None:
    if not steps:
        raise ValueError(
            "The score compares a block with the one before it: got a network with features at one "
            "place only; score a deeper one, or choose expressivity."
        )
