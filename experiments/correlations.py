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

from absl import flags

from experiments import common
from jaxnas.benchmarks.nasbench201_table import DATASETS
from jaxnas.launch import launch
from jaxnas.runs import Report, Text

_PROXIES = common.define_proxies(
    [
        *("mgm", "gradient_values", "gradient_correlation", "offdiagonal", "gradient_diversity"),
        *("layer_balance", "knas_published", "knas_published_aliased", "grad_norm"),
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
    with common.run_folder("correlations") as (folder, meter):
        found = common.draw_pool(setting, _NUM_ARCHS.value, _PROXIES.value, folder)
        table, archs = found.benchmark, found.archs
        accuracies = {data: table.accuracy(archs, data) for data in _ACCURACIES.value}
        ranking, summary = common.ranking(found.ranked, accuracies, found.functions)
    pool = Text(
        "The pool",
        f"{len(archs)} of 15,625 cells, drawn without replacement. "
        f"{common.failures(found.scored)} Scores of this setting have cost "
        f"{found.scored.cpu_seconds:.0f} CPU seconds, compilation included.",
    )
    parts = [pool, *ranking, *common.plots(found, _ACCURACIES.value[0])]
    report = Report("Rank correlations on NAS-Bench-201", common.describe(setting), parts)
    summary["scoring_cpu_seconds"] = found.scored.cpu_seconds
    common.finish(folder, meter, report, summary)


if __name__ == "__main__":
    launch(main)
