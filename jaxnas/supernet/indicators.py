"""What the normalization of a trained supernet says of its blocks and layers.

The block indicator `B` of a candidate is the mean of `|scale|` over the channels of its last
normalization; the layer indicator that of the normalization beside the layer (`bypass="norm"`), and
there is none where the shape changes. Sources: Chen et al., "BN-NAS", ICCV 2021, arXiv 2108.07375
(blocks); arXiv 2307.02263 (layers, and frozen orthogonal weights).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import correlation
from jaxnas.spaces.mobilenetv2_space import IDENTITY, SearchedNetwork, layers
from jaxnas.types import Params

Mode = Literal["block", "literal", "share", "skip"]

LAST = "project"
"""The step of a block whose normalization is its indicator."""


class Indicators(NamedTuple):
    """The indicators of a supernet.

    Attributes:
        block: `float64[L, K]`; 0 for an identity without a normalization of its own, nan where a
            layer has no such choice.
        layer: `float64[L]`; nan for layers without a bypass.
        is_identity: `bool[L, K]`, choices that are the bypass alone.
    """

    block: NDArray[np.float64]
    layer: NDArray[np.float64]
    is_identity: NDArray[np.bool_]


def mean_scale(block: Mapping[str, ArrayLike]) -> float:
    """Return the mean of `|scale|` over the channels of a normalization.

    Raises:
        ValueError: it has no scale, or one that is not finite.
    """
    if "scale" not in block:
        raise ValueError(
            f"An indicator reads the scale of a normalization: got {sorted(block)} only; build "
            "the supernet with norm='batch'."
        )
    value = float(np.abs(np.asarray(block["scale"], float)).mean())
    if not np.isfinite(value):
        raise ValueError(
            f"The scale of a normalization is finite: got {value}; the supernet diverged, lower "
            "its learning rate."
        )
    return value


def layer_names(params: Params) -> list[str]:
    """Return the names of the searched layers, one for each decision."""
    return [name for name in sorted(params) if name.endswith("_layer")]


def read(module: SearchedNetwork, params: Params) -> Indicators:
    """Return the indicators of a supernet's parameters.

    Raises:
        ValueError: parameters without scales, or diverged ones.
    """
    searched = layers(module.layout)
    shape = (len(searched), max(len(layer.candidates) for layer in searched))
    found = Indicators(
        np.full(shape, np.nan), np.full(len(searched), np.nan), np.zeros(shape, bool)
    )
    for position, (name, layer) in enumerate(zip(layer_names(params), searched, strict=True)):
        of_layer = params[name]
        for choice, candidate in enumerate(layer.candidates):
            alone = candidate == IDENTITY and layer.is_plain
            found.is_identity[position, choice] = alone
            value = 0.0 if alone else mean_scale(of_layer[candidate.name][LAST])
            found.block[position, choice] = value
        if "bypass" in of_layer:
            found.layer[position] = mean_scale(of_layer["bypass"])
    return found


def score_table(indicators: Indicators, mode: Mode = "share") -> NDArray[np.float64]:
    """Return scores `float64[L, K]` whose sum over the layers is an architecture's; nan: no choice.

    Modes, `L` the layer indicator and `m` the mean of `B` over a layer's blocks:

    - `block`: `B`, as BN-NAS has it; the identity scores 0.
    - `literal`: `B / m`, weighted by `L` over its mean: the layer indicator as the importance of
      the layer, which is how arXiv 2307.02263 reads.
    - `share`: `B / m`, weighted by `m / (m + L)`, over its mean: a large scale beside the block
      means that the block matters less.
    - `skip`: `B`; the identity scores `L`, as one more choice.

    Layers without an indicator have weight 1. Adding `L` to a score, as one might also read the
    paper, changes no ranking.

    Raises:
        ValueError: an unknown mode, or one that needs layer indicators where there are none.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}: got {mode!r}.")
    if mode == "block":
        return indicators.block.copy()
    if np.isnan(indicators.layer).all():
        raise ValueError(
            f"Mode {mode} needs layer indicators: got none; build the supernet with bypass='norm', "
            "or use mode block."
        )
    beside = indicators.layer[:, None]
    if mode == "skip":
        return np.where(indicators.is_identity, beside, indicators.block)
    blocks = np.where(indicators.is_identity, np.nan, indicators.block)
    mean = np.nanmean(blocks, axis=1, keepdims=True)
    weight = beside if mode == "literal" else mean / (mean + beside)
    weight = np.where(np.isnan(beside), 1.0, weight / np.nanmean(weight))
    return weight * indicators.block / mean


def score(table: NDArray[np.float64], archs: ArrayLike) -> NDArray[np.float64]:
    """Return the scores `[...]` of architectures `int32[..., L]`."""
    return table[np.arange(len(table)), np.asarray(archs)].sum(axis=-1)


def best(table: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return the architecture `int32[L]` of the highest score, layer by layer."""
    return np.nanargmax(table, axis=1).astype(np.int32)


def mean(indicators: Sequence[Indicators]) -> Indicators:
    """Return the mean of the indicators of several supernets of the same networks."""
    return Indicators(
        np.mean([indicator.block for indicator in indicators], axis=0),
        np.mean([indicator.layer for indicator in indicators], axis=0),
        indicators[0].is_identity,
    )


def agreement(first: Indicators, second: Indicators) -> float:
    """Return Kendall's tau between the block indicators of a layer, mean over layers; 0 is chance.

    Identities have no indicator and do not count. Layers with fewer than three other choices, or
    whose indicators are all equal, say nothing; nan where none says anything.
    """
    taus = []
    for left, right, alone in zip(first.block, second.block, first.is_identity, strict=True):
        present = np.isfinite(left) & ~alone
        taus.append(correlation.kendall(left[present], right[present]))
    telling = [tau for tau in taus if np.isfinite(tau)]
    return float(np.mean(telling)) if telling else float("nan")
