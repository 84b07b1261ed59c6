"""MeCo: how far from singular the correlations between the channels of each feature map are.

`meco` and `channel_independence` add up the least eigenvalue of a correlation matrix `[C, C]`, that
of the channels of a map over its samples: the pixels of one example. `channel_entropy` adds up the
entropy of all its eigenvalues. They need no labels. The least eigenvalue knows no scale,
shift or sign of a channel; a constant channel makes it 0. So does a map with at least as many
channels as pixels: at 16 or 32 pixels whole stages of NAS-Bench-201 add exactly 0.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy.special import entr

from jaxnas import gram
from jaxnas.proxies import measures
from jaxnas.types import ApplyFn, Array, Batch, Outputs, Params, Passed, Proxy, Shown, wide


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
    return Proxy("meco", _of_layers, lambda spectrum: spectrum[0])


def channel_independence() -> Proxy:
    """Return the sum over ReLUs of the least eigenvalue of the correlations of their inputs.

    Ours, a variant of `meco` by which NAS-Bench-201 is ranked better (docs/results/scores.md): of
    the maps only the inputs of live ReLUs count, before anything is cut off. A node that feeds
    three convolutions with a ReLU each counts three times. The maps are of the first example of the
    batch, as normalized beside the others: in the mode `batch` by the statistics of all of them.
    One forward pass, which it shares with all scores of activations. Of another activation the
    input counts alike.

    A correlation needs samples, more of them than channels, or its least eigenvalue is 0. An image
    brings its pixels. Of tokens `[B, T, C]` the samples are therefore those of all examples,
    `B T` rows. A network whose activations have no positions at all, such as a perceptron, is read
    the same way: its features `[B, C]` are `B` rows. Beside maps or tokens, features without
    positions (a hidden layer behind the pooling) do not count. What has at least as many channels
    as rows adds exactly 0: score wide perceptrons on larger batches.

    Differs from `meco` in all of this: the paper has images of convolutional networks only.
    """
    return Proxy("channel_independence", _OF_ACTIVATIONS, lambda spectrum: spectrum[0])


def channel_entropy() -> Proxy:
    """Return the sum over ReLUs of the entropy of the correlations of their inputs, in nats.

    `sum_l H(eig(P_l) / sum eig(P_l))`, `P_l` and the maps as of `channel_independence`, with which
    it shares its eigenvalues: over how many independent directions the channels are spread, where
    that score sees the least one alone. It is not 0 where there are more channels than pixels.
    Ours; it is a part of the aggregate `quintet`.
    """
    return Proxy("channel_entropy", _OF_ACTIVATIONS, lambda spectrum: spectrum[1])


def _of_layers(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    if not isinstance(apply_fn, ShowsMaps):
        raise ValueError(
            "meco reads what each layer gives: got a network that does not show it; score one of "
            "jaxnas.spaces, or take channel_independence."
        )
    maps = apply_fn.maps(params, batch.inputs[:1])
    return _total([_spectrum(shown) for shown in maps if shown.value.ndim > 2])


def _keep(inputs: Any, passed: Passed, key: Array, position: int) -> list[Array | Shown]:
    """Keep the spectrum of each input of an activation, or itself if it has no positions.

    Whether that counts is known when all stages have been seen.
    """
    shown = [value for value in passed.shown if value.kind == "preactivation"]
    return [_spectrum(value) if value.value.ndim > 2 else value for value in shown]


def _collect(kept: list[list[Array | Shown]]) -> Array:
    found = [value for of_stage in kept for value in of_stage]
    of_positions = [value for value in found if not isinstance(value, Shown)]
    return _total(of_positions or [_spectrum(each) for each in found if isinstance(each, Shown)])


def _spectrum(shown: Shown) -> Array:
    """Return `[2]` of a map of the first example, or of the rows of all; see `_of_rows`."""
    value = shown.value[:1] if shown.value.ndim > 3 else shown.value
    return _of_rows(value.reshape(-1, value.shape[-1]), shown.alive)


@jax.jit
def _of_rows(rows: Array, alive: Any) -> Array:
    """Return `[2]`: the least eigenvalue of the correlations of channels over rows `[N, C]`.

    Behind it the entropy of all eigenvalues, as shares of their sum.
    """
    # Half precision has no eigenvalues.
    channels = wide(rows.T)
    size, samples = channels.shape
    present = jnp.broadcast_to(alive, (size,))
    centered = channels - channels.mean(1, keepdims=True)
    norms = jnp.linalg.norm(centered, axis=1, keepdims=True)
    scaled = centered / jnp.where(norms > 0, norms, 1)
    # Both products have the same eigenvalues, but for zeros.
    is_whole = size <= samples or jnp.ndim(alive) > 0
    product = scaled @ scaled.T if is_whole else scaled.T @ scaled
    values = gram.eigenvalues(product)
    # Channels that are not there bring the first zeros. Centered ones have a rank below `samples`:
    # without more of them than channels the least is 0, or nan where something is not finite.
    is_full = is_whole & (present.sum() < samples)
    least = jnp.where(is_full, values[size - present.sum()] if is_whole else 0, 0 * values.sum())
    total = values.sum()
    entropy = entr(values / jnp.where(total == 0, 1, total)).sum()
    return jnp.where(present.any(), jnp.stack([least, entropy]), 0)


def _total(found: list[Array]) -> Array:
    """Return the sums `[2]` of all least eigenvalues and of all entropies."""
    if not found:
        raise ValueError(
            "The score reads the channels of feature maps or of the inputs of activations: got a "
            "network without; choose a score of gradients such as grad_norm."
        )
    return sum(found, start=jnp.zeros(2))


_OF_ACTIVATIONS = measures.StageMeasure(_keep, _collect)
