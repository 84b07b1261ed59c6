r"""What HNAS' theory says of its metrics, and what NAS-Bench-201 says of it.

    python -m experiments.metric_relations --num_archs=1000

Theorem 1 bounds gradient norm, SNIP and GraSP by the root of the NTK's trace: the first table shows
how far they order networks alike. Theorem 2 bounds what a network generalises by `kappa / M`, alone
where training ends at zero loss (realizable), and with a target for `M` where it does not
(non-realizable): the second table shows how well `M`, `-kappa`, `M / kappa` and the score with both
terms order test accuracies. The constants of the last are tuned on one half of the cells and judged
on the other, and the other way round.
"""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from absl import flags

from experiments import common
from jaxnas import correlation, processes
from jaxnas.benchmarks.tabular import DATASETS
from jaxnas.launch import launch
from jaxnas.proxies import aggregate
from jaxnas.runs import Plot, Report, Table, Text, figures

_NUM_ARCHS = flags.DEFINE_integer("num_archs", 200, "Number of cells to score.", 20, 15625)

common.reads(*common.SCORES, *common.PROCESSES)

METRICS = ("ntk_trace", "grad_norm", "snip", "grasp")
_CONDITION = "ntk_condition"
_TAUS = np.linspace(0, 1, 11)
_LOG_MUS = np.linspace(-4, 2, 13)


def main() -> None:
    """Score, and relate."""
    setting = common.setting()
    with common.run_folder("metric_relations") as (folder, meter):
        found = common.draw_pool(setting, _NUM_ARCHS.value, [*METRICS, _CONDITION], folder)
        scored = found.scored
        if processes.shard()[0] > 0:
            return
        relations = _relations({name: scored.mean(name) for name in METRICS})
        bounds = pd.DataFrame(
            [_bounds(found, data, metric) for data in DATASETS for metric in METRICS]
        )
    scatter = figures.score_versus_accuracy(
        scored.mean(METRICS[1]),
        np.log10(np.maximum(scored.mean(METRICS[0]), 1e-12)),
        score_name=METRICS[1],
        accuracy_name=f"log10 {METRICS[0]}",
        by_rank=True,
    )
    parts: list[Text | Table | Plot] = [
        Text("The pool", f"{len(found.archs)} cells. {common.failures(scored)}"),
        Table(
            "Theorem 1: how alike the metrics are",
            relations,
            "Over cells where both are positive and finite. A bound from above asks for no order, "
            "and least of all for a line.",
        ),
        Table(
            "Theorem 2: Spearman correlation with test accuracy",
            bounds,
            "tuned: -(kappa / m + mu |m^2 - tau^2|) with the constants that are best on one half "
            "of the cells, on the other half, mean of both; gain: over M alone.",
        ),
        Plot("Two metrics", scatter, "By rank: the theorem is about orders of magnitude."),
    ]
    summary: dict[str, Any] = {
        f"spearman_{row['metric']}_{row['accuracy']}_tuned": row["tuned"]
        for _, row in bounds.iterrows()
    }
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    common.finish(
        folder, meter, Report("HNAS: relations", common.describe(setting), parts), summary
    )


def _relations(scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return how alike each two metrics are, over the networks that have both."""
    rows = []
    for first, second in itertools.combinations(scores, 2):
        pair = np.stack([scores[first], scores[second]])
        one, other = pair[:, (np.isfinite(pair) & (pair > 0)).all(0)]
        rows.append(
            {
                "metrics": f"{first}, {second}",
                "cells": len(one),
                "spearman": correlation.spearman(one, other),
                "kendall": correlation.kendall(one, other),
                "pearson": float(scipy.stats.pearsonr(one, other).statistic),
                "pearson of logs": float(
                    scipy.stats.pearsonr(np.log(one), np.log(other)).statistic
                ),
            }
        )
    return pd.DataFrame(rows)


def _bounds(found: common.Pool, data: str, metric: str) -> dict[str, Any]:
    """Return how well each form of the score orders the accuracies."""
    accuracies = found.benchmark.accuracy(found.archs, data)
    magnitude, condition = found.scored.mean(metric), -found.scored.mean(_CONDITION)
    alone = correlation.spearman(magnitude, accuracies)
    tuned = _tuned(magnitude, condition, accuracies)
    return {
        "accuracy": data,
        "metric": metric,
        "M": alone,
        "-kappa": correlation.spearman(-condition, accuracies),
        "M / kappa": correlation.spearman(
            -aggregate.realizable_bound(magnitude, condition), accuracies
        ),
        "tuned": tuned,
        "gain": tuned - alone,
        "#params": correlation.spearman(found.params, accuracies),
    }


def _tuned(magnitude: np.ndarray, condition: np.ndarray, accuracies: np.ndarray) -> float:
    """Return the mean correlation on each half, with the constants that are best on the other."""
    scores = [
        aggregate.hybrid_score(magnitude, condition, tau=tau, mu=10**log_mu)
        for tau, log_mu in itertools.product(_TAUS, _LOG_MUS)
    ]
    halves = np.arange(len(accuracies)) % 2 == 0
    judged = []
    for half in (halves, ~halves):
        best = max(scores, key=lambda score: correlation.spearman(score[half], accuracies[half]))
        judged.append(correlation.spearman(best[~half], accuracies[~half]))
    return float(np.mean(judged))


if __name__ == "__main__":
    launch(main)
