r"""Which signal of a supernet ranks networks? All 6,561 of NAS-Bench-Macro know the answer.

    python -m experiments.fair_supernet --recipe=fair --channels=16 --image_size=16
    python -m experiments.fair_supernet --recipe=published --channels=16 --image_size=16

Trains a supernet by a recipe, reads its indicators and the losses of inherited paths, and compares
them with the accuracies of the trained networks: on one half of the networks, from which a choice
of signal may be made, and on the other half, which is for the report. Beside them stand scores of
untrained networks and plain costs. Evolution by the signal of the recipe then searches the whole
space for the best network under a cap of FLOPs. With --num_orders=2 each draw of the initial
weights is trained twice, on the images in another order: what two such runs agree on, beyond what
two draws of the weights do, is a matter of the draw, not of the structure.

On a GPU, the benchmark's own size on all of CIFAR-10:

    python -m experiments.fair_supernet --recipe=fair --channels=32 --dataset=cifar10:FOLDER \
        --train_batch=128 --epochs=30 --num_seeds=3
"""

from pathlib import Path
from typing import Any, cast, get_args

import jax
import numpy as np
from absl import flags

from experiments import common, supernet_report
from experiments.supernet_report import Run
from jaxnas import datasets, search
from jaxnas.benchmarks import MacroBenchmark, nasbench_macro
from jaxnas.launch import launch
from jaxnas.runs import Report
from jaxnas.spaces import nasbench_macro as space_of
from jaxnas.spaces.mobilenetv2 import BoundNetwork, SearchedNetwork
from jaxnas.supernet import indicators, inherited, parameters, recipes, sampling, train
from jaxnas.supernet.recipes import Recipe
from jaxnas.types import SearchSpace

_RECIPE = flags.DEFINE_enum("recipe", "fair", tuple(recipes.BY_NAME), "How to train, and what of.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the training images.", 1)
_TRAIN_BATCH = flags.DEFINE_integer("train_batch", 64, "Images a step.", 1)
_RATE = flags.DEFINE_float("learning_rate", None, "Instead of the recipe's.")
_TRAINED = flags.DEFINE_enum(
    "trained", None, get_args(parameters.Trained), "Instead of the recipe's."
)
_INIT = flags.DEFINE_string("initialization", None, "Instead of the recipe's.")
_VALID = flags.DEFINE_integer("valid_size", 256, "Training images held out for inherited paths.", 1)
_NUM_INHERITED = flags.DEFINE_integer("num_inherited", 600, "Networks that are validated.", 8, 6561)
_PROXIES = common.define_proxies(["swap", "naswot", "grad_norm"])
_NUM_ORDERS = flags.DEFINE_integer("num_orders", 1, "Runs of each draw of the weights.", 1)
_CAP = flags.DEFINE_float(
    "flops_quantile", 0.5, "Cap of FLOPs: this quantile of the space's.", 0, 1
)

flags.adopt_module_key_flags(common)


def main() -> None:
    """Train, read, search and compare."""
    own = common.setting(_space)
    recipe = _recipe()
    benchmark = nasbench_macro()
    cap = float(np.quantile(benchmark.flops, _CAP.value))
    rng = np.random.default_rng(0)  # the halves are the same for all runs
    rows = rng.permutation(len(benchmark.archs))[: _NUM_INHERITED.value]
    if not (benchmark.flops[rows] <= cap).any():
        raise ValueError(
            f"No network that is compared costs {cap:.3g} FLOPs or less: raise --flops_quantile or "
            "--num_inherited."
        )
    with common.run_folder(f"fair_supernet_{recipe.name}") as (folder, meter):
        scored = common.score(own, benchmark.archs[rows], _PROXIES.value, folder)
        runs = [
            _run(own, recipe, benchmark, rows, cap, folder, seed, order)
            for seed in own.seeds
            for order in range(_NUM_ORDERS.value)
        ]
    others = {name: scored.mean(name) for name in _PROXIES.value}
    parts, summary = supernet_report.build(
        supernet_report.Findings(benchmark, rows, runs, others, recipe, cap, common.seed())
    )
    report = Report(f"A supernet of NAS-Bench-Macro, {recipe.name}", _describe(own, recipe), parts)
    common.finish(folder, meter, report, summary)


def _space(*, channels: int, cells: int, norm: str, **options: Any) -> SearchSpace:
    return space_of(channels=channels, head=40 * channels, norm=norm, **options)


