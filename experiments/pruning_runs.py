"""TE-NAS on NAS-Bench-201: searches by pruning, whose looks are remembered in a file."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from jaxnas import score, search, spaces
from jaxnas.runs.files import write_whole
from jaxnas.spaces.nasbench201 import cell
from jaxnas.types import Batch, SearchSpace

# As published: regions are counted in a network of one channel, over many tiny random images.
_REGION_IMAGES, _REGION_PIXELS = 256, 4


class Pruner(NamedTuple):
    """What the searches share.

    Attributes:
        space: NAS-Bench-201.
        batch: `batch(seed)`: the images of the NTK.
        repeats: draws of weights and images that a look takes the mean of.
        path: of the file.
        context: JSON values: what the looks depend on.
    """

    space: SearchSpace
    batch: Callable[[int], Batch]
    repeats: int
    path: Path
    context: Mapping[str, Any]


class Pruned(NamedTuple):
    """One search.

    Attributes:
        arch: `int32[6]`, what was found.
        evaluations: super-networks that were looked at.
        seconds: CPU seconds of these looks.
    """

    arch: np.ndarray
    evaluations: int
    seconds: float


def run(pruner: Pruner, seed: int, reserve: search.Reserve | None) -> Pruned:
    """Return one search; looks that are in the file are not repeated.

    Raises:
        ValueError: the file holds looks that depended on something else.
    """
    context = {**pruner.context, "repeats": pruner.repeats}
    done = common.remembered(pruner.path, "looks", context)
    seconds = 0.0

    def look(alive: np.ndarray) -> list[float]:
        nonlocal seconds
        label = f"{''.join(map(str, alive.astype(int).ravel()))} @ {seed}"
        if label not in done["looks"]:
            begun = time.process_time()
            scores = _scores(pruner, alive, seed)
            done["looks"][label] = [*scores, time.process_time() - begun]
            write_whole(pruner.path, json.dumps(done).encode())
        *scores, cost = done["looks"][label]
        seconds += cost
        return scores

    alive = np.ones((len(cell.EDGES), len(cell.OPERATIONS)), bool)
    alive[:, cell.OPERATIONS.index("none")] = False  # as published
    found = search.prune(alive, look, reserve=reserve)
    return Pruned(found.arch, found.evaluations, seconds)


def _scores(pruner: Pruner, alive: np.ndarray, seed: int) -> list[float]:
    """Return the negative condition number of the NTK, and the number of linear regions."""
    tiny = spaces.nasbench201(channels=1, cells=1, norm="batch")
    shape = (_REGION_IMAGES, _REGION_PIXELS, _REGION_PIXELS, 3)
    found = []
    for draw in range(seed * pruner.repeats, (seed + 1) * pruner.repeats):
        weights, images = jax.random.split(jax.random.key(draw))
        noise = Batch(jax.random.normal(images, shape), jnp.zeros(_REGION_IMAGES, int))
        batch = pruner.batch(draw)
        looks = ((pruner.space, batch, "ntk_condition"), (tiny, noise, "linear_regions"))
        for space, inputs, name in looks:
            network, params = space.bind(alive, space.init(weights, inputs.inputs))
            found.append(score(network, params, inputs, [name])[name])
    return np.reshape(found, (pruner.repeats, 2)).mean(0).tolist()
