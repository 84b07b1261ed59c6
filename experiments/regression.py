r"""The scores on a regression of fields, for cells of NAS-Bench-201 that are trained here.

    python -m experiments.regression --num_archs=60 --num_seeds=3

An example is a random medium of two phases on a periodic grid, which conduct as 1 to 10. Its labels
are the entries of its effective conductivity, for which the Poisson problem `div(a grad u) = 0` is
solved once along each axis. Every cell is trained for a few epochs. Scores are taken with the same
examples and loss, and again with the images and classes of CIFAR-10. Printed are the correlations
of both with the share of the variance that the trained networks explain.
"""

from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from experiments.media import conductivities
from jaxnas import Scorer, Trainer, correlation, datasets, spaces
from jaxnas.launch import launch
from jaxnas.runs import Report, Table, Text
from jaxnas.training import TrainingOptions
from jaxnas.types import Batch

_NUM_ARCHS = flags.DEFINE_integer("num_archs", 60, "Number of cells, each another function.", 4)
_NUM_MEDIA = flags.DEFINE_integer("num_media", 2000, "Number of media; a fifth is held out.", 100)
_SIDE = flags.DEFINE_integer("side", 16, "Side of the grid in pixels, divisible by 4.", 8)
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of each training.", 1)
_TRAININGS = flags.DEFINE_integer("trainings", 2, "Trainings of each cell, with other seeds.", 1)
_PROXIES = common.define_proxies(
    [
        *("panel", "pair", "quintet", "az_nas", "layer_balance", "expressivity", "swap", "naswot"),
        *("channel_independence", "channel_entropy", "gradient_diversity", "mgm", "grad_norm"),
        *("snip", "synflow", "zico"),
    ]
)

common.reads("num_seeds", "batch_size", "channels", "cells", "norm", "plan")


def main() -> None:
    """Score, train and correlate."""
    value, rng = flags.FLAGS, np.random.default_rng(common.seed())
    media, labels = conductivities(_NUM_MEDIA.value, _SIDE.value, rng)
    images = datasets.load("cifar10-sample")
    sizes = {"channels": value.channels, "cells": value.cells, "norm": value.norm}
    space = spaces.nasbench201(**sizes, colors=1, classes=labels.shape[1])
    archs = _different(space, _NUM_ARCHS.value, rng)

    def of_task(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.random.default_rng(seed).choice(len(media), value.batch_size, replace=False)
        return media[rows], labels[rows]

    def of_cifar10(seed: int) -> Batch:
        return datasets.batch(images, value.batch_size, seed=seed, image_size=_SIDE.value)

    both: dict[str, Any] = {
        "": (space, of_task, _PROXIES.value, "mse"),
        " on CIFAR-10": (spaces.nasbench201(**sizes), of_cifar10, _PROXIES.value, None),
    }
    ranked = {
        "#params": np.array([[space.num_params(arch) for arch in archs]], float),
        "random": rng.random((1, len(archs))),
    }
    explained = []
    with common.run_folder("regression") as (folder, meter):
        # Scores with the data of the task, and as if it were the classification of photographs.
        for where, (*what, loss) in both.items():
            seeds, store = common.seeds(), folder / f"scores{len(where)}.sqlite"
            with Scorer(*what, loss=loss, seeds=seeds, store=store, plan=value.plan) as scorer:
                ranked |= {name + where: found for name, found in scorer(archs).scores.items()}

        # What is to be ranked, from half the mean squared error of labels whose variance is 1. What
        # diverged, or is worse than twice that, counts as -100 %.
        for seed in range(_TRAININGS.value):
            training = TrainingOptions(
                epochs=_EPOCHS.value, batch_size=64, flip=False, crop_padding=0, seed=seed
            )
            trainer = Trainer(space, (media, labels), training, folder / "trainings", loss="mse")
            explained.append(np.maximum(100 * (1 + 2 * trainer(archs)), -100))
        ranking, summary = common.ranking(
            ranked, np.mean(explained, 0), archs, what="the explained variance"
        )
    pool = (
        f"{len(archs)} cells explain {np.min(explained):.1f} to {np.max(explained):.1f} % of the "
        "variance."
    )
    if len(explained) > 1:
        summary["seed_to_seed"] = correlation.seed_agreement(explained)
        pool += f" Two trainings agree with Spearman {summary['seed_to_seed']:.2f}."
    cells = pd.DataFrame(
        {"cell": [space.to_string(arch) for arch in archs]}
        | {f"explained %, training {number}": each for number, each in enumerate(explained, 1)}
    )
    ordered = cells.sort_values(cells.columns[1], ascending=False)
    subtitle = (
        f"{len(media)} media of {_SIDE.value}x{_SIDE.value} pixels, {_EPOCHS.value} epochs, "
        f"{_TRAININGS.value} training(s); scores of {value.batch_size} examples, "
        f"{value.num_seeds} draw(s)."
    )
    parts = [Text("The pool", pool), *ranking, Table("The cells", ordered)]
    report = Report("Rank correlations on a regression", subtitle, parts)
    common.finish(folder, meter, report, summary)


def _different(space: Any, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return random connected cells `int32[count, 6]`, each another function."""
    found: dict[bytes, np.ndarray] = {}
    while len(found) < count:
        arch = space.representative(rng.integers(0, space.num_choices).astype(np.int32))
        if space.is_connected(arch):
            found.setdefault(arch.tobytes(), arch)
    return np.array(list(found.values()))


if __name__ == "__main__":
    launch(main)
