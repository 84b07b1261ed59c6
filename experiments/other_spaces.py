r"""The same scores on spaces that they were not found on: NAS-Bench-101 and NAS-Bench-Macro.

    python -m experiments.other_spaces --space=nasbench101 --num_archs=500 --channels=12 --cells=3
    python -m experiments.other_spaces --space=nasbench_macro --num_archs=150 --channels=16

Scores networks of which the package holds the accuracies, and prints Spearman's and Kendall's
correlation with its interval for each score, aggregates among them, beside #params, FLOPs and a
random score.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import common
from jaxnas import benchmarks, proxies, spaces
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.scorer import Scores
from jaxnas.types import SearchSpace

_SPACE = flags.DEFINE_enum(
    "space", "nasbench101", ("nasbench101", "nasbench_macro"), "Search space."
)
_PROXIES = common.define_proxies(
    [
        *("grad_norm", "snip", "mgm", "gradient_diversity", "layer_balance", "naswot", "swap"),
        *("meco", "channel_independence", "jacob_cov", "zen", "synflow"),
        *("expressivity", "progressivity", "trainability", "az_nas", "panel", "pair"),
    ]
)
_NUM_ARCHS = flags.DEFINE_integer("num_archs", 200, "Number of networks to score.", 4, 10000)

common.reads(*common.SCORES, *common.PROCESSES)


class Known(NamedTuple):
    """Networks of a space with what is known of them."""

    archs: np.ndarray
    accuracies: np.ndarray
    params: np.ndarray
    what: str


def nasbench101(chosen: Callable[[int], np.ndarray]) -> Known:
    """Return a sample of the NAS-Bench-101 table."""
    table = benchmarks.nasbench101()
    rows = chosen(len(table.archs))
    return Known(
        table.archs[rows],
        table.columns["valid_108ep"][rows],
        table.params[rows],
        "validation accuracy after 108 epochs",
    )


def nasbench_macro(chosen: Callable[[int], np.ndarray]) -> Known:
    """Return a sample of the NAS-Bench-Macro table."""
    table = benchmarks.nasbench_macro()
    rows = chosen(len(table.archs))
    return Known(
        table.archs[rows],
        table.columns["accuracy"][rows],
        table.params[rows],
        "test accuracy, mean of three runs",
    )


KNOWN = {"nasbench101": nasbench101, "nasbench_macro": nasbench_macro}


def main() -> None:
    """Score and correlate."""
    if _SPACE.value == "nasbench_macro":
        common.refuse("cells", because="networks of NAS-Bench-Macro have eight layers")
    setting = common.setting(_space)
    names = list(dict.fromkeys([*_PROXIES.value, "flops"]))
    proxies.expand(names)
    rng = np.random.default_rng(common.seed())
    known = KNOWN[_SPACE.value](
        lambda size: rng.choice(size, min(_NUM_ARCHS.value, size), replace=False)
    )
    with common.run_folder(f"other_spaces_{_SPACE.value}") as (folder, meter):
        scored = common.score(setting, known.archs, names, folder)
    ranked = _ranked(known, scored, rng)
    functions = np.array([setting.space.representative(arch) for arch in known.archs])
    k = max(1, _NUM_ARCHS.value // 10)
    table = common.correlate(ranked, known.accuracies, known.params, functions, k)
    parts: list[Text | Table | Plot] = [
        Text("The pool", f"{len(known.archs)} networks, {known.what}. {common.failures(scored)}"),
        Table("Rank correlations", table, common.CORRELATIONS_NOTE),
        Plot(
            "Rank correlations",
            figures.correlation_bars(table, controls=("#params", "flops", "random")),
            "Spearman correlation with 95 % bootstrap intervals.",
        ),
    ]
    summary: dict[str, Any] = {
        f"spearman_{row['score']}": row["spearman"] for _, row in table.iterrows()
    }
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    title = f"Rank correlations on {_SPACE.value}"
    common.finish(folder, meter, Report(title, common.describe(setting), parts), summary)


def _space(*, channels: int, cells: int, **options: Any) -> SearchSpace:
    if _SPACE.value == "nasbench101":
        return spaces.nasbench101(channels=channels, cells=cells, **options)
    return spaces.nasbench_macro(channels=channels, **options)


def _ranked(known: Known, scored: Scores, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return all scores `[S, A]` by name, the controls first."""
    counted = {"#params": known.params[None].astype(float)}
    return counted | {"random": rng.random((1, len(known.archs)))} | scored.scores


if __name__ == "__main__":
    launch(main)
