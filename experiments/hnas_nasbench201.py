r"""HNAS on NAS-Bench-201: hybrid search beside what else the same simulated cost buys.

    python -m experiments.hnas_nasbench201 --num_candidates=1000
    python -m experiments.hnas_nasbench201 --num_candidates=15625 --num_seeds=10 --num_searches=20

Scores a pool of cells, then searches it: HNAS tunes the two constants of `kappa / M + mu |M^2 -
nu|` by Bayesian optimisation over a few accuracies after 12 epochs, for each metric `M`. Beside it
stand the published form of its score, random search, regularized evolution (over all cells), and
the pool in the order of #params, of each metric and of rank aggregates. All look at the same
CIFAR-10 validation accuracy after 12 epochs, pay the GPU seconds of those, and take the best they
saw; the report compares the test accuracies after 200 epochs, at one budget and over budgets.

1,000 cells, two draws of 16 images at 16 pixels (--num_seeds=2 --seed=1 --norm=batch
--batch_size=16 --image_size=16): half an hour on two cores with all metrics; all cells on 64 images
of 32 pixels: two hours of CPU. CIFAR-10 test accuracy within 3,051 simulated seconds, of all
cells: HNAS 93.99 to 94.34, as published 93.72 to 93.91, random 93.13 +-.32 (docs/results/hnas.md).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import processes, proxies, search
from jaxnas.benchmarks.tabular import DATASETS
from jaxnas.launch import launch
from jaxnas.proxies import aggregate
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.search import HybridOptions
from jaxnas.spaces.nasbench201 import cell

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

_CONDITION = "ntk_condition"
_PUBLISHED = HybridOptions({"tau": (0.0, 1.0), "log_mu": (-4.0, 0.0)}, growth=2000)
_EVOLUTION = search.regularized_evolution(cell.NUM_CHOICES)
_BUDGETS = 24


class Visited(NamedTuple):
    """One search: what it looked at, in order, `int32[T, 6]`."""

    method: str
    archs: np.ndarray


def main() -> None:
    """Score, search and compare."""
    setting = common.setting()
    names = _needed()
    proxies.resolve(names)
    with common.run_folder("hnas_nasbench201") as (folder, meter):
        found = common.draw_pool(setting, _NUM_CANDIDATES.value, names, folder)
        if processes.shard()[0] > 0:
            return  # the first process searches and reports
        outcomes = pd.DataFrame(row for run in _runs(found) for row in _outcomes(found, run))
    finals = outcomes[outcomes["budget"] == _BUDGET.value]
    table = _table(finals)
    parts: list[Text | Table | Plot] = [
        Text("The outcome", f"{_verdict(finals)}\n\n{common.failures(found.scored)}"),
        Table(
            f"What {_BUDGET.value:,.0f} simulated GPU seconds find",
            table,
            f"Means over searches. A hybrid search ends after {_NUM_EVALUATIONS.value} looks, all "
            "others when the budget is spent; s and looks: what was used of it. +-: 95 % interval "
            "of the mean over searches. Test accuracies are after 200 epochs, and never looked at.",
        ),
        *[_curves(outcomes, data) for data in DATASETS],
    ]
    report = Report("HNAS on NAS-Bench-201", common.describe(setting), parts)
    summary: dict[str, Any] = {
        f"{row['method']}_{data}": row[f"{data} %"]
        for _, row in table.iterrows()
        for data in DATASETS
    }
    summary["scoring_cpu_seconds"] = found.scored.cpu_seconds
    common.finish(folder, meter, report, summary)


def _needed() -> list[str]:
    unknown = set(_AGGREGATES.value) - set(aggregate.RECIPES)
    if unknown:
        raise ValueError(
            f"Unknown aggregate {unknown.pop()!r}: use {', '.join(aggregate.RECIPES)}."
        )
    parts = [name for recipe in _AGGREGATES.value for name in aggregate.RECIPES[recipe].parts]
    condition = [_CONDITION] if _METRICS.value else []
    return list(dict.fromkeys([*_METRICS.value, *condition, *parts]))


def _runs(found: common.Pool) -> Iterator[Visited]:
    """Yield all searches; each takes one draw of the scores."""
    draws = len(next(iter(found.scored.scores.values())))
    for number in range(_NUM_SEARCHES.value):
        key = jax.random.fold_in(jax.random.key(common.seed()), number)
        scores = {name: draws_of[number % draws] for name, draws_of in found.scored.scores.items()}
        yield from _hybrid_runs(found, scores, key)
        yield Visited("random", np.asarray(jax.random.permutation(key, found.archs)))
        yield Visited("evolution", _evolve(found, key))
        if number < draws:  # these know no chance but that of the scores
            yield from _ordered_runs(found, scores)


def _hybrid_runs(
    found: common.Pool, scores: dict[str, np.ndarray], key: jax.Array
) -> Iterator[Visited]:
    look = common.from_table(found.benchmark)

    def run(method: str, objective: search.Objective, options: HybridOptions) -> Visited:
        result = search.hybrid(
            found.archs,
            objective,
            look,
            key=key,
            num_evaluations=_NUM_EVALUATIONS.value,
            options=options,
        )
        return Visited(method, found.archs[[step.candidate for step in result.evaluations]])

    for metric in _METRICS.value:
        pair = scores[metric], -scores[_CONDITION]

        def ours(tau: float, log_mu: float, pair: Any = pair) -> np.ndarray:
            return aggregate.hybrid_score(*pair, tau=tau, mu=10**log_mu)

        def published(tau: float, log_mu: float, pair: Any = pair) -> np.ndarray:
            return aggregate.published_hybrid_score(*pair, tau=tau, mu=10**log_mu)

        yield run(f"HNAS {metric}", ours, HybridOptions())
        yield run(f"HNAS published {metric}", published, _PUBLISHED)
    for recipe in _AGGREGATES.value:
        parts = aggregate.RECIPES[recipe].parts
        each = np.stack([aggregate.log_rank(scores[name][None]) for name in parts])

        def weighed(*weights: float, each: np.ndarray = each) -> np.ndarray:
            return np.asarray(weights) @ each

        options = HybridOptions(
            dict.fromkeys(parts, (0.0, 1.0)),
            probes=((1.0,) * len(parts),),
            exploited=_NUM_EVALUATIONS.value // 2,
        )
        yield run(f"tuned {recipe}", weighed, options)


def _ordered_runs(found: common.Pool, scores: dict[str, np.ndarray]) -> Iterator[Visited]:
    by_name = {recipe: aggregate.RECIPES[recipe](scores) for recipe in _AGGREGATES.value}
    by_name |= scores | {"#params": found.params, "#live": found.live_params}
    for name, values in by_name.items():
        yield Visited(f"top {name}", found.archs[np.argsort(-values, kind="stable")])


def _evolve(found: common.Pool, key: jax.Array) -> np.ndarray:
    """Return what regularized evolution looks at, of all cells; twice the same costs once."""
    looks = int(_BUDGET.value / found.benchmark.columns["seconds"].min()) + 1
    lookup = found.benchmark.lookup("cifar10/valid_12ep")
    archs = np.asarray(search.run(_EVOLUTION, lookup, key=key, num_evaluations=looks).archs)
    first = np.sort(np.unique(archs, axis=0, return_index=True)[1])
    return archs[first]


def _outcomes(found: common.Pool, run: Visited) -> Iterator[dict[str, Any]]:
    """Yield what a run has found at each budget that pays for one look."""
    seconds = found.benchmark.seconds(run.archs).cumsum()
    seen = found.benchmark.accuracy(run.archs, "cifar10", "valid_12ep")
    for budget in np.geomspace(100, _BUDGET.value, _BUDGETS):
        looks = int((seconds <= budget).sum())
        if looks:
            best = run.archs[seen[:looks].argmax()]
            yield {
                "method": run.method,
                "budget": float(budget),
                "looks": looks,
                "s": float(seconds[looks - 1]),
                **{data: float(found.benchmark.accuracy(best, data)) for data in DATASETS},
            }


def _table(finals: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for method, group in finals.groupby("method", sort=False):
        row: dict[str, Any] = {"method": method, "searches": len(group)}
        row |= {"looks": group["looks"].mean(), "s": group["s"].mean()}
        for data in DATASETS:
            row[f"{data} %"] = group[data].mean()
            row[f"+- {data}"] = 1.96 * _error_of_mean(group[data])
        rows.append(row)
    return pd.DataFrame(rows).sort_values(f"{DATASETS[0]} %", ascending=False)


def _verdict(finals: pd.DataFrame) -> str:
    """Return in words which searches beat random search, and which #params."""
    groups = finals.groupby("method", sort=False)
    by_method = {str(name): group[DATASETS[0]] for name, group in groups}
    random = by_method["random"]
    better = []
    for name, accuracies in by_method.items():
        gain = accuracies.mean() - random.mean()
        if gain > 1.96 * np.hypot(_error_of_mean(accuracies), _error_of_mean(random)):
            better.append(f"{name} {gain:+.2f}")
    listed = ", ".join(better) or "none"
    return (
        f"Random search finds {random.mean():.2f} % on CIFAR-10. Better by more than the 95 % "
        f"interval of the difference, in points: {listed}."
    )


def _error_of_mean(values: pd.Series) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _curves(outcomes: pd.DataFrame, data: str) -> Plot:
    methods = [f"HNAS {metric}" for metric in _METRICS.value][:3]
    methods += [f"top {recipe}" for recipe in _AGGREGATES.value][:2]
    methods += ["top #params", "random", "evolution"]
    chosen = outcomes[outcomes["method"].isin(methods)]
    mean = chosen.groupby(["method", "budget"], sort=False)[data].mean()
    curves = {name: 100 - mean[name] for name in methods if name in mean}
    figure = figures.curves(curves, x="simulated GPU seconds", y=f"{data} test error (%)")
    return Plot(f"Error over budget, {data}", figure, "Mean test error of the best by validation.")


if __name__ == "__main__":
    launch(main)
