r"""How often the percentiles of `jaxnas.calibration` hold on NAS-Bench-201.

    python benchmarks/calibration.py --by=panel,params

A pool of cells is scored. A few of them, spread over the order of a score, get their accuracy from
the table, and the percentiles of all others follow. Printed are means over 20 choices of the few:
how many of the others are within their 90 % intervals, of all and of the tenth that the score puts
first; the mean widths of these intervals, and the mean error of what is expected, in percentiles.
The last column is in how many choices the few say, with a probability of 90 % at least, that the
score orders cells better than #params.
"""

import argparse

import numpy as np
import pandas as pd
import scipy.stats

import jaxnas
from jaxnas import benchmarks, calibration, datasets, spaces


def main() -> None:
    """Score a pool, calibrate it again and again, and print how often that held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--by", default="panel,params", help="Scores and aggregates.")
    parser.add_argument("--pool", type=int, default=400, help="Cells of the pool.")
    parser.add_argument("--choices", type=int, default=20, help="Choices of what is trained.")
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    table, images = benchmarks.nasbench201(), datasets.load("cifar10-sample")
    rows = np.random.default_rng(args.seed).choice(len(table.archs), args.pool, replace=False)
    scorer = jaxnas.Scorer(
        spaces.nasbench201(norm="batch"),
        lambda seed: datasets.batch(images, 8, seed=seed, image_size=16),
        by=args.by.split(","),
        seeds=(args.seed,),
    )
    scores = scorer(table.archs[rows])
    accuracy, params = table.accuracy(table.archs[rows]), table.params[rows]
    truth = 100 * (scipy.stats.rankdata(accuracy) - 0.5) / args.pool
    lines = []
    for name in scores.scores:
        score, first = scores.mean(name), scores.order(name)[: args.pool // 10]
        for count in (4, 8, 16, 32):
            each = []
            for choice in range(args.choices):
                few = calibration.spread(score, count, seed=choice)
                found = calibration.percentiles(score, few, accuracy[few], seed=choice)
                holds = (found.low <= truth) & (truth <= found.high)
                others = np.setdiff1d(np.arange(args.pool), few)
                head = np.setdiff1d(first, few)
                width, error = found.high - found.low, np.abs(found.expected - truth)
                of_others = holds[others].mean(), width[others].mean(), error[others].mean()
                better = calibration.advantage(score[few], params[few], accuracy[few], seed=choice)
                each.append([*of_others, holds[head].mean(), width[head].mean(), better > 0.9])
            lines.append([name, count, *np.mean(each, 0).round(2)])
    of_others = ["within", "width", "error"]
    columns = [
        "score",
        "trained",
        *of_others,
        "within, first tenth",
        "width, first tenth",
        "told from #params",
    ]
    print(pd.DataFrame(lines, columns=columns).to_string(index=False))


if __name__ == "__main__":
    main()
