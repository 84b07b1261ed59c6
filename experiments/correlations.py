r"""Rank correlations of any set of scores with the accuracies of NAS-Bench-201.

    python -m experiments.correlations --num_archs=1000 --output_dir=results/correlations

Scores random cells (or all: --num_archs=15625) and prints, for each score and each of the three
test accuracies, Spearman's and Kendall's correlation with a bootstrap interval, top-k recall and
the partial correlation given log #params, and how well two draws of weights and images agree.
#params and a random score stand beside them.

All cells with --num_seeds=1 took 46 CPU minutes and 2.6 GB. Spearman with CIFAR-10 accuracy:
gradient_diversity .841, layer_balance .769, #params .753, grad_norm .708, mgm .649, gradient_values
.646, knas_published .045, random -.010; docs/results/knas.md has the rest.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd
from absl import flags

from experiments import common
from jaxnas import proxies
from jaxnas.benchmarks.tabular import DATASETS
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text

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
_NUM_ARCHS = flags.DEFINE_integer("num_archs", 200, "Number of cells to score.", 4, 15625)
_ACCURACIES = flags.DEFINE_multi_enum(
    "accuracy",
    list(DATASETS),
    DATASETS,
    "Data sets whose test accuracies the scores are compared with",
)

common.reads(*common.SCORES, *common.PROCESSES)


def main() -> None:
    """Score and correlate."""
    setting = common.setting()
    proxies.expand(_PROXIES.value)
    with common.run_folder("correlations") as (folder, meter):
        found = common.draw_pool(setting, _NUM_ARCHS.value, _PROXIES.value, folder)
        scored, k = found.scored, max(1, len(found.archs) // 10)
        tables = [common.correlations(found, data, k) for data in _ACCURACIES.value]
    table = pd.concat(tables).sort_values("score", kind="stable", key=_order(found))
    parts: list[Text | Table | Plot] = [
        Text(
            "The pool",
            f"{len(found.archs)} of 15,625 cells, drawn without replacement. "
            f"{common.failures(scored)} Scores of this setting have cost "
            f"{scored.cpu_seconds:.0f} CPU seconds, compilation included.",
        ),
        Table("Rank correlations", table, common.CORRELATIONS_NOTE),
        *common.plots(found, tables[0]),
    ]
    report = Report("Rank correlations on NAS-Bench-201", common.describe(setting), parts)
    summary: dict[str, Any] = {
        f"spearman_{row['score']}_{row['accuracy']}": row["spearman"] for _, row in table.iterrows()
    }
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    common.finish(folder, meter, report, summary)


def _order(found: common.Pool) -> Callable[[pd.Series], pd.Series]:
    """Return the key that sorts names into the order of the scores, controls last."""
    names = [*found.scored.scores, "#params", "#live", "random"]
    return lambda column: column.map(names.index)


if __name__ == "__main__":
    launch(main)
