"""MeCo: how far from singular the correlations between the channels of each feature map are.

Both scores add up the least eigenvalue of a correlation matrix `[C, C]`, that of the channels of a
map of one example over its pixels. They need no labels. The eigenvalue knows no scale, shift or
sign of a channel; a constant channel makes it 0. So does a map with at least as many channels as
pixels: at 16 or 32 pixels whole stages of NAS-Bench-201 add exactly 0.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxnas.proxies import measures
from jaxnas.types import ApplyFn, Array, Batch, Outputs, Params, Passed, Proxy, Shown


@runtime_checkable
class ShowsMaps(Protocol):
    """A network that shows what each of its layers gives; those of the spaces do."""

    def __call__(self, params: Params, inputs: Array) -> Outputs | Array:
        """Return the outputs for `inputs` `[B, ...]`."""

    def maps(self, params: Params, inputs: Array) -> list[Shown]:
        """Return the outputs `[B, ...]` of all layers and all stages, for inputs of any number."""


def meco() -> Proxy:
    """Return MeCo, `sum_l lambda_min(P_l)`: `P_l` `[C, C]` correlates the channels of map `l`.

    The maps are what each convolution, normalization, ReLU and pooling gives, and each stage, for
    the first example of the batch alone, also where normalization is by the batch. One forward pass
    of one example, in a network that shows its layers (`ShowsMaps`).

    Source: Jiang, Wang and Bie, "MeCo: Zero-Shot NAS with One Data and Single Forward Pass via
    Minimum Eigenvalue of Correlation", NeurIPS 2023. Differs from the paper: an image
    of the data, as in one released script, where the paper has noise.

    Differs from the released code: it hooks each module, so that containers count their last map
    again, and so does a skip connection; here a map counts once for its layer and once for its
    stage. It counts dead edges; here they are left out, because they are no part of the function.
    """
    return Proxy("meco", _of_layers, jnp.asarray)


def channel_independence() -> Proxy:
    """Return the sum over ReLUs of the least eigenvalue of the correlations of their inputs.

    Ours, a variant of `meco` by which NAS-Bench-201 is ranked better (see RESULTS.md): of the maps
    only the inputs of live ReLUs count, before anything is cut off. A node that feeds three
    convolutions with a ReLU each counts three times. The maps are of the first example of the
    batch, as normalized beside the others: in the mode `batch` by the statistics of all of them.
    One forward pass, which it shares with all scores of activations. Of another activation the
    input counts alike, and tokens `[T, C]` are pixels.
    """
    return Proxy("channel_independence", _OF_RELUS, jnp.asarray)


def _of_layers(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    if not isinstance(apply_fn, ShowsMaps):
        raise ValueError(
            "meco reads what each layer gives: got a network that does not show it; score one of "
            "jaxnas.spaces, or take channel_independence."
        )
    return _total([_least(own) for own in apply_fn.maps(params, batch.inputs[:1])])


def _keep(inputs: Any, passed: Passed, position: int) -> list[Array | None]:
    return [_least(own) for own in passed.shown if own.kind == "preactivation"]


def _collect(kept: list[list[Array | None]]) -> Array:
    return _total([own for of_stage in kept for own in of_stage])


def _least(shown: Shown) -> Array | None:
    """Return the least eigenvalue of a map of the first example; None if it has no pixels."""
    return _least_eigenvalue(shown.value, shown.alive) if shown.value.ndim > 2 else None


@jax.jit
def _least_eigenvalue(maps: Array, alive: Any) -> Array:
    channels = maps[0].reshape(-1, maps.shape[-1]).T
    # Half precision has no eigenvalues.
    channels = channels.astype(jnp.promote_types(channels.dtype, jnp.float32))
    if channels.shape[0] >= channels.shape[1]:  # as many rows as the centred pixels' dimensions
        return jnp.where(jnp.isfinite(channels).all() | ~jnp.asarray(alive), 0.0, jnp.nan)
    centred = channels - channels.mean(1, keepdims=True)
    norms = jnp.linalg.norm(centred, axis=1, keepdims=True)
    rows = centred / jnp.where(norms > 0, norms, 1)
    least = jnp.linalg.eigvalsh(rows @ rows.T).min()
    return jnp.where(alive, jnp.maximum(least, 0), 0)


def _total(found: list[Array | None]) -> Array:
    of_maps = [own for own in found if own is not None]
    if not of_maps:
        raise ValueError(
            "MeCo reads feature maps with channels and pixels, [B, ..., C]: got a network without; "
            "score a convolutional network, or choose another score."
        )
    return sum(of_maps, start=jnp.zeros(()))


_OF_RELUS = measures.StageMeasure(_keep, _collect)
