r"""Which signal of a supernet ranks networks? All 6,561 of NAS-Bench-Macro know the answer.

    python -m experiments.fair_supernet --recipe=fair --channels=16 --image_size=16
    python -m experiments.fair_supernet --recipe=published --channels=16 --image_size=16

Trains a supernet by a recipe, reads its indicators and the losses of inherited paths, and compares
them with the accuracies of the trained networks: on one half of the networks, from which a choice
of signal may be made, and on the other half, which is for the report. Searches for the best network
under a cap of FLOPs. With --num_orders=2 each draw of the initial weights is trained twice, on the
images in another order: what two such runs agree on, beyond what two draws of the weights do, is a
matter of the draw, not of the structure.

On a GPU, the benchmark's own size on all of CIFAR-10:

    python -m experiments.fair_supernet --recipe=fair --channels=32 --dataset=cifar10:FOLDER \
        --train_batch=128 --epochs=30 --num_seeds=3
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import correlation, datasets
from jaxnas.benchmarks import MacroBenchmark, nasbench_macro
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.spaces import nasbench_macro as space_of
from jaxnas.spaces.mobilenetv2 import BoundNetwork, SearchedNetwork
from jaxnas.supernet import Supernet, indicators, inherited, parameters, recipes, sampling, train
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
_NUM_ORDERS = flags.DEFINE_integer("num_orders", 1, "Runs of each draw of the weights.", 1)
_CAP = flags.DEFINE_float(
    "flops_quantile", 0.5, "Cap of FLOPs: this quantile of the space's.", 0, 1
)

flags.adopt_module_key_flags(common)


class Run(NamedTuple):
    """A trained supernet.

    Attributes:
        seed: of the weights.
        order: of the images.
        read: its indicators.
        signals: scores `[N]` of the networks that are compared, by name.
        supernet: see `Supernet`.
    """

    seed: int
    order: int
    read: indicators.Indicators
    signals: dict[str, np.ndarray]
    supernet: Supernet


def main() -> None:
    """Train, read and compare."""
    own = common.setting(_space)
    recipe = _recipe()
    benchmark = nasbench_macro()
    rng = np.random.default_rng(0)  # the halves are the same for all runs
    rows = rng.permutation(len(benchmark.archs))[: _NUM_INHERITED.value]
    with common.run_folder(f"fair_supernet_{recipe.name}") as (folder, meter):
        runs = [
            _run(own, recipe, benchmark.archs[rows], folder, seed, order)
            for seed in own.seeds
            for order in range(_NUM_ORDERS.value)
        ]
    half = len(rows) // 2
    halves = {"chosen on": slice(0, half), "reported on": slice(half, None)}
    tables = [_correlations(name, benchmark, rows, runs, at, recipe) for name, at in halves.items()]
    table = pd.concat(tables, ignore_index=True)
    found = _searches(benchmark, rows, runs, recipe)
    parts: list[Text | Table | Plot] = [
        Text("The outcome", _verdict(table, found, recipe, runs)),
        Table("Rank correlations", table, _CORRELATIONS_NOTE),
        Table("Search under a cap of FLOPs", found, _SEARCH_NOTE),
        Table("Agreement of block indicators", _agreement(runs), _AGREEMENT_NOTE),
        Table("Indicators of the first run", _shown(runs[0].read), "Block indicators by layer."),
        _curve(runs),
    ]
    summary: dict[str, Any] = {
        f"spearman_{row['signal']}": row["spearman"]
        for row in table[table["half"] == "reported on"].to_dict("records")
    }
    summary |= {f"percentile_{row['by']}": row["percentile"] for row in found.to_dict("records")}
    report = Report(f"A supernet of NAS-Bench-Macro, {recipe.name}", _describe(own, recipe), parts)
    common.finish(folder, meter, report, summary)


_CORRELATIONS_NOTE = (
    "Spearman with the accuracy of the trained networks, mean and standard deviation over runs; "
    "low and high: 95 % bootstrap interval over networks, of the mean of the scores of all runs; "
    "partial: given log FLOPs, of that mean. The signal of the recipe is marked *."
)
_SEARCH_NOTE = (
    "Of the networks that are compared and cost no more: the one with the best mean score; "
    "percentile: share of those networks that are less accurate. random: the mean of them."
)
_AGREEMENT_NOTE = (
    "Kendall's tau between the block indicators of two runs, mean over layers and pairs of runs; 0 "
    "is chance. Identities have no indicator and do not count."
)


def _space(*, channels: int, cells: int, norm: str, **options: Any) -> SearchSpace:
    bypass = _recipe().bypass
    return space_of(channels=channels, head=40 * channels, norm="batch", bypass=bypass, **options)


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


def _module(own: common.Setting) -> SearchedNetwork:
    images = own.batch(own.seeds[0]).inputs
    arch = np.zeros(len(own.space.num_choices), np.int32)
    network, _ = own.space.bind(arch, own.space.init(jax.random.key(0), images))
    assert isinstance(network, BoundNetwork)
    return network.module


def _run(
    own: common.Setting, recipe: Recipe, archs: np.ndarray, folder: Path, seed: int, order: int
) -> Run:
    module = _module(own)
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
    found = inherited(module, supernet.params, archs, images[held_out], dataset.y_train[held_out])
    signals = {"inherited loss": -found.loss, "inherited accuracy": found.accuracy}
    for mode in recipes.modes(recipe):
        signals[f"indicators, {mode}"] = indicators.score(indicators.score_table(read, mode), archs)
    return Run(seed, order, read, signals, supernet)


def _correlations(
    name: str,
    benchmark: MacroBenchmark,
    rows: np.ndarray,
    runs: list[Run],
    at: slice,
    recipe: Recipe,
) -> pd.DataFrame:
    rows = rows[at]
    accuracy = benchmark.columns["accuracy"][rows]
    flops = benchmark.flops[rows].astype(float)
    signals = {own: np.stack([run.signals[own][at] for run in runs]) for own in runs[0].signals}
    signals |= {
        "FLOPs": flops[None],
        "#params": benchmark.params[rows][None].astype(float),
        "random": np.random.default_rng(common.seed()).random((1, len(rows))),
    }
    table = []
    for signal, scores in signals.items():
        mean = scores.mean(0)
        each = [correlation.spearman(own, accuracy) for own in scores]
        low, high = correlation.bootstrap_interval(correlation.spearman, mean, accuracy)
        row: dict[str, Any] = {
            "half": name,
            "signal": signal + (" *" if signal == recipe.signal else ""),
            "spearman": np.mean(each),
            "sd": np.std(each, ddof=1) if len(each) > 1 else np.nan,
            "mean of runs": correlation.spearman(mean, accuracy),
            "low": low,
            "high": high,
            "partial | FLOPs": np.nan,
            "ties": correlation.ties(mean),
        }
        if signal != "FLOPs":
            row["partial | FLOPs"] = correlation.partial_spearman(mean, accuracy, np.log(flops))
        table.append(row)
    return pd.DataFrame(table)


def _searches(
    benchmark: MacroBenchmark, rows: np.ndarray, runs: list[Run], recipe: Recipe
) -> pd.DataFrame:
    accuracy, flops = benchmark.columns["accuracy"][rows], benchmark.flops[rows].astype(float)
    cap = np.quantile(benchmark.flops, _CAP.value)
    legal = flops <= cap
    if not legal.any():
        raise ValueError(
            f"No network that is compared costs {cap:.3g} FLOPs or less: raise --flops_quantile or "
            "--num_inherited."
        )
    by = {"FLOPs-max": flops} | {
        name: np.mean([run.signals[name] for run in runs], 0) for name in runs[0].signals
    }
    table = []
    for name, scores in by.items():
        best = np.flatnonzero(legal)[scores[legal].argmax()]
        table.append(
            {
                "by": name + (" *" if name == recipe.signal else ""),
                "network": "".join(map(str, benchmark.archs[rows[best]])),
                "accuracy %": accuracy[best],
                "percentile": 100 * (accuracy[legal] < accuracy[best]).mean(),
                "MFLOPs": flops[best] / 1e6,
            }
        )
    table.append({"by": "random", "accuracy %": accuracy[legal].mean(), "percentile": 50.0})
    table.append({"by": "best", "accuracy %": accuracy[legal].max(), "percentile": 100.0})
    return pd.DataFrame(table)


def _agreement(runs: list[Run]) -> pd.DataFrame:
    taus: dict[str, list[float]] = {"same weights, other order": [], "other weights": []}
    for first, second in itertools.combinations(runs, 2):
        kind = "same weights, other order" if first.seed == second.seed else "other weights"
        by_layer = []
        for left, right, alone in zip(
            first.read.block, second.read.block, first.read.is_identity, strict=True
        ):
            present = np.isfinite(left) & ~alone
            if present.sum() > 1:
                by_layer.append(correlation.kendall(left[present], right[present]))
        taus[kind].append(float(np.nanmean(by_layer)))
    return pd.DataFrame(
        {
            "pairs of runs": kind,
            "pairs": len(own),
            "Kendall's tau": np.mean(own) if own else np.nan,
            "sd": np.std(own, ddof=1) if len(own) > 1 else np.nan,
        }
        for kind, own in taus.items()
    )


def _shown(read: indicators.Indicators) -> pd.DataFrame:
    table = pd.DataFrame(read.block, columns=["identity", "k3 e3", "k5 e6"])
    table.insert(0, "layer", range(len(table)))
    return table.assign(bypass=read.layer)


def _curve(runs: list[Run]) -> Plot:
    curves = {
        f"seed {run.seed}, order {run.order}": pd.Series(
            [own.loss for own in run.supernet.history],
            index=[own.step for own in run.supernet.history],
        )
        for run in runs[:8]
    }
    return Plot(
        "Training",
        figures.curves(curves, x="step", y="loss (nats)"),
        "Mean loss of the paths, label smoothing included.",
    )


def _verdict(table: pd.DataFrame, found: pd.DataFrame, recipe: Recipe, runs: list[Run]) -> str:
    own = table[table["half"] == "reported on"].set_index("signal")
    marked = f"{recipe.signal} *"
    spearman = own["spearman"].to_dict()
    given_flops = own["partial | FLOPs"].to_dict()[marked]
    place = found.set_index("by")["percentile"].to_dict()[marked]
    return (
        f"{recipe.signal} of {len(runs)} run(s) ranks the networks of the half that is reported on "
        f"with Spearman {spearman[marked]:.2f} (FLOPs {spearman['FLOPs']:.2f}, #params "
        f"{spearman['#params']:.2f}), {given_flops:.2f} given log FLOPs. The network that it finds "
        f"under the cap is better than {place:.1f} % of those that are legal."
    )


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
