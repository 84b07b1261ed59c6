r"""Filters by connectivity on NAS-Bench-201: what they keep, what they save, what they cost.

    python -m experiments.connectivity_filter --norm=batch --batch_size=16 --image_size=16 \
        --num_seeds=1 --output_dir=results/connectivity_filter

The published filter (Chen et al., NeurIPS 2022, arXiv 2205.05662) asks for a middle effective depth
and width; a control asks that there are enough convolutions on the paths. Each stands before three
searches: NASWOT (the best score of 100 random cells), KNAS (the best 10 of them by MGM, and of
those the best by 12-epoch validation) and TE-NAS (pruning, where the published rule reserves
operations instead of dropping cells). All cells are scored once; the searches then are look-ups.

All 15,625 cells, 16 images at 16 pixels, `batch` normalisation, one draw, 500 searches of each
kind, --num_prunings=8 (25 CPU minutes). Kept of all cells, of the best 1 % and of the worst 10 %;
the gain of mean CIFAR-10 accuracy with its 95 % interval:

                          kept   best   worst   NASWOT               KNAS
    published code        52.6   98.1    .3     +.01 (.00 to .03)    -.01 (-.04 to +.02)
    half radius, paper    40.0   76.3    .1     +.07 (.04 to .11)    -.01 (-.05 to +.03)
    total depth >= 2      64.6  100      .3     +.00
    total depth >= 3      42.8   89.7   0       +.00

What is not kept need not be scored: 47.4 % of the evaluations of a search with the ranges of the
published code, 60 % by half the radius, 35 % and 57 % by total depth. Without a filter NASWOT finds
92.65 / 69.43 / 43.19, KNAS 92.96 / 69.64 / 43.84, #params 93.14 / 69.89 / 41.41, chance 87.56. The
filter helps chance most (91.56). The search by pruning needs 54 evaluations, 9 an edge in its first
round, and ends at 89.33 +-6.30 / 62.31 / 37.72; with the published reservation 36, 6 an edge, and
90.24 +-4.74 / 65.57 / 39.07 (8 searches).
"""

from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common, pruning_runs
from jaxnas import Scorer, connectivity, encoding, processes, search
from jaxnas.benchmarks import TabularBenchmark
from jaxnas.benchmarks.tabular import DATASETS
from jaxnas.connectivity import filter as filters
from jaxnas.connectivity.cells import NASBENCH201_KINDS
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.spaces.nasbench201 import cell

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

_TIMED = 48
_EVERYTHING = "no filter"


def main() -> None:
    """Score, filter, search and compare."""
    setting = common.setting()
    with common.run_folder("connectivity_filter") as (folder, meter):
        pool = common.draw_pool(setting, _NUM_ARCHS.value, ["naswot", "mgm"], folder)
        benchmark, archs, scored = pool
        if processes.shard()[0] > 0:
            return  # the first process searches and reports
        masks = _masks(archs)
        searches = _searches(benchmark, archs, scored.mean("naswot"), scored.mean("mgm"), masks)
        table = _compare(searches)
        costs = _costs(setting, archs, masks)
        prunings = _prunings(setting, benchmark, folder)
    parts: list[Text | Table | Plot] = [
        Text("The outcome", f"{_verdict(table)}\n\n{common.failures(scored)}"),
        Table("What a filter keeps", _kept(benchmark, archs, masks), _KEPT_NOTE),
        Table("Searches with and without", table, _SEARCH_NOTE),
        Table("What the scores of the drawn cells cost", costs, _COST_NOTE),
        _plot(table),
    ]
    if len(prunings):
        parts.append(Table("TE-NAS: search by pruning", prunings, _PRUNING_NOTE))
    summary: dict[str, Any] = {}
    for row in table.to_dict("records"):
        summary[f"{row['search']}_{row['filter']}_saved"] = row["saved %"]
        summary[f"{row['search']}_{row['filter']}_gain"] = row["gain"]
    for row in prunings.to_dict("records"):
        summary[f"TE-NAS_{row['filter']}_evaluations"] = row["evaluations"]
    common.finish(
        folder, meter, Report("Filters by connectivity", common.describe(setting), parts), summary
    )


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
_COST_NOTE = f"CPU seconds for {_TIMED} random cells, compiled before, scored one by one."
_PRUNING_NOTE = (
    "Scores of super-networks (NTK condition number and linear regions) decide which operation "
    "each edge loses. Means and standard deviations over searches."
)


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
    return {_EVERYTHING: np.ones(len(archs), bool)} | masks


