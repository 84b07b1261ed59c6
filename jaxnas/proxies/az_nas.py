"""The scores of AZ-NAS: what each block does to the features, and to a gradient that passes it.

Source: Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR
2024, arXiv 2403.19232. Its own rank is `aggregate.log_rank` of the three scores here and `flops`.

Features `f_l` `[B, H, W, C]` are what the stages of a network give, stem and cells, in a space that
shows them (`types.Staged`), for normal noise in place of the images, as published: they need no
data, and take one forward pass and the backward pass of each block, all three together. Differs
from the released code: the weights are those given, not drawn anew by He's rule.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.proxies import measures
from jaxnas.types import ApplyFn, Array, Batch, Params, Passed, Proxy


def expressivity() -> Proxy:
    """Return the sum over blocks of the entropy of the features' principal components.

    `sum_l h_l`, `h_l = - sum_c p_c log p_c` in nats, `p` the eigenvalues of the `C x C` covariance
    of `f_l` over examples and pixels, divided by their sum (equation 3). `-inf` where features are
    constant.

    Differs from the released code: it adds 1e-8 inside the logarithm, 1e-7 of the score.
    """
    return Proxy("expressivity", _measure, lambda measured: measured["entropies"].sum())


def progressivity() -> Proxy:
    """Return the smallest step in entropy from a block to the next, `min_l h_l - h_{l-1}`.

    Equation 4; see `expressivity` for `h_l`.
    """
    return Proxy("progressivity", _measure, _smallest_step)


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
    return Proxy("trainability", _measure, _mean_distance)


def _features(value: Any) -> Array | None:
    """Return the features that a stage gives: of several that it passes on, the last."""
    return value[-1] if value[-1].ndim == 4 else None


def _keep_entropy(inputs: Any, passed: Passed, position: int) -> Array | None:
    features = _features(passed.outputs)
    return None if features is None else _entropy(features)


@jax.jit
def _entropy(features: Array) -> Array:
    rows = features.reshape(-1, features.shape[-1])
    centred = rows - rows.mean(0, keepdims=True)
    variances = jnp.maximum(jnp.linalg.eigvalsh(centred.T @ centred / rows.shape[0]), 0)
    total = variances.sum()
    shares = variances / jnp.where(total > 0, total, 1)
    entropy = -(shares * jnp.log(jnp.where(shares > 0, shares, 1))).sum()
    return jnp.where(total > 0, entropy, jnp.where(jnp.isnan(total), jnp.nan, -jnp.inf))


def _keep_norm(key: Array, inputs: Any, passed: Passed, position: int) -> Array | None:
    features = _features(passed.outputs)
    if features is None or _features(inputs) is None:
        return None
    probe = _signs(jax.random.fold_in(key, position), features)
    nothing = (None,) * (len(passed.outputs) - 1)
    pulled, _ = passed.pullback((*nothing, probe), ())
    return _spectral_norm(probe, jnp.zeros_like(inputs[-1]) if pulled[-1] is None else pulled[-1])


@jax.jit
def _signs(key: Array, like: Array) -> Array:
    return jax.random.rademacher(key, like.shape, like.dtype)


@jax.jit
def _spectral_norm(probe: Array, pulled: Array) -> Array:
    """Return `[2]`: the norm, and whether the block passed the probe on unchanged."""
    batch, height, width, channels = probe.shape
    rows, columns = pulled.shape[1] // height, pulled.shape[2] // width
    blocks = pulled.reshape(batch, height, rows, width, columns, -1).transpose(0, 1, 3, 2, 4, 5)
    jacobian = blocks.reshape(batch * height * width, -1).T @ probe.reshape(-1, channels)
    jacobian /= batch * height * width
    squares = jnp.linalg.eigvalsh(jacobian.T @ jacobian)
    unchanged = (probe == pulled).all() if probe.shape == pulled.shape else jnp.array(False)
    return jnp.stack([jnp.sqrt(squares.max()), unchanged.astype(probe.dtype)])


def _stack(kept: list[Array | None]) -> Array:
    of_blocks = [own for own in kept if own is not None]
    if len(of_blocks) < 2:
        raise ValueError(
            "The scores of AZ-NAS compare blocks: got a network that shows no features "
            "[B, H, W, C] between them; score one that offers jaxnas.types.Staged, such as "
            "those of jaxnas.spaces."
        )
    return jnp.stack(of_blocks)


def _measure(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> dict[str, Array]:
    """Measure the entropies of the blocks and the spectral norms `[blocks - 1, 2]`."""
    noise, signs = jax.random.split(key)
    inputs = jax.random.normal(noise, batch.inputs.shape, batch.inputs.dtype)
    keeps = (_keep_entropy, functools.partial(_keep_norm, signs))
    entropies, norms = measures.look(keeps, apply_fn, params, inputs)
    # In front of the stem are no features.
    return {"entropies": _stack(entropies), "norms": _stack(norms[1:])}


def _smallest_step(measured: dict[str, Array]) -> Array:
    entropies = measured["entropies"]
    empty = jnp.isneginf(entropies).any()
    steps = jnp.diff(jnp.where(empty, 0, entropies))
    return jnp.where(empty, -jnp.inf, steps.min())


def _mean_distance(measured: dict[str, Array]) -> Array:
    norms, unchanged = measured["norms"].T
    passed = jnp.where(unchanged > 0, 0, norms)
    return (2 - passed - 1 / (passed + 1e-6)).mean()
