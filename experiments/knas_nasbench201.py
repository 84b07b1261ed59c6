r"""KNAS on NAS-Bench-201: score a pool untrained, keep the best k, validate only those.

    python -m experiments.knas_nasbench201 --seed=0 --output_dir=results/knas

Samples 300 cells, scores them by the mean of the Gram matrix of their gradients (MGM, the first of
--proxies) and by some others, keeps the best 40 of each, looks at their 12-epoch validation
accuracy (or trains them with --fine_step=train) and takes the best. Beside it: the same with 40
random and with the 40 largest candidates.

The command above took 5 minutes on two CPU cores. CIFAR-10 test accuracy of the winner: mgm 93.36,
gradient_diversity, layer_balance and #params 93.53, random 93.21 +- .52 (mean, sd of 1,000 draws).
"""

from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import processes
from jaxnas.launch import launch
from jaxnas.runs import Part, Report, Table, Text, Winner
from jaxnas.search import two_step
from jaxnas.spaces.nasbench201_space import cell
from jaxnas.trainer import Trainer
from jaxnas.training import TrainingOptions
from jaxnas.types import ScoreFn

_PROXIES = common.define_proxies(["mgm", "gradient_values", "gradient_diversity", "layer_balance"])
_NUM_CANDIDATES = flags.DEFINE_integer("num_candidates", 300, "Number of cells to sample.", 1)
_K = flags.DEFINE_integer("k", 40, "Number of candidates that the fine step sees.", 1)
_FINE_STEP = flags.DEFINE_enum(
    "fine_step",
    "table",
    ("table", "train"),
    "Whether to look accuracies after 12 epochs up (table) or to train here (train).",
)
_EPOCHS = flags.DEFINE_integer("epochs", 12, "Number of epochs of --fine_step=train.", 1)
_FLIP = flags.DEFINE_bool(
    "flip", True, "Mirror half of the training images, with --fine_step=train."
)

common.reads(*common.SCORES, *common.PROCESSES)

_TESTS = {
    "C10 test %": "cifar10",
    "C100 test %": "cifar100",
    "IN16 test %": "imagenet16-120",
}
_NOTE = (
    "Each row keeps equally many and takes the best by the same fine step. C10, C100 and IN16 test "
    "are the benchmark's, after 200 epochs at C=16 and N=5; own test is of the training done here; "
    "GPU s, the benchmark's for 12 epochs of the kept."
)


def main() -> None:
    """Search and report."""
    if _FINE_STEP.value != "train":
        common.refuse("epochs", "flip", because="it belongs to --fine_step=train")
    k, count = _K.value, _NUM_CANDIDATES.value
    if k > count:
        raise ValueError(
            f"k must be at most the number of candidates: got k={k} with {count} candidates; "
            "sample more or lower k."
        )
    setting = common.setting()
    with common.run_folder("knas_nasbench201") as (folder, meter):
        found = common.draw_pool(setting, count, _PROXIES.value, folder)
        if processes.shard()[0] > 0:
            return  # the first process trains and reports
        trainer = None
        if _FINE_STEP.value == "train":
            options = TrainingOptions(
                epochs=_EPOCHS.value, batch_size=64, flip=_FLIP.value, seed=common.seed()
            )
            trainer = Trainer(
                *(setting.space, setting.dataset, options, folder / "training"),
                image_size=setting.image_size,
            )
        searches = _searches(found, trainer)
        accuracies = found.benchmark.accuracy(found.archs, "cifar10")
        ranking, summary = common.ranking(
            found.ranked, accuracies, found.functions, what="CIFAR-10 test accuracy", k=k
        )
    scored, first = found.scored, found.scored.first
    winner = searches["winner"].iloc[0]
    final = searches.set_index("kept by")["own test %" if trainer else "C10 test %"]
    outcome = (
        f"{first} finds {winner}: by {final.name} {final[first] - final['random']:+.2f} points to "
        f"random candidates, {final[first] - final['#params']:+.2f} to the largest.\n\n"
        f"{common.failures(scored)} Scores of this setting have cost {scored.cpu_seconds:.0f} CPU "
        "seconds, compilation included."
    )
    parts: list[Part] = [
        Text("The outcome", outcome),
        Winner("The winner", winner, cell.drawn(cell.from_string(winner))),
        Table("Two-step search beside its controls", searches, _NOTE),
        *common.plots(found, "cifar10", scored.order()[:k]),
        *ranking,
    ]
    for row in searches.to_dict("records"):
        kept_by = row["kept by"]
        summary |= {f"{kept_by}_{data}_test": row[label] for label, data in _TESTS.items()}
        if trainer:
            summary[f"{kept_by}_own_test"] = row["own test %"]
    summary |= {"winner": winner, "scoring_cpu_seconds": scored.cpu_seconds}
    report = Report(f"KNAS: {first} on NAS-Bench-201", common.describe(setting), parts)
    common.finish(folder, meter, report, summary)


def _searches(found: common.Pool, trainer: Trainer | None) -> pd.DataFrame:
    """Return one row for each way to keep k candidates, with the same fine step."""
    table, archs = found.benchmark, found.archs
    fine_fn: ScoreFn = trainer or common.from_table(table)
    tests = {label: table.accuracy(archs, data) for label, data in _TESTS.items()}
    seconds = table.value(archs, "seconds")

    def search(kept_by: str, coarse: np.ndarray) -> dict[str, Any]:
        result = two_step(archs, coarse, fine_fn, _K.value)
        first, last = result.steps
        winner = cell.to_string(result.arch)
        trained = {"own test %": trainer.test_accuracy[winner]} if trainer else {}
        return {
            **{"kept by": kept_by, **trained},
            **{label: each[result.winner] for label, each in tests.items()},
            "mean of kept C10 %": tests["C10 test %"][first.kept].mean(),
            "fine score %": last.scores.max(),
            "GPU s": seconds[first.kept].sum(),
            "winner": winner,
        }

    coarse = {name: found.scored.mean(name) for name in found.scored.scores}
    rows = [search(name, each) for name, each in (coarse | {"#params": found.params}).items()]
    # The random control is the mean of many draws, or one draw where each costs training.
    rng, count = np.random.default_rng(common.seed()), 1 if trainer else 1000
    draws = pd.DataFrame(search("random", rng.permutation(len(archs))) for _ in range(count))
    random = draws.iloc[0].to_dict() | draws.mean(numeric_only=True).to_dict()
    if not trainer:
        random["winner"] = f"{count} draws, C10 sd {draws['C10 test %'].std(ddof=0):.2f}"
    return pd.DataFrame([*rows, random])


if __name__ == "__main__":
    launch(main)
