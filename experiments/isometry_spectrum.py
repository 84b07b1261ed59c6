r"""Which initialisation makes a candidate block isometric, and is that what makes candidates alike?

    python -m experiments.isometry_spectrum
    python -m experiments.isometry_spectrum --width=16 --num_seeds=5

For every initialisation of `jaxnas.isometry`: the squared singular values of single convolutions
and of inverted residual blocks (six candidates, with and without normalisation and skip
connection), by their mean `phi` and spread `cv²` (1 and 0 for an isometry); what 20 layers do to
the variance of a signal and to a gradient; and how far the candidates of one layer differ by their
structure and how far by their draw: only the first is what a search wants to measure.

Source of the method: "Dynamical Isometry based Rigorous Fair Neural Architecture Search", arXiv
2307.02263, whose initialisation is `qr`.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas.isometry import (
    BY_NAME,
    BlockShape,
    FixedBlock,
    calibrate,
    convolve,
    exact_spectrum,
    propagate,
)
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures, track
from jaxnas.types import Array

_WIDTH = flags.DEFINE_integer("width", 8, "Number of channels of a block.", 2)
_PIXELS = flags.DEFINE_integer("pixels", 8, "Side of the images in pixels.", 2)
_DRAWS = flags.DEFINE_integer(
    "draws", 48, "Number of draws of each candidate, for the last table.", 2
)
_DEPTH = flags.DEFINE_integer("depth", 20, "Number of blocks of a stack.", 1)

common.reads("num_seeds")

CANDIDATES = tuple(itertools.product((3, 5, 7), (3, 6)))
"""Kernel sizes and expansions."""
MODES: Mapping[str, tuple[bool, float]] = {
    "plain": (False, 0.0),
    "normalised": (True, 0.0),
    "normalised, skip": (True, 1.0),
}
"""Whether blocks are normalised, and what their input is multiplied by beside them."""
_PAIRS, _COSINE = 32, 0.65

_spectrum = jax.jit(lambda block, image: exact_spectrum(block, image))
_calibrate = jax.jit(calibrate)
_apply = jax.jit(FixedBlock.__call__)


def main() -> None:
    """Measure and report."""
    seeds = common.seeds()
    with common.run_folder("isometry_spectrum") as (folder, meter):
        convolutions = pd.DataFrame(_convolutions(name, seeds) for name in BY_NAME)
        spectra = {
            (name, mode): [_of_candidates(name, mode, seed) for seed in seeds]
            for name, mode in _track(itertools.product(BY_NAME, MODES), "spectra")
        }
        blocks = _blocks(spectra)
        stacks = [
            _stack(name, mode, seed)
            for name, mode, seed in _track(itertools.product(BY_NAME, MODES, seeds), "stacks")
        ]
        depth = _depth(stacks)
        fair = pd.DataFrame(_structure(name) for name in _track(BY_NAME, "structure"))
    parts: list[Text | Table | Plot] = [
        Text("The outcome", _verdict(blocks, depth, fair)),
        Table("Single convolutions", convolutions, _CONVOLUTIONS_NOTE),
        Table("Blocks", blocks, _BLOCKS_NOTE),
        *(_histogram(spectra, mode) for mode in MODES),
        Table(f"Stacks of {_DEPTH.value} blocks", depth, _DEPTH_NOTE),
        *(_curves(stacks, mode) for mode in MODES),
        Table("Structure and draw", fair, _STRUCTURE_NOTE),
    ]
    subtitle = (
        f"{_WIDTH.value} channels, {_PIXELS.value}x{_PIXELS.value} pixels, Gaussian images, "
        f"ReLU6, circular padding; kernels 3, 5, 7 and expansions 3, 6; {len(seeds)} draws."
    )
    summary = {
        f"{column}_{row['initialisation']}_{row['mode']}": row[column]
        for row in blocks.to_dict("records")
        for column in ("phi", "cv²")
    }
    common.finish(folder, meter, Report("Isometry of blocks", subtitle, parts), summary)


_CONVOLUTIONS_NOTE = (
    "cv² of the squared singular values; the closed forms are in jaxnas.isometry.initializers. The "
    "last column: phi of a depthwise convolution, 1 for filters of unit norm, which qr has only "
    "where there are no more channels than taps."
)
_BLOCKS_NOTE = (
    "phi: mean squared singular value; cv²: their variance over phi²; median: of the singular "
    "values, over their root mean square. Means over candidates and draws, and the standard "
    "deviation over candidates of log phi. Normalised by the statistics of a batch."
)
_DEPTH_NOTE = (
    "Of random candidates in each layer. Variance of the signal at the first and the last block, "
    "norm of the gradient at the first for one of norm 1 at the last: medians over draws; 0 is "
    "below the smallest number of 32 bits. spread: standard deviation over candidates, at the "
    "first layer, of the log variance of their outputs; what fairness asks to be 0."
)
_STRUCTURE_NOTE = (
    "Cosine of the outputs for two images whose inputs have .65, normalised, without skip "
    "connection. structure: standard deviation over candidates of the mean over draws, corrected "
    "for the finite number of draws; draw: standard deviation over draws of one candidate. An "
    "indicator that reads one draw sees both."
)


def _track(work: Iterable[Any], description: str) -> Iterable[Any]:
    items = list(work)
    return track(items, len(items), description)


def _shape(candidate: tuple[int, int]) -> BlockShape:
    size, expansion = candidate
    width = _WIDTH.value
    return BlockShape(width, expansion * width, width, size)


def _block(
    name: str, mode: str, candidate: tuple[int, int], key: Array, batch: Array
) -> FixedBlock:
    normalised, skip = MODES[mode]
    kernels = BY_NAME[name].block(key, _shape(candidate), jnp.float32)
    return _calibrate(kernels, batch, skip) if normalised else FixedBlock(kernels, None, skip)


def _batch(seed: int, size: int = 64) -> Array:
    shape = (size, _PIXELS.value, _PIXELS.value, _WIDTH.value)
    return jax.random.normal(jax.random.fold_in(jax.random.key(seed), 1), shape)


def _convolutions(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the spread of single convolutions of an initialisation."""
    row: dict[str, Any] = {"initialisation": name}
    width = _WIDTH.value
    for size, inputs in ((1, width), (3, width), (5, width), (3, 1), (5, 1)):
        spectra = []
        for seed in seeds:
            kernel = BY_NAME[name].tensor(jax.random.key(seed), (size, size, inputs, width))
            spectra.append(_spectrum(jax.tree_util.Partial(_reversed, kernel), _batch(seed, 1)))
        kind = "depthwise " if inputs == 1 else ""
        row[f"{kind}{size}x{size}"] = np.mean([float(each.cv_squared) for each in spectra])
        if kind and size == 3:
            phi = np.mean([float(each.phi) for each in spectra])
    return row | {"phi, depthwise 3x3": phi}


