r"""What HNAS' theory says of its metrics, and what NAS-Bench-201 says of it.

    python -m experiments.metric_relations --num_archs=1000

Theorem 1 bounds gradient norm, SNIP and GraSP by the root of the NTK's trace: the first table shows
how far they order networks alike. Theorem 2 bounds what a network generalizes by `kappa / M`, alone
where training ends at zero loss (realizable), and with a target for `M` where it does not
(non-realizable): the second table shows how well `M`, `-kappa`, `M / kappa` and the score with both
terms order test accuracies. The constants of the last are tuned on one half of the cells and judged
on the other, and the other way round.
"""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import correlation
from jaxnas.benchmarks.nasbench201_table import DATASETS
from jaxnas.launch import launch
from jaxnas.proxies import aggregate
from jaxnas.runs import Part, Plot, Report, Table, Text, figures

_NUM_ARCHS = flags.DEFINE_integer("num_archs", 200, "Number of cells to score.", 20, 15625)

common.reads(*common.SCORES, *common.PROCESSES)

METRICS = ["ntk_trace", "grad_norm", "snip", "grasp"]
_LIKENESS_NOTE = (
    "Over cells where both are positive and finite. A bound from above asks for no order, and "
    "least of all for a line."
)
_BOUNDS_NOTE = (
    "tuned: -(kappa / m + mu |m^2 - tau^2|) with the constants that are best on one half of the "
    "cells, on the other half, mean of both; gain: over M alone."
)


def main() -> None:
    """Score, and relate."""
    setting = common.setting()
    with common.run_folder("metric_relations") as (folder, meter):
        found = common.draw_pool(setting, _NUM_ARCHS.value, [*METRICS, "ntk_condition"], folder)
        metrics = pd.DataFrame({name: found.scored.mean(name) for name in METRICS})
        bounds = pd.DataFrame(
            [_bounds(found, data, metric) for data in DATASETS for metric in METRICS]
        )
    usable = metrics.where((metrics > 0) & np.isfinite(metrics))
    known = usable.notna().astype(int)
    likeness = {
        "cells": known.T @ known,
        "spearman": usable.corr("spearman"),
        "kendall": usable.corr("kendall"),
        "pearson": usable.corr(),
        "pearson of logs": usable.apply(np.log).corr(),
    }
    pairs = list(itertools.combinations(METRICS, 2))
    relations = pd.DataFrame(
        {"metrics": [", ".join(pair) for pair in pairs]}
        | {name: [matrix.loc[pair] for pair in pairs] for name, matrix in likeness.items()}
    )
    scatter = figures.score_versus_accuracy(
        metrics["grad_norm"],
        np.log10(np.maximum(metrics["ntk_trace"], 1e-12)),
        score_name="grad_norm",
        accuracy_name="log10 ntk_trace",
        by_rank=True,
    )
    parts: list[Part] = [
        Text("The pool", f"{len(found.archs)} cells. {common.failures(found.scored)}"),
        Table("Theorem 1: how alike the metrics are", relations, _LIKENESS_NOTE),
        Table("Theorem 2: Spearman correlation with test accuracy", bounds, _BOUNDS_NOTE),
        Plot("Two metrics", scatter, "By rank: the theorem is about orders of magnitude."),
    ]
    summary = {
        f"spearman_{row['metric']}_{row['accuracy']}_tuned": row["tuned"]
        for row in bounds.to_dict("records")
    }
    summary["scoring_cpu_seconds"] = found.scored.cpu_seconds
    report = Report("HNAS: relations", common.describe(setting), parts)
    common.finish(folder, meter, report, summary)


def _bounds(found: common.Pool, data: str, metric: str) -> dict[str, Any]:
    """Return how well each form of the score orders the accuracies."""
    accuracies = found.benchmark.accuracy(found.archs, data)
    magnitude, kappa = found.scored.mean(metric), -found.scored.mean("ntk_condition")
    alone = correlation.spearman(magnitude, accuracies)
    tuned = _tuned(magnitude, kappa, accuracies)
    bound = aggregate.realizable_bound(magnitude, kappa)
    return {
        "accuracy": data,
        "metric": metric,
        "M": alone,
        "-kappa": correlation.spearman(-kappa, accuracies),
        "M / kappa": correlation.spearman(-bound, accuracies),
        "tuned": tuned,
        "gain": tuned - alone,
        "#params": correlation.spearman(found.params, accuracies),
    }


def _tuned(magnitude: np.ndarray, kappa: np.ndarray, accuracies: np.ndarray) -> float:
    """Return the mean correlation on each half, with the constants that are best on the other."""
    scores = [
        aggregate.hybrid_score(magnitude, kappa, tau=tau, mu=10**log_mu)
        for tau, log_mu in itertools.product(np.linspace(0, 1, 11), np.linspace(-4, 2, 13))
    ]
    halves = np.arange(len(accuracies)) % 2 == 0
    judged = []
    for half in (halves, ~halves):
        best = max(scores, key=lambda score: correlation.spearman(score[half], accuracies[half]))
        judged.append(correlation.spearman(best[~half], accuracies[~half]))
    return float(np.mean(judged))


if __name__ == "__main__":
    launch(main)
