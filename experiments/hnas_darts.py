r"""HNAS on DARTS with real training as feedback, beside searches that train as many networks.

    python -m experiments.hnas_darts
    python -m experiments.hnas_darts --dataset=cifar10:FOLDER --layers=5 --batch_size=64 \
        --num_candidates=60000 --num_evaluations=25 --train_channels=16 --train_layers=8 \
        --train_epochs=10 --train_batch=96 --train_rate=0.025

Scores random networks of the DARTS space untrained, then searches them: HNAS tunes the constants of
`kappa / M + mu |M^2 - nu|` by Bayesian optimisation, and each look is a short training from
scratch, of small networks. As many are trained at random, in the order of #params and in the
order of `panel`. The validation accuracy decides, the test images are for the report; every network
is trained once and shared, and a run that is stopped goes on.

The second command is the published size of the search (Shu et al., NeurIPS 2022, arXiv 2201.09785)
and asks for a GPU. What is found is a genotype in the notation of DARTS, for the training of full
length (20 cells, 36 channels, 600 epochs) by any DARTS repository.

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
from jaxnas.runs import Report, Table, Text
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

_CONDITION = "ntk_condition"


def main() -> None:
    """Score, search, train and compare."""
    setting = common.setting(_space)
    panel = aggregate.RECIPES["panel"]
    names = list(dict.fromkeys([_METRIC.value, _CONDITION, *panel.parts]))
    key = jax.random.key(common.seed())
    with common.run_folder("hnas_darts") as (folder, meter):
        archs = np.asarray(
            search.sample_distinct(key, setting.space.num_choices, _NUM_CANDIDATES.value)
        )
        scored = common.score(setting, archs, names, folder)
        if processes.shard()[0] > 0:
            return
        scores = {name: scored.mean(name) for name in names}
        params = np.array([setting.space.num_params(arch) for arch in archs], float)
        trainer = Trainer(
            *(_of_norm(setting), setting.dataset, _training(), folder / "training"),
            image_size=setting.image_size,
        )
        steps = _hybrid(archs, scores, trainer, jax.random.fold_in(key, 1))
        count = len(steps)
        by_name = {
            "HNAS": np.array([step.candidate for step in steps]),
            "panel": np.argsort(-panel(scores), kind="stable")[:count],
            "#params": np.argsort(-params, kind="stable")[:count],
            "random": np.random.default_rng(common.seed()).permutation(len(archs))[:count],
        }
        valid = {name: trainer(archs[rows]) for name, rows in by_name.items()}
    test = trainer.test_accuracy
    table = pd.DataFrame(
        {
            "search": name,
            "trained": len(rows),
            "best valid %": valid[name].max(),
            "its test %": test[setting.space.to_string(archs[rows[valid[name].argmax()]])],
            "mean test %": np.mean([test[setting.space.to_string(archs[row])] for row in rows]),
            "its parameters": int(params[rows[valid[name].argmax()]]),
        }
        for name, rows in by_name.items()
    )
    looks = pd.DataFrame(
        {
            "look": number,
            "tau": step.point[0],
            "log mu": step.point[1],
            "network": step.candidate,
            "valid %": step.feedback,
            "test %": test[setting.space.to_string(archs[step.candidate])],
        }
        for number, step in enumerate(steps, 1)
    )
    best = max(steps, key=lambda step: step.feedback)
    parts: list[Any] = [
        Text("The outcome", _verdict(table)),
        Text("What HNAS found", setting.space.to_string(archs[best.candidate])),
        Table("Searches", table, "One training each; what two searches train is trained once."),
        Table("The looks of HNAS", looks, "network: its place in the pool."),
        Text("Scores", common.failures(scored)),
    ]
    sizes = setting.space.options
    subtitle = (
        f"{len(archs)} networks of {_LAYERS.value} cells, C={sizes['channels']}, scored on "
        f"{setting.context['batch_size']} images of {setting.image_size} pixels, {sizes['norm']} "
        f"normalisation, {len(setting.seeds)} draw(s), M: {_METRIC.value}; trained with "
        f"{_TRAIN_LAYERS.value} cells, C={_TRAIN_CHANNELS.value}, {_TRAIN_EPOCHS.value} epochs of "
        f"{_TRAIN_BATCH.value} images a step."
    )
    summary = {f"test_{row['search']}": row["its test %"] for row in table.to_dict("records")}
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    common.finish(folder, meter, Report("HNAS on DARTS", subtitle, parts), summary)


def _space(*, cells: int, **options: Any) -> SearchSpace:
    return darts(layers=_LAYERS.value, **options)


def _of_norm(setting: common.Setting) -> Any:
    sizes = {name: setting.space.options[name] for name in ("classes", "colors")}
    sizes |= {"channels": _TRAIN_CHANNELS.value, "layers": _TRAIN_LAYERS.value}
    return lambda norm: darts(**sizes, norm=norm)


def _training() -> TrainingOptions:
    return TrainingOptions(
        epochs=_TRAIN_EPOCHS.value,
        batch_size=_TRAIN_BATCH.value,
        learning_rate=_TRAIN_RATE.value,
        weight_decay=3e-4,
        clip_value=5.0,
        seed=common.seed(),
    )


def _hybrid(
    archs: np.ndarray, scores: dict[str, np.ndarray], trainer: Trainer, key: jax.Array
) -> list[search.Evaluation]:
    pair = scores[_METRIC.value], -scores[_CONDITION]

    def objective(tau: float, log_mu: float) -> np.ndarray:
        return aggregate.hybrid_score(*pair, tau=tau, mu=10**log_mu)

    result = search.hybrid(
        archs,
        objective,
        trainer,
        key=key,
        num_evaluations=min(_NUM_EVALUATIONS.value, len(archs)),
    )
    return [step for step in result.evaluations if not step.failure]


def _verdict(table: pd.DataFrame) -> str:
    found = table.set_index("search")["its test %"].to_dict()
    words = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return (
        "Test accuracy in percent of the network with the best validation accuracy of those that a "
        f"search trained: {words}. One pool and one training each: differences of a point or two "
        "are noise."
    )


if __name__ == "__main__":
    launch(main)