def _reversed(kernel: Array, inputs: Array) -> Array:
    return convolve(inputs, kernel)


def _of_candidates(name: str, mode: str, seed: int) -> list[np.ndarray]:
    """Return the squared singular values of each candidate."""
    batch = _batch(seed)
    found = []
    for position, candidate in enumerate(CANDIDATES):
        key = jax.random.fold_in(jax.random.key(seed), 100 + position)
        block = _block(name, mode, candidate, key, batch)
        found.append(np.asarray(_spectrum(block, batch[:1]).eigenvalues, float))
    return found


def _blocks(spectra: Mapping[tuple[str, str], list[list[np.ndarray]]]) -> pd.DataFrame:
    rows = []
    for (name, mode), draws in spectra.items():
        values = np.array(draws)  # draws, candidates, singular values
        phi = values.mean(2)
        rows.append(
            {
                "initialisation": name,
                "mode": mode,
                "phi": phi.mean(),
                "cv²": (values.var(2) / phi**2).mean(),
                "median": (np.sqrt(np.median(values, 2) / phi)).mean(),
                "sd of log phi": np.log(phi).std(1, ddof=1).mean(),
            }
        )
    return pd.DataFrame(rows)


def _stack(name: str, mode: str, seed: int) -> dict[str, Any]:
    """Return what a stack of random candidates does, and how they differ in its first layer."""
    rng = np.random.default_rng(seed)
    batch = x = _batch(seed)
    layers = []
    for depth in range(_DEPTH.value):
        candidate = CANDIDATES[rng.integers(len(CANDIDATES))]
        key = jax.random.fold_in(jax.random.key(seed), 1000 + depth)
        layers.append(jax.tree_util.Partial(_apply, _block(name, mode, candidate, key, x)))
        x = layers[-1](x)
    passed = propagate(layers, batch, jax.random.key(seed))
    logs = [
        np.log(
            _apply(
                _block(name, mode, candidate, jax.random.fold_in(jax.random.key(seed), at), batch),
                batch,
            ).var()
        )
        for at, candidate in enumerate(CANDIDATES)
    ]
    variances = np.asarray(passed.variances)
    return {
        "initialisation": name,
        "mode": mode,
        "variances": variances,
        "variance, first": variances[0],
        "variance, last": variances[-1],
        "gradient, first": np.asarray(passed.gradients)[0],
        "spread": float(np.std(logs, ddof=1)),
    }


