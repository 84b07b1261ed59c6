r"""HNAS on DARTS with real training as feedback, beside searches that train as many networks.

    python -m experiments.hnas_darts
    python -m experiments.hnas_darts --dataset=cifar10:FOLDER --layers=5 --batch_size=64 \
        --num_candidates=60000 --num_evaluations=25 --train_channels=16 --train_layers=8 \
        --train_epochs=10 --train_batch=96 --train_rate=0.025

Scores random networks of the DARTS space untrained, then searches them: HNAS tunes the constants of
`kappa / M + mu |M^2 - nu|` by Bayesian optimization, and each look is a short training of a small
network. As many are trained at random, in the order of #params and in that of `panel`. Validation
accuracy decides, the test images are for the report. A run that is stopped goes on.

The second command is the published size of the search (Shu et al., NeurIPS 2022, arXiv 2201.09785)
and asks for a GPU. What is found is a genotype in the notation of DARTS.

60 networks scored on 16 images of 16 pixels and six trainings a search (--image_size=16
--batch_size=16 --num_seeds=1; 12 CPU minutes): test accuracy of the one with the best validation
accuracy HNAS 32.0 (of magnitudes; its score was not made of ranks then, and images moved by up to 4
pixels), `panel` 30.8, #params 30.4, random 33.4, mean over all that was trained 29.4, 32.2, 31.2,
33.3. At this size nothing beats chance.
"""

from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import processes, search
from jaxnas.launch import launch
from jaxnas.proxies import aggregate
from jaxnas.runs import Part, Report, Table, Text
from jaxnas.spaces import darts
from jaxnas.trainer import Trainer
from jaxnas.training import TrainingOptions
from jaxnas.types import SearchSpace

_NUM_CANDIDATES = flags.DEFINE_integer("num_candidates", 60, "Number of networks in the pool.", 4)
_METRIC = flags.DEFINE_string("metric", "grad_norm", "Score that is the metric M of HNAS.")
_NUM_EVALUATIONS = flags.DEFINE_integer(
    "num_evaluations", 6, "Number of networks that each search trains.", 2
)
_LAYERS = flags.DEFINE_integer("layers", 3, "Number of cells of a network that is scored.", 3)
_TRAIN_CHANNELS = flags.DEFINE_integer(
    "train_channels", 8, "Number of channels of a network that is trained.", 2
)
_TRAIN_LAYERS = flags.DEFINE_integer(
    "train_layers", 3, "Number of cells of a network that is trained.", 3
)
_TRAIN_EPOCHS = flags.DEFINE_integer("train_epochs", 4, "Number of epochs of a training.", 1)
_TRAIN_BATCH = flags.DEFINE_integer("train_batch", 64, "Number of images of a training step.", 1)
_TRAIN_RATE = flags.DEFINE_float("train_rate", 0.1, "Highest learning rate of a training.", 0)

common.reads(*common.BATCHES, *common.PROCESSES, "channels", "norm", "plan", "deduplicate")

_NOTE = (
    "One training each; what two searches train is trained once. Of those that a search trained "
    "the best validation accuracy decides. Differences of a point or two are noise."
)


def main() -> None:
    """Score, search, train and compare."""
    setting, panel = common.setting(_space), aggregate.RECIPES["panel"]
    space = setting.space
    names = list(dict.fromkeys([_METRIC.value, "ntk_condition", *panel.parts]))
    with common.run_folder("hnas_darts") as (folder, meter):
        archs = common.draw(space, _NUM_CANDIDATES.value)
        scored = common.score(setting, archs, names, folder)
        if processes.shard()[0] > 0:
            return  # the first process trains and reports
        sizes = {"channels": _TRAIN_CHANNELS.value, "layers": _TRAIN_LAYERS.value}
        options = TrainingOptions(
            epochs=_TRAIN_EPOCHS.value,
            batch_size=_TRAIN_BATCH.value,
            learning_rate=_TRAIN_RATE.value,
            weight_decay=3e-4,
            clip_value=5.0,
            seed=common.seed(),
        )
        trainer = Trainer(
            *(darts(**{**space.options, **sizes}), setting.dataset, options, folder / "training"),
            image_size=setting.image_size,
        )
        scores = {name: scored.mean(name) for name in names}

        def objective(tau: float, log_mu: float) -> np.ndarray:
            pair = scores[_METRIC.value], -scores["ntk_condition"]
            return aggregate.hybrid_score(*pair, tau=tau, mu=10**log_mu)

        found = search.hybrid(
            *(archs, objective, trainer),
            key=jax.random.fold_in(jax.random.key(common.seed()), 1),
            num_evaluations=min(_NUM_EVALUATIONS.value, len(archs)),
        )
        looks = [step.candidate for step in found.steps if not step.failure]
        params = np.array([space.num_params(arch) for arch in archs])
        orders = {
            "HNAS": np.array(looks),
            "panel": np.argsort(-panel(scores), kind="stable"),
            "#params": np.argsort(-params, kind="stable"),
            "random": np.random.default_rng(common.seed()).permutation(len(archs)),
        }
        rows = []
        for name, order in orders.items():
            trained = order[: len(looks)]
            valid = trainer(archs[trained])
            test = [trainer.test_accuracy[space.to_string(arch)] for arch in archs[trained]]
            best = valid.argmax()
            rows.append(
                {
                    "search": name,
                    "trained": len(trained),
                    "best valid %": valid[best],
                    "its test %": test[best],
                    "mean test %": np.mean(test),
                    "its parameters": params[trained[best]],
                }
            )
    parts: list[Part] = [
        Table("Searches", pd.DataFrame(rows), _NOTE),
        Text("What HNAS found", space.to_string(found.arch)),
        Text("Scores", common.failures(scored)),
    ]
    subtitle = (
        f"{len(archs)} networks of {_LAYERS.value} cells, C={space.options['channels']}, scored on "
        f"{setting.context['batch_size']} images of {setting.image_size} pixels, "
        f"{space.options['norm']} normalization, {len(setting.seeds)} draw(s), M: {_METRIC.value}; "
        f"trained with {_TRAIN_LAYERS.value} cells, C={_TRAIN_CHANNELS.value}, "
        f"{_TRAIN_EPOCHS.value} epochs of {_TRAIN_BATCH.value} images a step."
    )
    summary = {f"test_{row['search']}": row["its test %"] for row in rows}
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    common.finish(folder, meter, Report("HNAS on DARTS", subtitle, parts), summary)


def _space(*, cells: int, **options: Any) -> SearchSpace:
    return darts(layers=_LAYERS.value, **options)


if __name__ == "__main__":
    launch(main)
