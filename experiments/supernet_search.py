r"""Search of a MobileNetV2 space by a supernet, under a cap of FLOPs; what it finds is retrained.

    python -m experiments.supernet_search --layout=smoke32 --image_size=16 --epochs=4

Trains a supernet of all networks of a layout by a recipe (`published` or `fair`), searches by
evolution for the best networks under the cap, and trains the best few from scratch, every weight of
them, beside as many random legal networks and the legal one of most FLOPs. The validation accuracy
of the retraining decides; test images are for the report. A run that is stopped goes on.

At full size, on a GPU, with images of 224 pixels (any set that fits in memory, such as Imagenette;
ImageNet itself does not, and this package has no reader that streams it), the settings of arXiv
2307.02263 where it states them, and those of SPOS for the retraining:

    python -m experiments.supernet_search --layout=isometric --image_size=224 --recipe=published \
        --dataset=npz:FILE --train_batch=128 --epochs=120 --flops_cap=475 \
        --retrain_epochs=240 --retrain_batch=256 --retrain_rate=0.5 --k=1
"""

from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common, supernet_runs
from jaxnas import search
from jaxnas.launch import launch
from jaxnas.runs import Part, Report, Table
from jaxnas.spaces import mobilenetv2 as space_of
from jaxnas.spaces.mobilenetv2_space import BY_LAYOUT, Costs, SearchedNetwork, costs, resolve
from jaxnas.trainer import Trainer
from jaxnas.training import TrainingOptions
from jaxnas.types import SearchSpace

_LAYOUT = flags.DEFINE_enum("layout", "smoke32", tuple(BY_LAYOUT), "Layout of the networks.")
_CAP = flags.DEFINE_float(
    "flops_cap", None, "Cap of millions of FLOPs. [the median of random networks]", 0
)
_K = flags.DEFINE_integer("k", 2, "Number of networks of each kind to retrain.", 1)
_RETRAIN_EPOCHS = flags.DEFINE_integer("retrain_epochs", 12, "Number of epochs of retraining.", 1)
_RETRAIN_BATCH = flags.DEFINE_integer(
    "retrain_batch", 64, "Number of images of a step of retraining.", 1
)
_RETRAIN_RATE = flags.DEFINE_float("retrain_rate", 0.1, "Highest learning rate of retraining.", 0)

common.reads(*common.IMAGES)
flags.adopt_module_key_flags(supernet_runs)

SAMPLE = 1000  # random networks, for the median of FLOPs


def main() -> None:
    """Train a supernet, search, retrain and compare."""
    setting = common.setting(_space)
    recipe = supernet_runs.recipe()
    layout = resolve(BY_LAYOUT[_LAYOUT.value]._replace(image_size=setting.image_size))
    sizes = {name: setting.space.options[name] for name in ("classes", "colors")}
    space = space_of(layout, norm="batch", **sizes)
    module = SearchedNetwork("batch", sizes["colors"], layout, sizes["classes"], recipe.bypass)
    table = costs(module)
    key = jax.random.key(common.seed())
    drawn = search.sample(key, space.num_choices, SAMPLE)
    cap = 1e6 * _CAP.value if _CAP.value is not None else float(np.median(table.num_macs(drawn)))
    with common.run_folder(f"supernet_search_{recipe.name}") as (folder, meter):
        images = supernet_runs.images(setting)
        runs = supernet_runs.train(module, recipe, images, folder, (common.seed(),))
        (run,) = runs.values()
        history = search.constrained_evolution(
            space.num_choices,
            run.signal,
            key=jax.random.fold_in(key, 1),
            legal=lambda archs: table.num_macs(archs) <= cap,
        )
        chosen = {"evolution": np.asarray(history.ranked_archs)[: _K.value]}
        chosen |= _controls(space, table, cap, jax.random.fold_in(key, 2))
        options = TrainingOptions(
            epochs=_RETRAIN_EPOCHS.value,
            batch_size=_RETRAIN_BATCH.value,
            learning_rate=_RETRAIN_RATE.value,
            weight_decay=4e-5,  # with the label smoothing, of SPOS' published code
            label_smoothing=0.1,
            crop_padding=recipe.options.crop_padding,
            flip=recipe.options.flip,
            seed=common.seed(),
        )
        trainer = Trainer(
            lambda norm: space_of(layout, norm=norm, **sizes),
            setting.dataset,
            options,
            folder / "retrained",
            image_size=setting.image_size,
        )
        rows = [
            {
                "by": name,
                "network": space.to_string(arch),
                "MFLOPs": table.num_macs(arch) / 1e6,
                "params": space.num_params(arch),
                "valid %": float(trainer(arch[None])[0]),
                "test %": trainer.test_accuracy[space.to_string(arch)],
                recipe.signal: float(run.signal(arch[None])[0]),
            }
            for name, archs in chosen.items()
            for arch in archs
        ]
    retrained = pd.DataFrame(rows)
    means = retrained.groupby("by", sort=False)[["MFLOPs", "valid %", "test %"]].mean()
    parts: list[Part] = [
        Table("By kind", means.reset_index(), "Means over networks."),
        Table("Retrained", retrained, "From scratch, every weight; one training each."),
        supernet_runs.loss_curves(runs),
    ]
    subtitle = (
        f"{_LAYOUT.value} networks at {setting.image_size} pixels, {len(space.num_choices)} "
        f"layers; cap {cap / 1e6:.4g} MFLOPs. {supernet_runs.describe(recipe)} "
        f"{len(history.scores)} networks scored; retrained for {_RETRAIN_EPOCHS.value} epochs of "
        f"{_RETRAIN_BATCH.value} images a step; seed {common.seed()}."
    )
    summary = {f"test_{name}": value for name, value in means["test %"].items()}
    common.finish(folder, meter, Report("Search by a supernet", subtitle, parts), summary)


def _space(*, channels: int, cells: int, norm: str, **options: Any) -> SearchSpace:
    return space_of(_LAYOUT.value, norm=norm, **options)  # the layout knows its widths


def _controls(space: SearchSpace, table: Costs, cap: float, key: Any) -> dict[str, np.ndarray]:
    """Return random legal networks, and the legal one of most FLOPs, `int32[N, L]`."""
    drawn = search.constrained_evolution(
        space.num_choices,
        lambda archs: np.zeros(len(archs)),
        key=key,
        legal=lambda archs: table.num_macs(archs) <= cap,
        options=search.EvolutionOptions(population=_K.value, generations=1),
    )
    exists = np.arange(table.macs.shape[1])[None] < np.asarray(space.num_choices)[:, None]
    largest = search.knapsack(
        np.where(exists, table.macs, -np.inf), table.macs, cap, fixed=table.fixed.macs
    )
    return {"random": np.asarray(drawn.archs), "FLOPs-max": largest[None]}


if __name__ == "__main__":
    launch(main)