def _depth(stacks: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(stacks).drop(columns="variances")
    return table.groupby(["initialisation", "mode"], sort=False).median().reset_index()


def _structure(name: str) -> dict[str, Any]:
    """Return how far candidates differ by structure, and how far by their draw."""
    first = _batch(common.seed(), _PAIRS)
    second = _COSINE * first + (1 - _COSINE**2) ** 0.5 * _batch(common.seed() + 1, _PAIRS)
    batch = jnp.concatenate([first, second])
    cosines = np.empty((len(CANDIDATES), _DRAWS.value, _PAIRS))
    for position, candidate in enumerate(CANDIDATES):
        for draw in range(_DRAWS.value):
            key = jax.random.fold_in(jax.random.key(common.seed() + position), 5000 + draw)
            outputs = _apply(_block(name, "normalised", candidate, key, batch), batch)
            left, right = np.asarray(outputs, float).reshape(2, _PAIRS, -1)
            lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            cosines[position, draw] = (left * right).sum(1) / lengths
    draw = np.sqrt(cosines.var(1, ddof=1).mean())
    between = cosines.mean(1).var(0, ddof=1).mean() - draw**2 / _DRAWS.value
    structure = np.sqrt(max(between, 0.0))
    return {
        "initialisation": name,
        "structure": structure,
        "draw": draw,
        "structure / draw": structure / draw if draw > 0 else np.nan,
    }


def _histogram(spectra: Mapping[tuple[str, str], list[list[np.ndarray]]], mode: str) -> Plot:
    values = {name: np.sqrt(np.ravel(spectra[name, mode])) for name in BY_NAME}
    return Plot(
        f"Singular values, {mode}",
        figures.histograms(values, x="singular value", y="density"),
        "Of all candidates and draws.",
    )


def _curves(stacks: list[dict[str, Any]], mode: str) -> Plot:
    shown: dict[str, pd.Series] = {}
    table = pd.DataFrame(stacks)
    for name, rows in table[table["mode"] == mode].groupby("initialisation", sort=False):
        variance = np.maximum(np.median(np.stack(rows["variances"].tolist()), 0), 1e-38)
        shown[str(name)] = pd.Series(np.log10(variance), index=np.arange(1, len(variance) + 1))
    return Plot(
        f"Variance by depth, {mode}",
        figures.curves(shown, x="block", y="log10 of the variance"),
        "Medians over draws.",
    )


def _verdict(blocks: pd.DataFrame, depth: pd.DataFrame, fair: pd.DataFrame) -> str:
    by_mode = blocks.set_index(["initialisation", "mode"]).to_dict("index")
    ends = depth.set_index(["initialisation", "mode"])["variance, last"].to_dict()
    ratio = fair.set_index("initialisation")["structure / draw"].to_dict()

    def pair(name: str, mode: str) -> str:
        row = by_mode[name, mode]
        return f"phi {row['phi']:.2f}, cv² {row['cv²']:.2f}"

    return (
        f"Normalised blocks: gauss has {pair('gauss', 'normalised')}; the published qr "
        f"{pair('qr', 'normalised')}: neither is an isometry (1, 0). Without normalisation: qr "
        f"{pair('qr', 'plain')}, mirror {pair('mirror', 'plain')}. After {_DEPTH.value} blocks "
        f"the variance is {ends[('qr', 'plain')]:.1g} (qr, plain), "
        f"{ends[('mirror', 'plain')]:.2f} (mirror, plain) and "
        f"{ends[('qr', 'normalised')]:.2f} (qr, normalised). Structure over "
        f"draw: gauss {ratio['gauss']:.2f}, qr {ratio['qr']:.2f}, shift {ratio['shift']:.2f}, "
        f"mirror {ratio['mirror']:.2f}, delta {ratio['delta']:.2f}."
    )


if __name__ == "__main__":
    launch(main)
