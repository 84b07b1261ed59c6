r"""Which signal of a supernet ranks networks? All 6,561 of NAS-Bench-Macro know the answer.

    python -m experiments.fair_supernet --recipe=fair --channels=16 --image_size=16
    python -m experiments.fair_supernet --recipe=published --channels=16 --image_size=16

Trains a supernet by a recipe, reads its indicators and the losses of inherited paths, and compares
them with the accuracies of the trained networks: on one half of the networks, from which a choice
of signal may be made, and on the other half, which is for the report. Beside them stand scores of
untrained networks and plain costs. Evolution by the signal of the recipe then searches the whole
space for the best network under a cap of FLOPs. With --num_orders=2 each draw of the initial
weights is trained twice, on the images in another order: what two such runs agree on, beyond what
two draws of the weights do, is a matter of the draw, not of the structure.

Measured (docs/results/supernets.md; 16 channels, 16 pixels, 9,500 images): the inherited loss of
recipe `fair` has Spearman .80 after 8 epochs and .67 after 4 (three runs each), the indicators of
`published` -.24, FLOPs .72, and `swap`, of untrained networks, .91.

On a GPU, the benchmark's own size on all of CIFAR-10:

    python -m experiments.fair_supernet --recipe=fair --channels=32 --dataset=cifar10:FOLDER \
        --train_batch=128 --epochs=30 --num_seeds=3
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common, supernet_runs
from jaxnas import correlation, proxies, search
from jaxnas.benchmarks import TabularBenchmark, nasbench_macro
from jaxnas.benchmarks.macro import NUM_CHOICES
from jaxnas.launch import launch
from jaxnas.runs import Part, Report, Table, correlation_table
from jaxnas.spaces import nasbench_macro as space_of
from jaxnas.spaces.mobilenetv2_space import SearchedNetwork
from jaxnas.spaces.nasbench_macro_space import layout, representative
from jaxnas.types import SearchSpace

_NUM_INHERITED = flags.DEFINE_integer(
    "num_inherited",
    600,
    "Number of networks whose scores are compared with their accuracies.",
    8,
    6561,
)
_PROXIES = common.define_proxies(["swap", "naswot"])
_NUM_ORDERS = flags.DEFINE_integer(
    "num_orders", 1, "Number of orders of the images for each draw of the weights.", 1
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", 20, "Number of generations of evolution, of 50 networks each.", 1
)
_K = flags.DEFINE_integer("k", 10, "Number of the found networks that are trained.", 1, 50)
_CAP = flags.DEFINE_float(
    "flops_quantile", 0.5, "Cap of FLOPs, as a quantile of those of the space.", 0, 1
)

common.reads(*common.BATCHES, "channels", "norm", "plan", "deduplicate")
flags.adopt_module_key_flags(supernet_runs)

RANDOM = 1000  # searches at random

_CORRELATIONS_NOTE = (
    "Spearman with the accuracy of the trained networks, mean and standard deviation over runs; "
    "low and high: 95 % bootstrap interval over functions, of the mean of the scores of all runs; "
    "partial: given log FLOPs, of that mean. The signal of the recipe is marked *."
)
_SEARCH_NOTE = (
    "percentile: share of all networks of the benchmark under the cap that are less accurate than "
    "the best by the score, mean over searches, and the worst of them. best of k: the k best are "
    "trained, the first of the benchmark's three trainings decides among them and the others "
    "judge. looks: networks that evolution scored. FLOPs-max, #params-max and best see the whole "
    f"space; random is {RANDOM:,} searches."
)
_AGREEMENT_NOTE = (
    "Kendall's tau between the block indicators of two runs, mean over layers and pairs of runs; 0 "
    "is chance. Identities have no indicator and do not count."
)


def main() -> None:
    """Train, read, search and compare."""
    setting = common.setting(_space)
    recipe = supernet_runs.recipe()
    benchmark = nasbench_macro()
    cap = float(np.quantile(benchmark.columns["flops"], _CAP.value))
    rng = np.random.default_rng(0)  # the halves are the same for all runs
    rows = rng.permutation(len(benchmark.archs))[: _NUM_INHERITED.value]
    archs = benchmark.archs[rows]
    if not (benchmark.columns["flops"][rows] <= cap).any():
        raise ValueError(
            f"No network that is compared costs {cap:.3g} FLOPs or less: raise --flops_quantile or "
            "--num_inherited."
        )

    def evolve(score: Callable[[np.ndarray], np.ndarray], seed: int) -> search.History:
        return search.constrained_evolution(
            NUM_CHOICES,
            score,
            key=jax.random.key(seed),
            legal=lambda archs: benchmark.columns["flops"][benchmark.index(archs)] <= cap,
            options=search.EvolutionOptions(generations=_GENERATIONS.value),
        )

    options, marked = setting.space.options, f"{recipe.signal} *"
    module = SearchedNetwork(
        colors=options["colors"],
        layout=layout(options["stem"], options["head"], setting.image_size),
        classes=options["classes"],
        bypass=recipe.bypass,
    )
    with common.run_folder(f"fair_supernet_{recipe.name}") as (folder, meter):
        images = supernet_runs.images(setting)
        runs = supernet_runs.train(module, recipe, images, folder, setting.seeds, _NUM_ORDERS.value)
        read = [run.by_inheritance(archs) | run.by_indicators(archs) for run in runs.values()]
        signals = {
            marked if name == recipe.signal else name: np.stack([each[name] for each in read])
            for name in read[0]
        }
        found = {marked: [evolve(run.signal, seed) for (seed, _), run in runs.items()]}
        if len(runs) > 1:

            def together(archs: np.ndarray) -> np.ndarray:
                return np.mean([run.signal(archs) for run in runs.values()], axis=0)

            found[f"{recipe.signal}, mean of runs"] = [evolve(together, common.seed())]
        for name in _PROXIES.value:
            scores, beside = _untrained(setting, name, archs, folder)
            signals[name] = scores[None]
            found[name] = [evolve(beside, common.seed())]
    signals["FLOPs"] = benchmark.columns["flops"][rows][None].astype(float)
    signals["#params"] = benchmark.params[rows][None].astype(float)
    half = len(rows) // 2
    tables = []
    for name, at in (("chosen on", slice(0, half)), ("reported on", slice(half, None))):
        of_half = {signal: scores[:, at] for signal, scores in signals.items()}
        tables.append(_correlations(benchmark, rows[at], of_half))
        tables[-1].insert(0, "half", name)
    searches = _searches(benchmark, cap, found)
    agreement = pd.DataFrame(
        {"pairs of runs": kind, "pairs": len(tau), "Kendall's tau": tau.mean(), "sd": tau.std()}
        for kind, tau in supernet_runs.agreement(runs).items()
    )
    parts: list[Part] = [
        Table("Rank correlations", pd.concat(tables, ignore_index=True), _CORRELATIONS_NOTE),
        Table("Search under a cap of FLOPs", searches, _SEARCH_NOTE),
        Table("Agreement of block indicators", agreement, _AGREEMENT_NOTE),
        supernet_runs.loss_curves(runs),
    ]
    reported = tables[-1]
    summary = dict(zip("spearman_" + reported["signal"], reported["spearman"], strict=True))
    for row in searches.to_dict("records"):
        summary[f"percentile_{row['by']}"] = row["percentile"]
        summary[f"percentile_best_of_k_{row['by']}"] = row[f"best of {_K.value}"]
    subtitle = (
        f"NAS-Bench-Macro at {options['stem']} channels, {setting.image_size}x{setting.image_size} "
        f"images. {supernet_runs.describe(recipe)} {len(rows)} networks compared; seeds "
        f"{', '.join(map(str, setting.seeds))}."
    )
    report = Report(f"A supernet of NAS-Bench-Macro, {recipe.name}", subtitle, parts)
    common.finish(folder, meter, report, summary)


def _space(*, channels: int, cells: int, norm: str, **options: Any) -> SearchSpace:
    return space_of(channels=channels, head=40 * channels, norm=norm, **options)


def _untrained(
    setting: common.Setting, name: str, archs: np.ndarray, folder: Path
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return a score of untrained networks `[A]`, and that of others beside them.

    Of one draw, on which it hardly depends. An aggregate of others is of the ranks that each would
    have among `archs`, so networks of all generations have one measure.
    """
    once = setting._replace(seeds=setting.seeds[:1])
    chosen = proxies.expand(name)
    measured = [proxy.name for proxy in chosen.proxies]
    compared = common.score(once, archs, measured, folder).scores

    def beside(others: np.ndarray) -> np.ndarray:
        scored = common.score(once, others, measured, folder).scores
        found = []
        for at in range(len(others)):
            pool = {part: np.append(compared[part], scored[part][:, [at]], 1) for part in measured}
            found.append(chosen.scores(pool)[name][:, -1].mean())
        return np.array(found)

    return chosen.scores(compared)[name].mean(0), beside


