r"""HNAS on NAS-Bench-201: hybrid search beside what else the same simulated cost buys.

    python -m experiments.hnas_nasbench201 --num_candidates=1000
    python -m experiments.hnas_nasbench201 --num_candidates=15625 --num_seeds=10 --num_searches=20

Scores a pool of cells, then searches it: HNAS tunes the two constants of `kappa / M + mu |M^2 -
nu|` by Bayesian optimization over a few accuracies after 12 epochs, for each metric `M`. Beside it
stand the published form of its score, random search, regularized evolution (over all cells), and
the pool in the order of #params, of each metric and of rank aggregates. All pay the simulated GPU
seconds of the accuracies that they look at and take the best; the report compares the test
accuracies after 200 epochs, at one budget and over budgets.

1,000 cells, two draws of 16 images at 16 pixels (--num_seeds=2 --seed=1 --norm=batch
--batch_size=16 --image_size=16): half an hour on two cores with all metrics; all cells on 64 images
of 32 pixels: two hours of CPU. CIFAR-10 test accuracy within 3,051 simulated seconds, of all
cells: HNAS 93.99 to 94.34, as published 93.72 to 93.91, random 93.13 +-.32 (docs/results/hnas.md).
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import processes, search
from jaxnas.benchmarks.nasbench201_table import DATASETS
from jaxnas.launch import launch
from jaxnas.proxies import aggregate
from jaxnas.runs import Part, Plot, Report, Table, Text, figures
from jaxnas.search import HybridOptions
from jaxnas.spaces.nasbench201_space import cell

_NUM_CANDIDATES = flags.DEFINE_integer(
    "num_candidates", 1000, "Number of cells in the pool.", 30, 15625
)
_METRICS = flags.DEFINE_list(
    "metrics",
    ["grad_norm", "snip", "grasp", "ntk_trace"],
    "Scores that are the metric M of HNAS in turn.",
)
_AGGREGATES = flags.DEFINE_list(
    "aggregates", ["az_nas", "panel", "pair"], "Rank aggregates to search by, beside each metric."
)
_NUM_SEARCHES = flags.DEFINE_integer(
    "num_searches", 20, "Number of searches of each kind. They take the draws of scores in turn.", 2
)
_NUM_EVALUATIONS = flags.DEFINE_integer(
    "num_evaluations", 20, "Number of evaluations of a hybrid search.", 2
)
_BUDGET = flags.DEFINE_float("budget", 3051, "Simulated GPU seconds of every search.", 1)

common.reads(*common.SCORES, *common.PROCESSES)

_EVOLUTION = search.regularized_evolution(cell.NUM_CHOICES)
_PUBLISHED = HybridOptions({"tau": (0.0, 1.0), "log_mu": (-4.0, 0.0)}, growth=2000)
_FIRST = DATASETS[0]
_LOOK = {"seen": "cifar10/valid_12ep", "cost": "seconds"}


def main() -> None:
    """Score, search and compare."""
    if unknown := set(_AGGREGATES.value) - set(aggregate.RECIPES):
        raise ValueError(
            f"Unknown aggregate {unknown.pop()!r}: use {', '.join(aggregate.RECIPES)}."
        )
    needed = [name for recipe in _AGGREGATES.value for name in aggregate.RECIPES[recipe].parts]
    condition = ["ntk_condition"] if _METRICS.value else []
    names = list(dict.fromkeys([*_METRICS.value, *condition, *needed]))
    setting = common.setting()
    with common.run_folder("hnas_nasbench201") as (folder, meter):
        found = common.draw_pool(setting, _NUM_CANDIDATES.value, names, folder)
        if processes.shard()[0] > 0:
            return  # the first process searches and reports
        budgets = np.geomspace(100, _BUDGET.value, 24)
        outcomes = pd.concat(
            pd.DataFrame(found.benchmark.best_found(archs, budgets, **_LOOK)).assign(method=method)
            for method, archs in _runs(found)
        )

    # Means over the searches of a method at the whole budget, and their 95 % intervals.
    groups = outcomes[outcomes["budget"] == _BUDGET.value].groupby("method", sort=False)
    mean, error = groups[list(DATASETS)].mean(), groups[list(DATASETS)].sem().fillna(0)
    table = groups.size().to_frame("searches").join(groups[["looks", "spent"]].mean())
    for data in DATASETS:
        table[f"{data} %"], table[f"+- {data}"] = mean[data], 1.96 * error[data]
    table = table.sort_values(f"{_FIRST} %", ascending=False).reset_index()
    random, gain = mean[_FIRST]["random"], mean[_FIRST] - mean[_FIRST]["random"]
    clear = gain > 1.96 * np.hypot(error[_FIRST], error[_FIRST]["random"])
    better = [f"{method!s} {points:+.2f}" for method, points in gain[clear].items()]
    outcome = (
        f"Random search finds {random:.2f} % on CIFAR-10. Better by more than the 95 % interval of "
        f"the difference, in points: {', '.join(better) or 'none'}."
    )
    parts: list[Part] = [
        Text("The outcome", f"{outcome}\n\n{common.failures(found.scored)}"),
        Table(
            f"What {_BUDGET.value:,.0f} simulated GPU seconds find",
            table,
            f"Means over searches. A hybrid search ends after {_NUM_EVALUATIONS.value} looks, all "
            "others when the budget is spent; looks, spent: what was used of it. +-: 95 % interval "
            "of the mean over searches. Test accuracies are after 200 epochs, and never looked at.",
        ),
        *[_curves(outcomes, data) for data in DATASETS],
    ]
    report = Report("HNAS on NAS-Bench-201", common.describe(setting), parts)
    summary = {
        f"{row['method']}_{data}": row[f"{data} %"]
        for row in table.to_dict("records")
        for data in DATASETS
    }
    summary["scoring_cpu_seconds"] = found.scored.cpu_seconds
    common.finish(folder, meter, report, summary)


def _runs(found: common.Pool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the method of each search and what it looks at, in order, `int32[T, 6]`.

    Each takes one draw of the scores.
    """
    draws = len(found.scored.seeds)
    for number in range(_NUM_SEARCHES.value):
        key = jax.random.fold_in(jax.random.key(common.seed()), number)
        scores = {name: each[number % draws] for name, each in found.scored.scores.items()}
        for method, objective, options in _hybrids(scores):
            steps = search.hybrid(
                *(found.archs, objective, common.from_table(found.benchmark)),
                key=key,
                num_evaluations=_NUM_EVALUATIONS.value,
                options=options,
            ).steps
            yield method, found.archs[[step.candidate for step in steps]]
        yield "random", np.asarray(jax.random.permutation(key, found.archs))
        yield "evolution", _evolve(found, key)
        if number < draws:  # these know no chance but that of the scores
            by_name = {recipe: aggregate.RECIPES[recipe](scores) for recipe in _AGGREGATES.value}
            by_name |= scores | {"#params": found.params, "#live": found.live_params}
            for name, values in by_name.items():
                yield f"top {name}", found.archs[np.argsort(-values, kind="stable")]


