r"""The same scores on spaces that they were not found on: NAS-Bench-101 and NAS-Bench-Macro.

    python -m experiments.other_spaces --space=nasbench101 --num_archs=500 --channels=12 --cells=3
    python -m experiments.other_spaces --space=nasbench_macro --num_archs=150 --channels=16

Scores networks of which the package holds the accuracies, and prints Spearman's and Kendall's
correlation with its interval for each score, aggregates among them, beside #params, FLOPs and a
random score.
"""

from typing import Any

import numpy as np
from absl import flags

from experiments import common
from jaxnas import benchmarks, spaces
from jaxnas.launch import launch
from jaxnas.runs import Report, Text
from jaxnas.types import SearchSpace

# The table of a space, its column, and what that is.
SPACES: dict[str, Any] = {
    "nasbench101": (benchmarks.nasbench101, "valid_108ep", "validation accuracy after 108 epochs"),
    "nasbench_macro": (benchmarks.nasbench_macro, "accuracy", "test accuracy, mean of three runs"),
}

_SPACE = flags.DEFINE_enum("space", "nasbench101", tuple(SPACES), "Search space.")
_PROXIES = common.define_proxies(
    [
        *("grad_norm", "snip", "mgm", "gradient_diversity", "layer_balance", "naswot", "swap"),
        *("meco", "channel_independence", "jacob_cov", "zen", "synflow"),
        *("expressivity", "progressivity", "trainability", "az_nas", "panel", "pair"),
    ]
)
_NUM_ARCHS = flags.DEFINE_integer("num_archs", 200, "Number of networks to score.", 4, 10000)

common.reads(*common.SCORES, *common.PROCESSES)


def main() -> None:
    """Score and correlate."""
    if _SPACE.value == "nasbench_macro":
        common.refuse("cells", because="networks of NAS-Bench-Macro have eight layers")
    setting = common.setting(_space)
    table_of, column, what = SPACES[_SPACE.value]
    table, rng = table_of(), np.random.default_rng(common.seed())
    size = len(table.archs)
    rows = rng.choice(size, min(_NUM_ARCHS.value, size), replace=False)
    archs = table.archs[rows]
    with common.run_folder(f"other_spaces_{_SPACE.value}") as (folder, meter):
        names = list(dict.fromkeys([*_PROXIES.value, "flops"]))
        scored = common.score(setting, archs, names, folder)
        controls = {"#params": table.params[rows][None], "random": rng.random((1, len(archs)))}
        functions = np.array([setting.space.representative(arch) for arch in archs])
        accuracies = table.columns[column][rows]
        ranking, summary = common.ranking(
            controls | scored.scores, accuracies, functions, what=what
        )
    pool = Text("The pool", f"{len(archs)} networks, {what}. {common.failures(scored)}")
    title = f"Rank correlations on {_SPACE.value}"
    report = Report(title, common.describe(setting), [pool, *ranking])
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    common.finish(folder, meter, report, summary)


def _space(*, cells: int, **options: Any) -> SearchSpace:
    """Return the space; networks of NAS-Bench-Macro have no cells."""
    if _SPACE.value == "nasbench101":
        return spaces.nasbench101(cells=cells, **options)
    return spaces.nasbench_macro(**options)


if __name__ == "__main__":
    launch(main)
