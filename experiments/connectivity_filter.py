r"""Filters by connectivity on NAS-Bench-201: what they keep, what they save, what they cost.

    python -m experiments.connectivity_filter --norm=batch --batch_size=16 --image_size=16 \
        --num_seeds=1 --num_prunings=8

The published filter (Chen et al., NeurIPS 2022, arXiv 2205.05662) asks for a middle effective depth
and width; a control asks that there are enough convolutions on the paths. Each stands before three
searches: NASWOT (the best score of 100 random cells), KNAS (the best 10 of them by MGM, and of
those the best by 12-epoch validation) and TE-NAS (pruning, where the published rule reserves
operations instead of dropping cells). All cells are scored once; the searches then are look-ups.

Measured on all 15,625 cells (docs/results/connectivity.md, 25 CPU minutes): the ranges of the
published code keep 52.6 % of them and 98.1 % of the best hundredth, and NASWOT gains +.01 points
(.00 to .03) by them, total depth >= 2 keeps 64.6 % and 100 %, and it gains +.00. TE-NAS needs 54
evaluations, and 36 with the published reservation.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import connectivity, encoding, processes, search, te_nas
from jaxnas.benchmarks import TabularBenchmark
from jaxnas.benchmarks.nasbench201_table import DATASETS
from jaxnas.connectivity import filter as filters
from jaxnas.connectivity.cells import NASBENCH201_KINDS
from jaxnas.launch import launch
from jaxnas.runs import JsonCache, Part, Plot, Report, Table, Text, figures
from jaxnas.spaces.nasbench201_space import cell

_NUM_ARCHS = flags.DEFINE_integer("num_archs", 15625, "Number of cells to draw from.", 30, 15625)
_NUM_SEARCHES = flags.DEFINE_integer("num_searches", 500, "Number of searches of each kind.", 2)
_SAMPLE = flags.DEFINE_integer("sample", 100, "Number of cells that a search draws.", 2)
_K = flags.DEFINE_integer("k", 10, "Number of cells that KNAS validates.", 1)
_NUM_PRUNINGS = flags.DEFINE_integer(
    "num_prunings", 4, "Number of searches by TE-NAS, with and without the filter.", 0
)
_REPEATS = flags.DEFINE_integer(
    "prune_repeats", 3, "Number of draws that an evaluation of TE-NAS averages.", 1
)

common.reads(*common.SCORES, *common.PROCESSES)

EVERYTHING = "no filter"
SEARCHES = ("NASWOT", "KNAS", "#params", "random")

_KEPT_NOTE = (
    "Of the pool. best 1 %, worst 10 %: share of the best and the worst cells by test accuracy "
    "that is kept; accuracies are means over cells."
)
_SEARCH_NOTE = (
    "Means over searches, of the test accuracy of the cell that was chosen. gain: over the same "
    "draws without filter, CIFAR-10 test accuracy, with its 95 % bootstrap interval over searches. "
    "saved: share of the drawn cells that need no score. What a search looks at are scores, and "
    "for KNAS the validation accuracy after 12 epochs."
)
_PRUNING_NOTE = (
    "Scores of super-networks (NTK condition number and linear regions) decide which operation "
    "each edge loses. Means and standard deviations over searches."
)


def main() -> None:
    """Score, filter, search and compare."""
    setting = common.setting()
    with common.run_folder("connectivity_filter") as (folder, meter):
        pool = common.draw_pool(setting, _NUM_ARCHS.value, ["naswot", "mgm"], folder)
        if processes.shard()[0] > 0:
            return  # the first process searches and reports
        masks = _masks(pool.archs)
        table = _searches(pool, masks)
        prunings = _prunings(setting, pool.benchmark, folder)
    parts: list[Part] = [
        Table("What a filter keeps", _kept(pool, masks), _KEPT_NOTE),
        Table("Searches with and without", table, _SEARCH_NOTE),
        Text("Scores", common.failures(pool.scored)),
        _plot(table),
    ]
    summary: dict[str, Any] = {}
    for row in table.to_dict("records"):
        summary[f"{row['search']}_{row['filter']}_saved"] = row["saved %"]
        summary[f"{row['search']}_{row['filter']}_gain"] = row["gain"]
    if prunings:
        parts.insert(2, Table("TE-NAS: search by pruning", pd.DataFrame(prunings), _PRUNING_NOTE))
    summary |= {f"TE-NAS_{row['filter']}_evaluations": row["evaluations"] for row in prunings}
    report = Report("Filters by connectivity", common.describe(setting), parts)
    common.finish(folder, meter, report, summary)


def _masks(archs: np.ndarray) -> dict[str, np.ndarray]:
    """Return which cells each filter keeps, `bool[A]`."""
    space = connectivity.from_nasbench201(encoding.enumerate_archs(cell.NUM_CHOICES))
    rules = {
        "published code": filters.within(filters.PUBLISHED_CODE),
        "half radius": filters.within(filters.half_radius(space)),
        "total depth >= 2": filters.deep_enough(2),
        "total depth >= 3": filters.deep_enough(3),
    }
    wirings = connectivity.from_nasbench201(archs)
    masks = {name: filters.select(keep, wirings).mask for name, keep in rules.items()}
    return {EVERYTHING: np.ones(len(archs), bool)} | masks


def _kept(pool: common.Pool, masks: dict[str, np.ndarray]) -> pd.DataFrame:
    accuracy = pd.Series(pool.benchmark.accuracy(pool.archs, DATASETS[0]))
    order = np.argsort(-accuracy, kind="stable")
    best, worst = order[: max(len(order) // 100, 1)], order[-max(len(order) // 10, 1) :]
    return pd.DataFrame(
        {
            "filter": name,
            "kept": mask.sum(),
            "kept %": 100 * mask.mean(),
            "best 1 % kept": 100 * mask[best].mean(),
            "worst 10 % kept": 100 * mask[worst].mean(),
            "mean kept": accuracy[mask].mean(),
            "mean dropped": accuracy[~mask].mean(),
        }
        for name, mask in masks.items()
    )


def _searches(pool: common.Pool, masks: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return what each search finds in the mean with each filter, and what it gains by it."""
    naswot, mgm, params = pool.scored.mean("naswot"), pool.scored.mean("mgm"), pool.params
    validate = common.from_table(pool.benchmark)
    found: dict[tuple[str, str], list[int]] = {
        kind: [] for kind in itertools.product(SEARCHES, masks)
    }
    saved: dict[str, list[float]] = {name: [] for name in masks}
    for number in range(_NUM_SEARCHES.value):
        rng = np.random.default_rng([common.seed(), number])
        drawn = rng.permutation(len(pool.archs))[: _SAMPLE.value]
        chance = rng.random(len(pool.archs))
        for name, mask in masks.items():
            kept = drawn[mask[drawn]]
            kept = kept if len(kept) else drawn[:1]  # as the released code does
            k = min(_K.value, len(kept))
            validated = search.two_step(pool.archs[kept], mgm[kept], validate, k)
            found["NASWOT", name].append(kept[naswot[kept].argmax()])
            found["KNAS", name].append(kept[validated.winner])
            found["#params", name].append(kept[params[kept].argmax()])
            found["random", name].append(kept[chance[kept].argmax()])
            saved[name].append(1 - len(kept) / len(drawn))
    accuracies = {data: pool.benchmark.accuracy(pool.archs, data) for data in DATASETS}
    rows = []
    for (method, name), cells in found.items():
        first = accuracies[DATASETS[0]]
        gains = first[cells] - first[found[method, EVERYTHING]]
        resampled = np.random.default_rng(0).choice(gains, (2000, len(gains))).mean(1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        rows.append(
            {
                "search": method,
                "filter": name,
                "saved %": 100 * np.mean(saved[name]),
                **{f"{data} %": accuracy[cells].mean() for data, accuracy in accuracies.items()},
                "sd": first[cells].std(ddof=1),
                "gain": gains.mean(),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def _prunings(
    setting: common.Setting, benchmark: TabularBenchmark, folder: Path
) -> list[dict[str, Any]]:
    """Return the searches of TE-NAS, with and without reserved operations, a row each."""
    context = {
        **setting.context,
        "space": repr(setting.space.options),
        "repeats": _REPEATS.value,
        "scores": ["ntk_condition", "linear_regions"],
    }
    looks = JsonCache(folder / "prunings.json", "looks", context)
    everything = np.ones((len(cell.EDGES), len(cell.OPERATIONS)), bool)
    everything[:, cell.OPERATIONS.index("none")] = False  # as published

    def prune(seed: int, reserve: search.Reserve | None) -> search.Result[search.PruningRound]:
        draws = range(seed * _REPEATS.value, (seed + 1) * _REPEATS.value)
        measure = te_nas.super_scores(setting.space, setting.batch, seeds=draws)

        def look(alive: np.ndarray) -> list[float]:
            label = f"{''.join(map(str, alive.astype(int).ravel()))} @ {seed}"
            return looks(label, lambda: measure(alive))

        return search.prune(everything, look, reserve=reserve)

    rules = {
        EVERYTHING: None,
        "published reservation": filters.reserve_moderate(NASBENCH201_KINDS),
    }
    rows = []
    for name, rule in rules.items() if _NUM_PRUNINGS.value else ():
        found = [prune(seed, rule) for seed in range(_NUM_PRUNINGS.value)]
        evaluations = np.mean([sum(step.evaluations for step in each.steps) for each in found])
        row = {
            "filter": name,
            "searches": len(found),
            "evaluations": evaluations,
            "an edge": evaluations / len(cell.EDGES),
        }
        for data in DATASETS:
            accuracy = benchmark.accuracy(np.stack([each.arch for each in found]), data)
            row |= {f"{data} %": accuracy.mean(), f"sd {data}": accuracy.std(ddof=len(found) > 1)}
        rows.append(row)
    return rows


def _plot(table: pd.DataFrame) -> Plot:
    found = f"{DATASETS[0]} %"
    curves = {
        str(method): rows.set_index(100 - rows["saved %"])[found].sort_index()
        for method, rows in table.groupby("search", sort=False)
    }
    figure = figures.curves(curves, x="cells scored (%)", y=f"{DATASETS[0]} test accuracy (%)")
    return Plot("Scored and found", figure, "Each point is a filter.")


if __name__ == "__main__":
    launch(main)
