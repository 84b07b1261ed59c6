r"""The demo: rank full-size NAS-Bench-201 networks without training any, in less than a minute.

    python -m jaxnas

Scores 24 random cells on real CIFAR-10 images that come with the package and shows the ranking
beside the accuracies that the networks reach when they are trained. Writes nothing.
"""

import jax
import numpy as np
import pandas as pd
from absl import flags

from jaxnas import correlation, datasets, spaces
from jaxnas.benchmarks import nasbench201
from jaxnas.launch import launch
from jaxnas.runs import Report, Table, Text, to_text
from jaxnas.scorer import Scorer
from jaxnas.search import sample_distinct
from jaxnas.spaces.nasbench201 import cell

_NAMES = ("mgm", "grad_norm", "params")


def demo(num_archs: int, batch_size: int, seed: int) -> Report:
    """Return the report of the demo.

    Raises:
        ValueError: a number that is out of range.
    """
    space = spaces.nasbench201(norm="instance")
    batch = datasets.batch(datasets.bundled_cifar10(), batch_size, seed=seed)
    archs = np.asarray(sample_distinct(jax.random.key(seed), space.num_choices, num_archs))
    scored = Scorer(space, batch, _NAMES, seeds=[seed])(archs)
    scores = {name: scored.mean(name) for name in _NAMES}
    accuracy = nasbench201().accuracy(archs, "cifar10")
    order = np.argsort(-scores["mgm"], kind="stable")
    ranking = pd.DataFrame(
        {
            "rank": np.arange(1, num_archs + 1),
            **{name: scores[name][order] for name in _NAMES},
            "CIFAR-10 test %": accuracy[order],
            "cell": [cell.to_string(arch) for arch in archs[order]],
        }
    )
    agreement = ", ".join(
        f"{name} {correlation.spearman(scores[name], accuracy):.2f}" for name in _NAMES
    )
    return Report(
        "jaxnas: networks ranked without training",
        f"{num_archs} random NAS-Bench-201 cells at full size (C=16, N=5), scored on "
        f"{batch_size} CIFAR-10 images, instance normalisation, seed {seed}.",
        [
            Table("Ranked by MGM, larger is better", ranking),
            Text(
                "How well the order agrees with training",
                f"Spearman's correlation with the accuracy after 200 epochs: {agreement}. With "
                f"{num_archs} networks that is uncertain by about 0.2 and more; "
                "`python -m experiments.correlations` in a clone of the repository measures it on "
                "more, with intervals.",
            ),
        ],
    )


def main() -> None:
    """Run the demo from the command line."""
    num_archs = flags.DEFINE_integer("num_archs", 24, "Cells to rank.", lower_bound=3)
    batch_size = flags.DEFINE_integer("batch_size", 16, "Images to score on.", lower_bound=1)
    seed = flags.DEFINE_integer("seed", 0, "Of cells, weights and images.", lower_bound=0)

    launch(lambda: print(to_text(demo(num_archs.value, batch_size.value, seed.value))))


if __name__ == "__main__":
    main()
