r"""Do block indicators rank the structure of candidates, or the draw of their frozen weights?

    python -m experiments.indicator_agreement --dataset=digits --recipe=published --classifier \
        --noaugment --learning_rate=0.2 --epochs=16 --num_seeds=4

Trains supernets whose blocks are frozen (recipe `published`), each draw of the weights twice, on
the images in another order, at several widths. Block indicators that rank structure agree between
draws; those that rank the draw agree between the two orders of one draw and not between draws. The
noise of a mean over channels should fall with the width, and with the number of draws that it is
averaged over: the last column compares the means over two halves of the draws.

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
from experiments.supernet_runs import TrainedSupernet
from jaxnas import search
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.spaces.mobilenetv2 import BY_LAYOUT, Layout, SearchedNetwork, num_choices, resolve
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

_PATHS = 100


def main() -> None:
    """Train, read and compare."""
    if flags.FLAGS["initialization"].present:
        raise ValueError("Name the kernels to compare by --initializations, one or several.")
    setting = common.setting()
    widths = [_width(text) for text in _WIDTHS.value]
    by_kind: dict[tuple[str, int], list[TrainedSupernet]] = {}
    with common.run_folder("indicator_agreement") as (folder, meter):
        images = supernet_runs.images(setting)
        for name, width in itertools.product(_INITIALIZATIONS.value, widths):
            recipe = supernet_runs.recipe()._replace(initialization=name)
            layout = _widened(BY_LAYOUT[_LAYOUT.value], width, setting.image_size)
            module = SearchedNetwork(
                colors=setting.space.options["colors"],
                layout=layout,
                classes=setting.dataset.num_classes,
                bypass=recipe.bypass,
            )
            by_kind[name, width] = [
                supernet_runs.run(module, recipe, images, folder / f"{name}_{width}", seed, order)
                for seed, order in itertools.product(setting.seeds, range(_NUM_ORDERS.value))
            ]
        table = pd.DataFrame(_row(*kind, runs) for kind, runs in by_kind.items())
    recipe = supernet_runs.recipe()
    subtitle = (
        f"{_LAYOUT.value} networks at {setting.image_size} pixels; recipe {recipe.name}, trained: "
        f"{recipe.trained}, classifier {'trained' if recipe.classifier else 'frozen'}; "
        f"{recipe.options.epochs} epochs of {recipe.options.batch_size} images a step, rate "
        f"{recipe.options.learning_rate}; {len(setting.seeds)} draws, "
        f"{_NUM_ORDERS.value} orders each."
    )
    parts: list[Text | Table | Plot] = [
        Text("The outcome", _verdict(table)),
        Table("Agreement of block indicators", table, _NOTE),
        _curves(table),
    ]
    summary = {
        f"{what}_{row['kernels']}_{row['width']}": row[column]
        for row in table.to_dict("records")
        for what, column in (("same", _SAME), ("other", _OTHER), ("loss", "loss"))
    }
    common.finish(folder, meter, Report("Structure or draw", subtitle, parts), summary)


_SAME, _OTHER, _MEANS = "same weights", "other weights", "means of draws"
_NOTE = (
    "Kendall's tau of the block indicators of a layer between two runs, mean over layers and pairs "
    "of runs, +-: standard error over pairs, which share runs; 0 is chance. means of draws: "
    "between the means over one half of the draws and over the other, mean over halvings. loss: of "
    "the last record, nats, label smoothing included. accuracy: inherited, of "
    f"{_PATHS} random networks."
)


def _width(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--widths must be whole numbers above 0: got {text!r}.")
    return int(text)


def _widened(layout: Layout, width: int, image_size: int) -> Layout:
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


def _row(name: str, width: int, runs: list[TrainedSupernet]) -> dict[str, Any]:
    same: list[float] = []
    other: list[float] = []
    for first, second in itertools.combinations(runs, 2):
        tau = indicators.agreement(first.read, second.read)
        (same if first.seed == second.seed else other).append(tau)
    draws = [run.read for run in runs if run.order == 0]
    halves = itertools.combinations(range(len(draws)), len(draws) // 2) if len(draws) > 3 else []
    means = [
        indicators.agreement(
            indicators.mean([draws[at] for at in half]),
            indicators.mean([draw for at, draw in enumerate(draws) if at not in half]),
        )
        for half in halves
    ]
    key = jax.random.key(common.seed())
    paths = np.asarray(search.sample(key, num_choices(runs[0].module.layout), _PATHS))
    accuracies = [run.by_inheritance(paths)["inherited accuracy"].mean() for run in runs]
    return {
        "kernels": name,
        "width": width,
        _SAME: pd.Series(same, dtype=float).mean(),
        f"+- {_SAME}": pd.Series(same, dtype=float).sem(),
        _OTHER: pd.Series(other, dtype=float).mean(),
        f"+- {_OTHER}": pd.Series(other, dtype=float).sem(),
        _MEANS: pd.Series(means, dtype=float).mean(),
        "loss": np.mean([run.supernet.history[-1].loss for run in runs]),
        "accuracy": np.mean(accuracies),
    }


def _curves(table: pd.DataFrame) -> Plot:
    curves = {
        f"{name}, {column}": rows.set_index("width")[column]
        for name, rows in table.groupby("kernels", sort=False)
        for column in (_SAME, _OTHER)
    }
    chosen = dict(list(curves.items())[: len(figures.PALETTE)])
    figure = figures.curves(chosen, x="width, multiple of the layout's", y="Kendall's tau")
    return Plot("Agreement by width", figure, "0 is chance.")


def _verdict(table: pd.DataFrame) -> str:
    widest = table[table["width"] == table["width"].max()].to_dict("records")
    words = "; ".join(
        f"{row['kernels']} {row[_SAME]:.2f} for the same weights, {row[_OTHER]:.2f} for others"
        for row in widest
    )
    return (
        f"Kendall's tau between the block indicators of two runs at the largest width: {words}. "
        "What the first has beyond the second is a matter of the draw."
    )


if __name__ == "__main__":
    launch(main)