def _hybrids(
    scores: dict[str, np.ndarray],
) -> Iterator[tuple[str, search.Objective, HybridOptions]]:
    """Yield name, objective and options of each search that tunes constants."""
    for metric in _METRICS.value:
        pair = scores[metric], -scores["ntk_condition"]
        ours = _objective(aggregate.hybrid_score, *pair)
        published = _objective(aggregate.published_hybrid_score, *pair)
        yield f"HNAS {metric}", ours, HybridOptions()
        yield f"HNAS published {metric}", published, _PUBLISHED
    for recipe in _AGGREGATES.value:
        parts = aggregate.RECIPES[recipe].parts
        ranks = np.stack([aggregate.log_rank(scores[name][None]) for name in parts])
        options = HybridOptions(
            dict.fromkeys(parts, (0.0, 1.0)),
            probes=((1.0,) * len(parts),),
            exploited=_NUM_EVALUATIONS.value // 2,
        )
        yield f"tuned {recipe}", lambda *weights, ranks=ranks: np.array(weights) @ ranks, options


def _objective(score: Callable[..., np.ndarray], *pair: np.ndarray) -> search.Objective:
    """Return the score as a function of what is tuned, for a metric and condition numbers."""
    return lambda tau, log_mu: score(*pair, tau=tau, mu=10**log_mu)


def _evolve(found: common.Pool, key: jax.Array) -> np.ndarray:
    """Return what regularized evolution looks at, of all cells; twice the same costs once."""
    looks = int(_BUDGET.value / found.benchmark.columns["seconds"].min()) + 1
    lookup = found.benchmark.lookup("cifar10/valid_12ep")
    archs = np.asarray(search.run(_EVOLUTION, lookup, key=key, num_evaluations=looks).archs)
    first = np.sort(np.unique(archs, axis=0, return_index=True)[1])
    return archs[first]


def _curves(outcomes: pd.DataFrame, data: str) -> Plot:
    """Return the test error over the budget, of the eight most telling searches at most."""
    methods = [f"HNAS {metric}" for metric in _METRICS.value][:3]
    methods += [f"top {recipe}" for recipe in _AGGREGATES.value][:2]
    methods += ["top #params", "random", "evolution"]
    mean = outcomes.groupby(["method", "budget"], sort=False)[data].mean()
    curves = {name: 100 - mean[name] for name in methods if name in mean}
    figure = figures.curves(curves, x="simulated GPU seconds", y=f"{data} test error (%)")
    return Plot(f"Error over budget, {data}", figure, "Mean test error of the best by validation.")


if __name__ == "__main__":
    launch(main)
