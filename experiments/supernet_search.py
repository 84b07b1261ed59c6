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
from experiments.supernet_runs import TrainedSupernet
from jaxnas import search
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.spaces import mobilenetv2 as space_of
from jaxnas.spaces.mobilenetv2 import BY_LAYOUT, Costs, Layout, SearchedNetwork, costs, resolve
from jaxnas.supernet.recipes import Recipe
from jaxnas.trainer import SpaceFn, Trainer
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

_SAMPLE = 1000


def main() -> None:
    """Train a supernet, search, retrain and compare."""
    setting = common.setting(_space)
    recipe = supernet_runs.recipe()
    space, layout = _of_norm(setting)("batch"), _layout(setting.image_size)
    options = space.options
    module = SearchedNetwork("batch", options["colors"], layout, options["classes"], recipe.bypass)
    table = costs(module)
    key = jax.random.key(common.seed())
    cap = _cap(space, table, key)
    with common.run_folder(f"supernet_search_{recipe.name}") as (folder, meter):
        images = supernet_runs.images(setting)
        run = supernet_runs.run(module, recipe, images, folder, common.seed())
        history = search.constrained_evolution(
            space.num_choices,
            run.signal,
            key=jax.random.fold_in(key, 1),
            legal=lambda archs: table.num_macs(archs) <= cap,
        )
        arms = _arms(space, table, cap, history, jax.random.fold_in(key, 2))
        trainer = Trainer(
            *(_of_norm(setting), setting.dataset, _retraining(recipe), folder / "retrained"),
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
            for name, archs in arms.items()
            for arch in archs
        ]
    retrained = pd.DataFrame(rows)
    means = retrained.groupby("by", sort=False)[["MFLOPs", "valid %", "test %"]].mean()
    parts: list[Text | Table | Plot] = [
        Text("The outcome", _verdict(retrained, recipe.name, cap)),
        Table("By kind", means.reset_index(), "Means over networks."),
        Table("Retrained", retrained, "From scratch, every weight; one training each."),
        Plot("Evolution", _curve(history), "The best score so far."),
        Plot("Training", _losses(run), "Mean loss of the paths of the supernet."),
    ]
    subtitle = (
        f"{_LAYOUT.value} networks at {setting.image_size} pixels, {len(space.num_choices)} "
        f"layers; cap {cap / 1e6:.4g} MFLOPs; supernet by recipe {recipe.name}, "
        f"{recipe.options.epochs} epochs, {len(history.scores)} networks scored; retrained "
        f"for {_RETRAIN_EPOCHS.value} epochs of {_RETRAIN_BATCH.value} images a step; "
        f"seed {common.seed()}."
    )
    summary = {f"test_{name}": row["test %"] for name, row in means.to_dict("index").items()}
    common.finish(folder, meter, Report("Search by a supernet", subtitle, parts), summary)


def _layout(image_size: int) -> Layout:
    return resolve(BY_LAYOUT[_LAYOUT.value]._replace(image_size=image_size))


def _space(*, channels: int, cells: int, norm: str, **options: Any) -> SearchSpace:
    return space_of(_LAYOUT.value, norm=norm, **options)  # the layout knows its widths


def _of_norm(setting: common.Setting) -> SpaceFn:
    sizes = {name: setting.space.options[name] for name in ("classes", "colors")}
    return lambda norm: space_of(_layout(setting.image_size), norm=norm, **sizes)


def _retraining(recipe: Recipe) -> TrainingOptions:
    return TrainingOptions(
        epochs=_RETRAIN_EPOCHS.value,
        batch_size=_RETRAIN_BATCH.value,
        learning_rate=_RETRAIN_RATE.value,
        weight_decay=4e-5,  # with the label smoothing, of SPOS' published code
        label_smoothing=0.1,
        crop_padding=recipe.options.crop_padding,
        flip=recipe.options.flip,
        seed=common.seed(),
    )


def _cap(space: SearchSpace, table: Costs, key: Any) -> float:
    if _CAP.value is not None:
        return 1e6 * _CAP.value
    return float(np.median(table.num_macs(search.sample(key, space.num_choices, _SAMPLE))))


def _arms(
    space: SearchSpace, table: Costs, cap: float, history: search.History, key: Any
) -> dict[str, np.ndarray]:
    """Return the networks to retrain `int32[N, L]`, by how they were chosen."""
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
    return {
        "evolution": np.asarray(history.ranked_archs)[: _K.value],
        "random": np.asarray(drawn.archs),
        "FLOPs-max": largest[None],
    }


def _curve(history: search.History) -> Any:
    best = np.asarray(history.running_best, float)
    series = pd.Series(best, index=np.arange(1, len(best) + 1))
    return figures.curves({"evolution": series}, x="networks scored", y="best score")


def _losses(run: TrainedSupernet) -> Any:
    history = run.supernet.history
    series = pd.Series([point.loss for point in history], index=[point.step for point in history])
    return figures.curves({run.recipe.name: series}, x="step", y="loss (nats)")


def _verdict(retrained: pd.DataFrame, name: str, cap: float) -> str:
    found = retrained[retrained["by"] == "evolution"]
    chosen = found.sort_values("valid %", kind="stable").to_dict("records")[-1]
    others = retrained[retrained["by"] != "evolution"].groupby("by", sort=False)["test %"].mean()
    beside = ", ".join(f"{by} {value:.2f}" for by, value in others.items())
    return (
        f"Of the networks that evolution found under {cap / 1e6:.4g} MFLOPs by the {name} "
        f"supernet, validation chooses {chosen['network']}: {chosen['test %']:.2f} % on the test "
        f"images after retraining. Mean of the others: {beside}."
    )


if __name__ == "__main__":
    launch(main)
