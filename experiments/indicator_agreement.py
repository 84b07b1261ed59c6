r"""Do block indicators rank the structure of candidates, or the draw of their frozen weights?

    python -m experiments.indicator_agreement --dataset=digits --recipe=published --classifier \
        --noaugment --learning_rate=0.2 --epochs=16 --num_seeds=4

Trains supernets whose blocks are frozen (recipe `published`), each draw of the weights twice, on
the images in another order, at several widths. Block indicators that rank structure agree between
draws; those that rank the draw agree between the two orders of one draw and not between draws. The
noise of a mean over channels should fall with the width, and with the number of draws that it is
averaged over: `means of draws` compares the means over two halves of the draws.

Measured (docs/results/supernets.md; orthogonal kernels, widths 1 and 2): tau .21 and .04 for the
same weights, -.02 and -.00 for others.

The claim is of arXiv 2307.02263, which frees candidates from their draw by orthogonal kernels.
"""

import itertools
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common, supernet_runs
from experiments.supernet_runs import OTHER, SAME, Runs
from jaxnas import search
from jaxnas.launch import launch
from jaxnas.runs import Report, Table
from jaxnas.spaces.mobilenetv2_space import BY_LAYOUT, Layout, SearchedNetwork, num_choices, resolve
from jaxnas.supernet import indicators

_LAYOUT = flags.DEFINE_enum("layout", "digits", tuple(BY_LAYOUT), "Layout of the networks.")
_WIDTHS = flags.DEFINE_list(
    "widths", ["1", "2", "4"], "Widths to compare, as multiples of the layout's channels."
)
_INITIALIZATIONS = flags.DEFINE_list(
    "initializations", ["gauss", "qr"], "Initializations of the frozen kernels to compare."
)
_NUM_ORDERS = flags.DEFINE_integer(
    "num_orders", 2, "Number of orders of the images for each draw of the weights.", 1
)

common.reads(*common.IMAGES, "num_seeds")
flags.adopt_module_key_flags(supernet_runs)

PATHS = 100

_NOTE = (
    "Kendall's tau of the block indicators of a layer between two runs, mean over layers and pairs "
    "of runs, +-: standard error over pairs, which share runs; 0 is chance. means of draws: "
    "between the means over one half of the draws and over the other, mean over halvings. loss: of "
    "the last record, nats, label smoothing included. accuracy: inherited, of "
    f"{PATHS} random networks."
)


def main() -> None:
    """Train, read and compare."""
    if flags.FLAGS["initialization"].present:
        raise ValueError("Name the kernels to compare by --initializations, one or several.")
    for text in _WIDTHS.value:
        if not text.isdigit() or int(text) < 1:
            raise ValueError(f"--widths must be whole numbers above 0: got {text!r}.")
    setting = common.setting()
    recipe = supernet_runs.recipe()
    rows, summary = [], {}
    with common.run_folder("indicator_agreement") as (folder, meter):
        images = supernet_runs.images(setting)
        for name, width in itertools.product(_INITIALIZATIONS.value, map(int, _WIDTHS.value)):
            module = SearchedNetwork(
                colors=setting.space.options["colors"],
                layout=_layout(width, setting.image_size),
                classes=setting.dataset.num_classes,
                bypass=recipe.bypass,
            )
            of_name = recipe._replace(initialization=name)
            where = folder / f"{name}_{width}"
            runs = supernet_runs.train(
                module, of_name, images, where, setting.seeds, _NUM_ORDERS.value
            )
            row = {"kernels": name, "width": width, **_row(runs)}
            rows.append(row)
            for what, column in (("same", SAME), ("other", OTHER), ("loss", "loss")):
                summary[f"{what}_{name}_{width}"] = row[column]
    subtitle = (
        f"{_LAYOUT.value} networks at {setting.image_size} pixels. "
        f"{supernet_runs.describe(recipe._replace(initialization='those of the table'))} "
        f"{len(setting.seeds)} draws, {_NUM_ORDERS.value} orders each."
    )
    table = Table("Agreement of block indicators", pd.DataFrame(rows), _NOTE)
    common.finish(folder, meter, Report("Structure or draw", subtitle, [table]), summary)


def _layout(width: int, image_size: int) -> Layout:
    layout = BY_LAYOUT[_LAYOUT.value]
    stages = tuple(stage._replace(outputs=width * stage.outputs) for stage in layout.stages)
    return resolve(
        layout._replace(
            image_size=image_size,
            stem=width * layout.stem,
            first=width * layout.first,
            stages=stages,
            head=width * layout.head,
        )
    )


def _row(runs: Runs) -> dict[str, Any]:
    taus = supernet_runs.agreement(runs)
    draws = [run.indicators for (_, order), run in runs.items() if order == 0]
    halves = itertools.combinations(range(len(draws)), len(draws) // 2) if len(draws) > 3 else []
    means = []
    for half in halves:
        rest = set(range(len(draws))) - set(half)
        both = (indicators.mean([draws[at] for at in each]) for each in (half, sorted(rest)))
        means.append(indicators.agreement(*both))
    key, layout = jax.random.key(common.seed()), next(iter(runs.values())).module.layout
    paths = np.asarray(search.sample(key, num_choices(layout), PATHS))
    accuracies = [run.by_inheritance(paths)["inherited accuracy"] for run in runs.values()]
    return {
        SAME: taus[SAME].mean(),
        f"+- {SAME}": taus[SAME].sem(),
        OTHER: taus[OTHER].mean(),
        f"+- {OTHER}": taus[OTHER].sem(),
        "means of draws": pd.Series(means, dtype=float).mean(),
        "loss": np.mean([run.supernet.history[-1].loss for run in runs.values()]),
        "accuracy": np.mean(accuracies),
    }


if __name__ == "__main__":
    launch(main)
