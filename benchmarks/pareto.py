r"""What nothing beats in both a score and a cost, on NAS-Bench-201 beside #params.

    python benchmarks/pareto.py  # 3.5 minutes on two quiet cores; see docs/results/search.md

Random cells of NAS-Bench-201 are scored by `panel` on 16 images of CIFAR-10, one draw of weights
and images, and their forward passes are timed on this device. Within each quartile of a cost as its
cap stand the true test accuracies on CIFAR-10 of what `panel` and #params put first, of a random
cell (the mean) and of the best there is. No network is trained. With 40 cells one look says little
of a few tenths of a percent.
"""

import argparse

import numpy as np
import pandas as pd

import jaxnas
from jaxnas import benchmarks, datasets, spaces

COSTS = ("params", "latency_ms")


def main() -> None:
    """Print the Pareto front by each cost, and what each way of choosing finds within caps."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--by", default="panel")
    parser.add_argument("--cells", type=int, default=40)
    args = parser.parse_args()
    data = datasets.load("cifar10-sample")
    scorer = jaxnas.Scorer(spaces.nasbench201(), data, by=args.by, batch_size=16)
    found = jaxnas.find(scorer, "random", evaluations=args.cells, caps=dict.fromkeys(COSTS, np.inf))
    accuracy = benchmarks.accuracy_of(found.space.name, found.scores.archs)
    frame = found.to_frame().assign(accuracy=accuracy)
    for name in COSTS:
        front = found.pareto(name)
        shown = frame.loc[front.index, ["arch", args.by, *COSTS, "accuracy"]].round(3)
        print(f"\nFront by {name}:\n{shown.to_string(index=False)}")
        print(f"\nWithin a cap on {name}:\n{within_caps(frame, name, args.by).to_string()}")


def within_caps(frame: pd.DataFrame, cost: str, by: str) -> pd.DataFrame:
    """Return the accuracies of what is chosen within each quartile of a cost."""
    rows = {}
    for share in (0.25, 0.5, 0.75, 1.0):
        cap = frame[cost].quantile(share)
        legal = frame[frame[cost] <= cap]
        rows[f"{cap:.4g}"] = {
            by: legal.loc[legal[by].idxmax(), "accuracy"],
            "#params": legal.loc[legal["params"].idxmax(), "accuracy"],
            "random": legal["accuracy"].mean(),
            "best": legal["accuracy"].max(),
        }
    return pd.DataFrame(rows).T.round(2)


if __name__ == "__main__":
    main()