def _recipe() -> Recipe:
    recipe = recipes.BY_NAME[_RECIPE.value]
    return recipe._replace(
        trained=cast(parameters.Trained, _TRAINED.value or recipe.trained),
        initialization=_INIT.value or recipe.initialization,
        options=recipe.options._replace(
            epochs=_EPOCHS.value,
            batch_size=_TRAIN_BATCH.value,
            learning_rate=_RATE.value or recipe.options.learning_rate,
        ),
    )


def _module(own: common.Setting, recipe: Recipe) -> SearchedNetwork:
    options = {name: own.space.options[name] for name in ("head", "classes", "colours")}
    channels = own.space.options["stem"]
    space = space_of(channels=channels, norm="batch", bypass=recipe.bypass, **options)
    images = own.batch(own.seeds[0]).inputs
    arch = np.zeros(len(space.num_choices), np.int32)
    network, _ = space.bind(arch, space.init(jax.random.key(0), images))
    assert isinstance(network, BoundNetwork)
    return network.module


def _run(
    own: common.Setting,
    recipe: Recipe,
    benchmark: MacroBenchmark,
    rows: np.ndarray,
    cap: float,
    folder: Path,
    seed: int,
    order: int,
) -> Run:
    module = _module(own, recipe)
    dataset = own.dataset
    images = datasets.resize(datasets.normalize(dataset, dataset.x_train), own.image_size)
    held_out = np.random.default_rng(0).permutation(len(images)) < _VALID.value
    key = jax.random.key(seed)
    params = parameters.draw(module, key, images.shape[-1], recipe.initialization)
    split = parameters.split(module, params, recipe.trained, classifier=recipe.classifier)
    label = f"seed {seed}, order {order}"
    supernet = train(
        module,
        split,
        images[~held_out],
        dataset.y_train[~held_out],
        recipe.options._replace(seed=1000 * seed + order),
        paths=sampling.strict_fair(own.space.num_choices),
        checkpoint_dir=folder / f"supernet_{seed}_{order}",
        progress=lambda own: print(
            f"{label}: step {own.step}, loss {own.loss:.3f}, drift {own.drift:.3f}", flush=True
        ),
    )
    if supernet.diverged:
        raise ValueError(
            f"The supernet of {label} diverged at step {supernet.history[-1].step}: got a loss of "
            f"{supernet.history[-1].loss:.3g}; lower --learning_rate."
        )
    read = indicators.read(module, supernet.params)

    def by_inheritance(archs: np.ndarray) -> dict[str, np.ndarray]:
        valid = (images[held_out], dataset.y_train[held_out])
        judged = inherited(module, supernet.params, archs, *valid)
        return {"inherited loss": -judged.loss, "inherited accuracy": judged.accuracy}

    def by_indicators(archs: np.ndarray) -> dict[str, np.ndarray]:
        tables = {mode: indicators.score_table(read, mode) for mode in recipes.modes(recipe)}
        return {f"indicators, {mode}": indicators.score(own, archs) for mode, own in tables.items()}

    by_signal = by_inheritance if recipe.signal.startswith("inherited") else by_indicators
    history = search.constrained_evolution(
        own.space.num_choices,
        lambda archs: by_signal(archs)[recipe.signal],
        key=key,
        legal=lambda archs: benchmark.flops[benchmark.index(archs)] <= cap,
    )
    archs = benchmark.archs[rows]
    compared = by_inheritance(archs) | by_indicators(archs)
    best = np.asarray(history.best_arch)
    return Run(seed, order, read, compared, supernet, best, len(history.scores))


def _describe(own: common.Setting, recipe: Recipe) -> str:
    options = recipe.options
    return (
        f"NAS-Bench-Macro at {own.space.options['stem']} channels; {own.image_size}x"
        f"{own.image_size} images, {options.epochs} epochs of {options.batch_size} images a step, "
        f"rate {options.learning_rate}; kernels drawn by {recipe.initialization}, trained: "
        f"{recipe.trained}, classifier {'trained' if recipe.classifier else 'frozen'}, beside the "
        f"blocks: {recipe.bypass}; {_NUM_INHERITED.value} networks compared, {_VALID.value} images "
        f"held out; seeds {', '.join(map(str, own.seeds))}."
    )


if __name__ == "__main__":
    launch(main)
