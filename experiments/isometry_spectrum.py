r"""Which initialization makes a candidate block isometric, and is that what makes candidates alike?

    python -m experiments.isometry_spectrum --num_seeds=3

For every initialization of `jaxnas.isometry`: the squared singular values of inverted residual
blocks (six candidates, with and without normalization and skip connection), by their mean `phi` and
spread `cv²` (1 and 0 for an isometry); the variance that 20 of them leave of a signal; and how far
the candidates of one layer differ by their structure and how far by their draw: only the first is
what a search wants to measure.

Measured in docs/results/isometry.md. Source of the method: "Dynamical Isometry based Rigorous Fair
Neural Architecture Search", arXiv 2307.02263, whose initialization is `qr`.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas.isometry import BY_NAME, BlockShape, FixedBlock, calibrate, exact_spectrum
from jaxnas.launch import launch
from jaxnas.runs import Part, Plot, Report, Table, figures, track
from jaxnas.types import Array

_WIDTH = flags.DEFINE_integer("width", 8, "Number of channels of a block.", 2)
_PIXELS = flags.DEFINE_integer("pixels", 8, "Side of the images in pixels.", 2)
_DRAWS = flags.DEFINE_integer(
    "draws", 48, "Number of draws of each candidate, for the last table.", 2
)
_DEPTH = flags.DEFINE_integer("depth", 20, "Number of blocks of a stack.", 1)

common.reads("num_seeds")

CANDIDATES = tuple(itertools.product((3, 5, 7), (3, 6)))  # kernel sizes and expansions
# Whether blocks are normalized, and what their input is multiplied by beside them.
MODES = {"plain": (False, 0.0), "normalized": (True, 0.0), "normalized, skip": (True, 1.0)}
PAIRS, COSINE = 32, 0.65  # of the images of the last table

_spectrum = jax.jit(lambda block, image: exact_spectrum(block, image).eigenvalues)
_calibrate = jax.jit(calibrate)
_apply = jax.jit(FixedBlock.__call__)

_BLOCKS_NOTE = (
    "phi: mean squared singular value; cv²: their variance over phi²; median: of the singular "
    "values, over their root mean square. Means over candidates and draws, and the standard "
    "deviation over candidates of log phi. Normalized by the statistics of a batch. variance, "
    "last: of the signal behind a stack of random candidates, median over draws; 0 is below the "
    "smallest number of 32 bits."
)
_STRUCTURE_NOTE = (
    f"Cosine of the outputs for two images whose inputs have {COSINE}, normalized, without skip "
    "connection. structure: standard deviation over candidates of the mean over draws, corrected "
    "for the finite number of draws; draw: standard deviation over draws of one candidate. An "
    "indicator that reads one draw sees both."
)


def main() -> None:
    """Measure and report."""
    seeds = common.seeds()
    kinds = list(itertools.product(BY_NAME, MODES))
    with common.run_folder("isometry_spectrum") as (folder, meter):
        spectra = {kind: _spectra(*kind) for kind in track(kinds, len(kinds), "spectra")}
        blocks = pd.DataFrame(_block_row(*kind, values) for kind, values in spectra.items())
        structure = [_structure(name) for name in track(BY_NAME, len(BY_NAME), "structure")]
    plots = []
    for mode in MODES:
        singular = {name: np.sqrt(np.ravel(spectra[name, mode])) for name in BY_NAME}
        picture = figures.histograms(singular, x="singular value", y="density")
        plots.append(Plot(f"Singular values, {mode}", picture, "Of all candidates and draws."))
    parts: list[Part] = [
        Table(f"Blocks, alone and in stacks of {_DEPTH.value}", blocks, _BLOCKS_NOTE),
        Table("Structure and draw", pd.DataFrame(structure), _STRUCTURE_NOTE),
        *plots,
    ]
    subtitle = (
        f"{_WIDTH.value} channels, {_PIXELS.value}x{_PIXELS.value} pixels, Gaussian images, "
        f"ReLU6, circular padding; kernels 3, 5, 7 and expansions 3, 6; {len(seeds)} draws."
    )
    summary = {
        f"{column}_{row['initialization']}_{row['mode']}": row[column]
        for row in blocks.to_dict("records")
        for column in ("phi", "cv²")
    }
    common.finish(folder, meter, Report("Isometry of blocks", subtitle, parts), summary)


def _images(seed: int, size: int = 64) -> Array:
    shape = (size, _PIXELS.value, _PIXELS.value, _WIDTH.value)
    return jax.random.normal(jax.random.fold_in(jax.random.key(seed), 1), shape)


def _block(name: str, mode: str, candidate: int, key: Array, images: Array) -> FixedBlock:
    (size, expansion), width = CANDIDATES[candidate], _WIDTH.value
    shape = BlockShape(width, expansion * width, width, size)
    kernels = BY_NAME[name].block(key, shape, jnp.float32)
    normalized, skip = MODES[mode]
    return _calibrate(kernels, images, skip) if normalized else FixedBlock(kernels, None, skip)


def _spectra(name: str, mode: str) -> np.ndarray:
    """Return the squared singular values of each draw of each candidate, `[S, 6, N]`."""
    found = []
    for seed, candidate in itertools.product(common.seeds(), range(len(CANDIDATES))):
        images, key = _images(seed), jax.random.fold_in(jax.random.key(seed), 100 + candidate)
        found.append(_spectrum(_block(name, mode, candidate, key, images), images[:1]))
    return np.asarray(found, float).reshape(-1, len(CANDIDATES), found[0].size)


def _block_row(name: str, mode: str, values: np.ndarray) -> dict[str, Any]:
    phi = values.mean(2)
    return {
        "initialization": name,
        "mode": mode,
        "phi": phi.mean(),
        "cv²": (values.var(2) / phi**2).mean(),
        "median": np.sqrt(np.median(values, 2) / phi).mean(),
        "sd of log phi": np.log(phi).std(1, ddof=1).mean(),
        "variance, last": np.median([_behind_a_stack(name, mode, one) for one in common.seeds()]),
    }


def _behind_a_stack(name: str, mode: str, seed: int) -> float:
    """Return the variance of a signal behind blocks of random candidates."""
    rng, x = np.random.default_rng(seed), _images(seed)
    for depth in range(_DEPTH.value):
        key = jax.random.fold_in(jax.random.key(seed), 1000 + depth)
        x = _apply(_block(name, mode, int(rng.integers(len(CANDIDATES))), key, x), x)
    return float(x.var())


def _structure(name: str) -> dict[str, Any]:
    """Return how far candidates differ by structure, and how far by their draw."""
    first = _images(common.seed(), PAIRS)
    second = COSINE * first + (1 - COSINE**2) ** 0.5 * _images(common.seed() + 1, PAIRS)
    images = jnp.concatenate([first, second])
    cosines = np.empty((len(CANDIDATES), _DRAWS.value, PAIRS))
    for candidate, draw in np.ndindex(cosines.shape[:2]):
        key = jax.random.fold_in(jax.random.key(common.seed() + candidate), 5000 + draw)
        block = _block(name, "normalized", candidate, key, images)
        left, right = np.asarray(_apply(block, images), float).reshape(2, PAIRS, -1)
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines[candidate, draw] = (left * right).sum(1) / lengths
    noise = np.sqrt(cosines.var(1, ddof=1).mean())
    between = cosines.mean(1).var(0, ddof=1).mean() - noise**2 / _DRAWS.value
    structure = np.sqrt(max(between, 0.0))
    return {
        "initialization": name,
        "structure": structure,
        "draw": noise,
        "structure / draw": structure / noise if noise > 0 else np.nan,
    }


if __name__ == "__main__":
    launch(main)