def _correlations(
    benchmark: TabularBenchmark, rows: np.ndarray, signals: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Return how well signals `[runs, N]` order the accuracies of some rows of the benchmark."""
    accuracy = benchmark.columns["accuracy"][rows]
    random = np.random.default_rng(common.seed()).random((1, len(rows)))
    signals = {**signals, "random": random}
    table = correlation_table(
        {name: scores.mean(0) for name, scores in signals.items()},
        accuracy,
        groups=np.array([representative(arch) for arch in benchmark.archs[rows]]),
        given={"FLOPs": benchmark.columns["flops"][rows]},
    )
    names = {"score": "signal", "spearman": "mean of runs", "| FLOPs": "partial | FLOPs"}
    table = table.rename(columns=names)
    runs = [
        pd.Series([correlation.spearman(one, accuracy) for one in scores])
        for scores in signals.values()
    ]
    table.insert(1, "spearman", [each.mean() for each in runs])
    table.insert(2, "sd", [each.std() for each in runs])
    return table


def _searches(
    benchmark: TabularBenchmark, cap: float, histories: Mapping[str, list[search.History]]
) -> pd.DataFrame:
    """Return how accurate the networks are that searches have found, beside plain rules."""
    legal = np.flatnonzero(benchmark.columns["flops"] <= cap)
    accuracy, k = benchmark.columns["accuracy"], _K.value
    decides, *others = (benchmark.columns[f"run_{number}"] for number in (1, 2, 3))
    judges = np.mean(others, axis=0)
    rng = np.random.default_rng(common.seed())

    def largest(column: np.ndarray) -> list[np.ndarray]:
        return [legal[np.argsort(-column[legal], kind="stable")]]

    # Of each search the rows of the benchmark that it found, its best first.
    found = {
        by: [benchmark.index(np.asarray(each.ranked_archs)) for each in of]
        for by, of in histories.items()
    }
    found |= {
        "FLOPs-max": largest(benchmark.columns["flops"]),
        "#params-max": largest(benchmark.params),
    }
    found["random"] = [rng.permutation(legal)[:k] for _ in range(RANDOM)]
    found["best"] = largest(accuracy)
    table = []
    for by, ranked in found.items():
        firsts = [rows[0] for rows in ranked]
        trained = [rows[:k][decides[rows[:k]].argmax()] for rows in ranked]
        places = [100 * (accuracy[legal] < accuracy[one]).mean() for one in firsts]
        retrained = [100 * (judges[legal] < judges[one]).mean() for one in trained]
        table.append(
            {
                "by": by,
                "network": "".join(map(str, benchmark.archs[firsts[0]])),
                "accuracy %": accuracy[firsts].mean(),
                "percentile": np.mean(places),
                "worst": np.min(places),
                f"best of {k}": np.mean(retrained),
                f"worst best of {k}": np.min(retrained),
                "MFLOPs": benchmark.columns["flops"][firsts].mean() / 1e6,
                "looks": np.mean([len(rows) for rows in ranked]) if by in histories else np.nan,
            }
        )
    return pd.DataFrame(table)


if __name__ == "__main__":
    launch(main)
