r"""Rank correlations of any set of scores with the accuracies of NAS-Bench-201.

    python -m experiments.correlations --num_archs=1000 --output_dir=results/correlations

Scores random cells (or all: --num_archs=15625) and prints, for each score and each of the three
test accuracies, Spearman's and Kendall's correlation with a bootstrap interval, top-k recall and
the partial correlation given log #params, and how well two draws of weights and images agree.
#params and a random score stand beside them.
"""

from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import pool, proxies
from jaxnas.benchmarks import TabularBenchmark, nasbench201
from jaxnas.benchmarks.tabular import DATASETS
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.search import sample_distinct

_PROXIES = common.define_proxies(
    [
        "mgm",
        "gradient_values",
        "gradient_correlation",
        "offdiagonal",
        "gradient_diversity",
        "layer_balance",
        "knas_published",
        "knas_published_aliased",
        "grad_norm",
    ]
)
_NUM_ARCHS = flags.DEFINE_integer("num_archs", 200, "Cells to score.", 4, 15625)
_ACCURACIES = flags.DEFINE_multi_enum("accuracy", list(DATASETS), DATASETS, "Test accuracies.")

flags.adopt_module_key_flags(common)  # so that --help shows them


def main() -> None:
    """Score and correlate."""
    own = common.setting()
    names = list(_PROXIES.value)
    proxies.resolve(names)
    with common.run_folder("correlations") as (folder, meter):
        benchmark = nasbench201()
        key = jax.random.key(common.seed())
        archs = np.asarray(sample_distinct(key, own.space.num_choices, _NUM_ARCHS.value))
        scored = common.score(own, archs, names, folder)
        table = _table(benchmark, archs, scored, names)
    report = _report(archs, scored, names, table)
    summary: dict[str, Any] = {
        f"spearman_{row['score']}_{row['accuracy']}": row["spearman"] for _, row in table.iterrows()
    }
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    common.finish(folder, meter, report, summary)


def _table(
    benchmark: TabularBenchmark, archs: np.ndarray, scored: pool.PoolScores, names: list[str]
) -> pd.DataFrame:
    params = benchmark.params[benchmark.index(archs)]
    ranked: dict[str, np.ndarray] = {name: scored.scores[name] for name in names}
    ranked |= {"#params": params[None], "random": common.random_scores(len(archs))[None]}
    k = max(1, len(archs) // 10)
    rows = []
    for name, values in ranked.items():
        for data in _ACCURACIES.value:
            accuracy = benchmark.accuracy(archs, data)
            log_params = None if name == "#params" else np.log(params)
            row = common.correlations_row(values, accuracy, log_params, k)
            rows.append({"score": name, "accuracy": data, **row})
    return pd.DataFrame(rows)


def _report(
    archs: np.ndarray, scored: pool.PoolScores, names: list[str], table: pd.DataFrame
) -> Report:
    first = table[table["accuracy"] == _ACCURACIES.value[0]]
    parts: list[Text | Table | Plot] = [
        Text(
            "The pool",
            f"{len(archs)} of 15,625 cells, drawn without replacement. "
            f"{common.failures(scored, names)} Scoring took {scored.cpu_seconds:.0f} CPU seconds.",
        ),
        Table(
            "Rank correlations",
            table,
            "Of the mean over seeds. low and high: 95 % bootstrap interval of Spearman's "
            "correlation over cells; sd of seeds: of that of single seeds; seed to seed: Spearman "
            "between two seeds. partial: given log #params. ties: cells that share their score.",
        ),
        Plot(
            f"Spearman with {_ACCURACIES.value[0]}",
            figures.correlation_bars(first, controls=("#params", "random")),
            f"Spearman correlation of each score with {_ACCURACIES.value[0]} test accuracy.",
        ),
    ]
    return Report("Rank correlations on NAS-Bench-201", common.describe(), parts)


if __name__ == "__main__":
    launch(main)
