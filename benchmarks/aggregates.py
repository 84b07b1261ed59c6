r"""How well sets of scores rank several spaces, by the logarithms of their ranks.

    python benchmarks/aggregates.py --runs=results/a,results/b \
        --sets=panel,expressivity+channel_independence+zico

Reads the scores that experiments have stored (`experiments.correlations`, `other_spaces`,
`transformers`), and computes any set of them as `aggregate.log_rank` does, without scoring anew:
of each draw by itself, and then the mean. Printed are, for each set and each accuracy of a table,
Spearman's correlation, the partial one given log #params of the trained networks, that among the
most accurate tenth, Kendall's tau, and the share in percent of the networks that are more accurate
than the first choice of a draw (the median over draws). Of several trainings of one network the
table gives the first.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from jaxnas import benchmarks, correlation
from jaxnas.proxies import aggregate
from jaxnas.runs import ScoreStore

COLUMNS = {
    "nasbench201": ("cifar10", "cifar100", "imagenet16-120"),
    "nasbench101": ("valid_108ep",),
    "nasbench_macro": ("accuracy",),
    "pit": ("c100_base_acc", "flower_base_acc", "chaoyang_base_acc"),
    "autoformer": ("c100_base_acc", "flower_base_acc", "chaoyang_base_acc"),
    "bert": ("glue", "sst", "cola"),
}


def main() -> None:
    """Print a table for each run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", required=True, help="Folders of runs, separated by commas.")
    parser.add_argument(
        "--sets",
        default="panel,quintet",
        help="Names of aggregates, and scores joined by +; params is the number of parameters.",
    )
    args = parser.parse_args()
    for folder in args.runs.split(","):
        space, archs, measured = _measured(Path(folder))
        table = benchmarks.BY_SPACE[space]()
        columns = {name: table.accuracy(archs, name) for name in COLUMNS[space]}
        rows = {
            name: _agreements(_combined(name, measured), columns, measured["params"][0])
            for name in args.sets.split(",")
        }
        print(f"\n{space}, {len(archs)} networks")
        print(pd.DataFrame.from_dict(rows, orient="index").round(2).to_string())


def _measured(folder: Path) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """Return the name of the space, its networks `[A]`, and the scores `[S, A]` by name.

    A draw that was broken off is left out.
    """
    with ScoreStore(folder / "scores.sqlite") as store:
        (run, context), *_ = store.contexts().items()
        table = store.frame(run).pivot_table("score", "arch", ["seed", "proxy"], dropna=False)
    archs, space = list(table.index), str(context["space"])
    draws = [table[seed] for seed in table.columns.levels[0] if table[seed].notna().all(axis=None)]
    scores = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    params = benchmarks.BY_SPACE[space]().value(archs, "params").astype(float)
    return space, archs, scores | {"params": np.stack([params] * len(draws))}


def _combined(name: str, measured: dict[str, np.ndarray]) -> np.ndarray:
    """Return the aggregate of each draw, `[S, A]`."""
    parts = tuple(name.split("+"))
    recipe = aggregate.RECIPES.get(name, aggregate.Recipe(parts, aggregate.log_rank))
    return recipe(measured)


def _agreements(
    draws: np.ndarray, columns: dict[str, np.ndarray], params: np.ndarray
) -> dict[tuple[str, str], float]:
    found, scores = {}, draws.mean(0)
    for name, accuracy in columns.items():
        best = accuracy >= np.quantile(accuracy, 0.9)
        above = [100 * np.mean(accuracy > accuracy[draw.argmax()]) for draw in draws]
        found[name, "all"] = correlation.spearman(scores, accuracy)
        found[name, "partial"] = correlation.partial_spearman(scores, accuracy, np.log(params))
        found[name, "best tenth"] = correlation.spearman(scores[best], accuracy[best])
        found[name, "kendall"] = correlation.kendall(scores, accuracy)
        found[name, "above the first %"] = float(np.median(above))
    return found


if __name__ == "__main__":
    main()
