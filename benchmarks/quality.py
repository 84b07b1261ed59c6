r"""What a search without any training finds: the best of its first one, three and ten choices.

    python benchmarks/quality.py --space=nasbench201
    python benchmarks/quality.py --space=nasbench101
    python benchmarks/quality.py --space=nasbench_macro

Each draw is a new random pool of networks whose trained accuracy is known, new weights and new
images of CIFAR-10. The pool is put in order by a score, by #params and at random. Printed are means
over the draws of how far the best of the first k is from the best of the pool, in percent of
accuracy, with their 95 % intervals (bootstrap over draws).
"""

import argparse
import functools

import numpy as np
import pandas as pd
import scipy.stats

import jaxnas
from jaxnas import benchmarks, datasets, spaces

SPACES = {
    "nasbench201": spaces.nasbench201,
    "nasbench101": functools.partial(spaces.nasbench101, channels=12),
    "nasbench_macro": spaces.nasbench_macro,
}
FIRST = (1, 3, 10)


def main() -> None:
    """Score pool after pool, and print what each order finds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--space", choices=SPACES, default="nasbench201")
    parser.add_argument("--by", default="panel,pair,quintet", help="Scores and aggregates.")
    parser.add_argument("--pool", type=int, default=300, help="Networks of a draw.")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()
    space, (archs, accuracies) = SPACES[args.space](), known(args.space)
    images = datasets.load("cifar10-sample")
    lost = []
    for draw in range(args.draws):
        rng = np.random.default_rng(draw)
        rows = rng.choice(len(archs), args.pool, replace=False)
        pool, accuracy = archs[rows], accuracies[rows]
        scores = jaxnas.Scorer(
            space,
            lambda seed: datasets.batch(images, args.batch_size, seed=seed, image_size=16),
            by=args.by.split(","),
            seeds=(draw,),
            progress=False,
        )(pool)
        orders = {name: scores.order(name) for name in scores.scores}
        orders["#params"] = np.argsort(-np.array([space.num_params(arch) for arch in pool]))
        orders["random"] = rng.permutation(args.pool)
        for name, order in orders.items():
            best = [accuracy[order[:k]].max() for k in FIRST]
            lost.append((name, *(accuracy.max() - np.array(best))))
        print(f"draw {draw}: the best of the pool has {accuracy.max():.2f} %", flush=True)
    print(_summary(pd.DataFrame(lost, columns=["order by", *FIRST])).to_string())


def known(space: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the networks of a table, `int32[A, D]`, and their accuracies in percent, `[A]`."""
    table = benchmarks.BY_SPACE[space]()
    return table.archs, table.columns[table.target]


def _summary(lost: pd.DataFrame) -> pd.DataFrame:
    """Return means with intervals, a row for each order and a column for each k."""

    def mean(values: pd.Series) -> str:
        draws = (values.to_numpy(),)
        low, high = scipy.stats.bootstrap(
            draws, np.mean, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"

    return lost.groupby("order by", sort=False).agg(mean)


if __name__ == "__main__":
    main()