def _kept(
    benchmark: TabularBenchmark, archs: np.ndarray, masks: dict[str, np.ndarray]
) -> pd.DataFrame:
    accuracy = benchmark.accuracy(archs, DATASETS[0])
    order = np.argsort(-accuracy, kind="stable")
    best, worst = order[: max(len(order) // 100, 1)], order[-max(len(order) // 10, 1) :]
    rows = []
    for name, mask in masks.items():
        dropped = accuracy[~mask]
        rows.append(
            {
                "filter": name,
                "kept": int(mask.sum()),
                "kept %": 100 * mask.mean(),
                "best 1 % kept": 100 * mask[best].mean(),
                "worst 10 % kept": 100 * mask[worst].mean(),
                "mean kept": accuracy[mask].mean() if mask.any() else np.nan,
                "mean dropped": dropped.mean() if len(dropped) else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _searches(
    benchmark: TabularBenchmark,
    archs: np.ndarray,
    naswot: np.ndarray,
    mgm: np.ndarray,
    masks: dict[str, np.ndarray],
) -> pd.DataFrame:
    """Return every search, a row each."""
    params = benchmark.params[benchmark.index(archs)].astype(float)
    validate = common.from_table(benchmark)
    accuracies = {data: benchmark.accuracy(archs, data) for data in DATASETS}
    rows = []
    for number in range(_NUM_SEARCHES.value):
        rng = np.random.default_rng([common.seed(), number])
        drawn = rng.permutation(len(archs))[: _SAMPLE.value]
        chance = rng.random(len(archs))
        for name, mask in masks.items():
            kept = drawn[mask[drawn]]
            kept = kept if len(kept) else drawn[:1]  # as the released code does
            k = min(_K.value, len(kept))
            chosen = {
                "NASWOT": kept[naswot[kept].argmax()],
                "KNAS": kept[search.two_step(archs[kept], mgm[kept], validate, k).winner],
                "#params": kept[params[kept].argmax()],
                "random": kept[chance[kept].argmax()],
            }
            rows += [
                {
                    "search": method,
                    "filter": name,
                    "number": number,
                    "saved": 1 - len(kept) / len(drawn),
                    **{data: column[at] for data, column in accuracies.items()},
                }
                for method, at in chosen.items()
            ]
    return pd.DataFrame(rows)


def _compare(searches: pd.DataFrame) -> pd.DataFrame:
    """Return the means of each search with each filter, and what it gains by it."""
    first = DATASETS[0]
    rows = []
    for (method, name), group in searches.groupby(["search", "filter"], sort=False):
        without = searches[(searches["search"] == method) & (searches["filter"] == _EVERYTHING)]
        gains = group[first].to_numpy() - without[first].to_numpy()
        low, high = _interval(gains)
        rows.append(
            {
                "search": method,
                "filter": name,
                "saved %": 100 * group["saved"].mean(),
                **{f"{data} %": group[data].mean() for data in DATASETS},
                "sd": group[first].std(ddof=1),
                "gain": gains.mean(),
                "low": low,
                "high": high,
            }
        )
    order = {name: at for at, name in enumerate(dict.fromkeys(searches["search"]))}
    return pd.DataFrame(rows).sort_values(
        "search", key=lambda names: names.map(order), kind="stable", ignore_index=True
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of paired differences."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (2000, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _costs(
    setting: common.Setting, archs: np.ndarray, masks: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Return what the scores of some random cells cost with each filter before them."""
    drawn = archs[:_TIMED]
    seconds = {}
    for name in ("naswot", "mgm"):
        for _ in range(2):  # the first time compiles
            scorer = Scorer(setting.space, setting.batch, name, plan="eager", deduplicate=False)
            seconds[name] = scorer(drawn).seconds[0]
    return pd.DataFrame(
        {
            "filter": name,
            **{f"{score} s": each[mask[:_TIMED]].sum() for score, each in seconds.items()},
            **{
                f"{score} saved %": 100 * each[~mask[:_TIMED]].sum() / each.sum()
                for score, each in seconds.items()
            },
        }
        for name, mask in masks.items()
    )


def _prunings(setting: common.Setting, benchmark: TabularBenchmark, folder: Any) -> pd.DataFrame:
    """Return the searches of TE-NAS, with and without reserved operations."""
    pruner = pruning_runs.Pruner(
        setting.space,
        setting.batch,
        _REPEATS.value,
        folder / "prunings.json",
        {**setting.context, "space": repr(setting.space.options)},
    )
    reserve = filters.reserve_moderate(NASBENCH201_KINDS)
    rows = []
    for name, rule in {_EVERYTHING: None, "published reservation": reserve}.items():
        runs = [pruning_runs.run(pruner, seed, rule) for seed in range(_NUM_PRUNINGS.value)]
        if not runs:
            continue
        found = np.stack([each.arch for each in runs])
        row: dict[str, Any] = {
            "filter": name,
            "searches": len(runs),
            "evaluations": np.mean([each.evaluations for each in runs]),
            "an edge": np.mean([each.evaluations for each in runs]) / len(cell.EDGES),
            "CPU s": np.mean([each.seconds for each in runs]),
        }
        for data in DATASETS:
            accuracy = benchmark.accuracy(found, data)
            row |= {f"{data} %": accuracy.mean(), f"sd {data}": accuracy.std(ddof=len(runs) > 1)}
        rows.append(row)
    return pd.DataFrame(rows)


def _plot(table: pd.DataFrame) -> Plot:
    naswot = table[table["search"] == "NASWOT"]
    return Plot(
        "Scored and found",
        figures.curves(
            {
                str(method): pd.Series(
                    rows[f"{DATASETS[0]} %"].to_numpy(), index=100 - rows["saved %"].to_numpy()
                ).sort_index()
                for method, rows in table.groupby("search", sort=False)
            },
            x="cells scored (%)",
            y=f"{DATASETS[0]} test accuracy (%)",
        ),
        f"Each point is a filter: {', '.join(naswot['filter'])}.",
    )


def _verdict(table: pd.DataFrame) -> str:
    """Return in words what each filter saves and whether it costs accuracy."""
    words = []
    for method in ("NASWOT", "KNAS"):
        for row in table[table["search"] == method].to_dict("records"):
            if row["filter"] == _EVERYTHING:
                continue
            outcome = "gains" if row["low"] > 0 else "loses" if row["high"] < 0 else "changes"
            words.append(
                f"{method} with {row['filter']} saves {row['saved %']:.1f} % of the scores and "
                f"{outcome} {row['gain']:+.2f} points ({row['low']:+.2f} to {row['high']:+.2f})."
            )
    return " ".join(words)


if __name__ == "__main__":
    launch(main)
