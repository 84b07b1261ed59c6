"""What every experiment shares: its flags, the space and data they name, and the run folder."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from absl import flags
from jax.typing import ArrayLike

from jaxnas import correlation, datasets, processes, proxies, spaces
from jaxnas.benchmarks import TabularBenchmark, nasbench201
from jaxnas.launch import keep_programs, say
from jaxnas.network import normalization
from jaxnas.runs import (
    Meter,
    Part,
    Plot,
    Report,
    Table,
    correlation_table,
    figures,
    run_context,
    save,
    to_text,
    write_summary,
)
from jaxnas.runs.files import output_folder
from jaxnas.scorer import Scorer, Scores
from jaxnas.search import sample_distinct
from jaxnas.spaces.nasbench201_space import equivalence
from jaxnas.types import Batch, ScoreFn, SearchSpace

_SEED = flags.DEFINE_integer("seed", 0, "Random seed.", lower_bound=0)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder of the results. A run that finds results there continues. [results/NAME]",
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 2, "Number of draws of weights and images for each score.", lower_bound=1
)
_DATASET = flags.DEFINE_string(
    "dataset", "cifar10-sample", f"Images to score on: {', '.join(datasets.FORMS)}."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 50, "Number of images for each score.", lower_bound=1
)
_CLASS_BALANCED = flags.DEFINE_bool(
    "class_balanced",
    True,
    "Take equally many images of each class, instead of a purely random batch.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Side of the images in pixels, divisible by 4. [that of the data set]"
)
_CHANNELS = flags.DEFINE_integer(
    "channels", 16, "Number of channels of the first stage.", lower_bound=1
)
_CELLS = flags.DEFINE_integer("cells", 5, "Number of cells in each stage.", lower_bound=1)
_NORM = flags.DEFINE_enum(
    "norm",
    "instance",
    normalization.MODES,
    "Normalization mode of the networks while they are scored.",
)
_PLAN = flags.DEFINE_enum(
    "plan",
    "auto",
    ("auto", "eager", "compiled"),
    "Plan that runs the networks. auto is eager on a CPU and compiled elsewhere.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes, or auto on a cluster."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes that share the work."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process among them, from 0.")
_DEDUPLICATE = flags.DEFINE_bool(
    "deduplicate", True, "Score architectures that are the same function only once."
)
_TRACK_ENERGY = flags.DEFINE_bool(
    "track_energy", False, "Measure the energy used, with codecarbon."
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/jaxnas/xla",
    "Folder that keeps compiled programs between runs. Empty for none.",
)

flags.disclaim_key_flags()  # from here on, flags belong to the experiment that asks for them

IMAGES = ("dataset", "image_size")
"""The flags of the images."""
BATCHES = (*IMAGES, "num_seeds", "batch_size", "class_balanced")
"""The flags of `Setting.batch` and `Setting.seeds`."""
SCORES = (*BATCHES, "channels", "cells", "norm", "plan", "deduplicate")
"""The flags of `score`."""
PROCESSES = ("coordinator", "num_processes", "process_id")
"""The flags of experiments whose processes share the work."""
SCORE_NAMES = (*proxies.BY_NAME, *proxies.aggregate.RECIPES)
"""What may be named where a pool is scored."""
_ALWAYS = ("seed", "output_dir", "track_energy", "compilation_cache")


def reads(*names: str) -> None:
    """Say which of the shared flags an experiment reads, at the top of its module.

    Any other one is an error where it is given, and is neither in --help nor in the summary.

    Args:
        names: of the flags, besides those that every experiment reads.
    """
    for name in (*_ALWAYS, *names):
        flags.declare_key_flag(name)


def refuse(*names: str, because: str) -> None:
    """Raise `ValueError` if one of these flags is given.

    Args:
        names: of flags that are not read.
        because: why they are not, in half a sentence.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(
                f"This run does not read --{name}, because {because}: got "
                f"{flags.FLAGS[name].value}; leave it out."
            )


def _read_flags() -> list[str]:
    """Return the names of the flags that the experiment which runs has, or says that it reads."""
    return [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]


def _refuse_unread() -> None:
    shared = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[__name__]]
    unread = sorted(set(shared) - set(_read_flags()))
    refuse(*unread, because="the experiment has no use for it (--help says what it reads)")


def define_proxies(default: list[str]) -> flags.FlagHolder[list[str]]:
    """Define the flag that names the scores of an experiment, aggregates among them."""
    return flags.DEFINE_list("proxies", default, f"Scores to compute, of {', '.join(SCORE_NAMES)}.")


class Setting(NamedTuple):
    """What the flags name.

    Attributes:
        space: the search space, for the classes of the data.
        dataset: the images.
        batch: `batch(seed)`: the normalized examples of a seed.
        seeds: of weights and images.
        image_size: side of the images in pixels.
        context: what else determines a score, for the store.
    """

    space: SearchSpace
    dataset: datasets.Dataset
    batch: Callable[[int], Batch]
    seeds: tuple[int, ...]
    image_size: int
    context: dict[str, Any]


def setting(factory: Callable[..., SearchSpace] = spaces.nasbench201) -> Setting:
    """Return what the flags name; raises `ValueError` for what does not exist or fit.

    Args:
        factory: of the space, given `channels`, `cells`, `classes`, `colors` and `norm`.
    """
    _refuse_unread()
    processes.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    dataset = datasets.load(_DATASET.value)
    space = factory(
        channels=_CHANNELS.value,
        cells=_CELLS.value,
        classes=dataset.num_classes,
        colors=dataset.x_train.shape[-1],
        norm=_NORM.value,
    )
    image_size = _IMAGE_SIZE.value or dataset.x_train.shape[1]
    context = run_context(
        data=datasets.digest(dataset),
        batch_size=_BATCH_SIZE.value,
        class_balanced=_CLASS_BALANCED.value,
        image_size=image_size,
    )
    batch = _batches(dataset, _BATCH_SIZE.value, image_size)
    return Setting(space, dataset, batch, seeds(), image_size, context)


def with_images(setting: Setting, batch_size: int, image_size: int) -> Setting:
    """Return the setting with other images: the first `batch_size` of the same draws, resized."""
    return setting._replace(
        batch=_batches(setting.dataset, batch_size, image_size),
        image_size=image_size,
        context=setting.context | {"batch_size": batch_size, "image_size": image_size},
    )


def _batches(dataset: datasets.Dataset, size: int, image_size: int) -> Callable[[int], Batch]:
    return lambda seed: datasets.batch(
        dataset, size, seed=seed, image_size=image_size, class_balanced=_CLASS_BALANCED.value
    )


def score(setting: Setting, archs: ArrayLike, names: list[str], folder: Path) -> Scores:
    """Return the scores of `archs`, from the store of the run where it holds them."""
    scorer = Scorer(
        *(setting.space, setting.batch, names),
        seeds=setting.seeds,
        store=folder / "scores.sqlite",
        context=setting.context,
        plan=_PLAN.value,
        deduplicate=_DEDUPLICATE.value,
    )
    with scorer:
        return scorer(archs)


def describe(setting: Setting) -> str:
    """Return the setting in words, for the subtitle of a report."""
    size = setting.image_size
    return (
        f"{setting.space.name} networks, C={_CHANNELS.value}, N={_CELLS.value}; {_DATASET.value}, "
        f"{_BATCH_SIZE.value} {'class-balanced' if _CLASS_BALANCED.value else 'random'} images of "
        f"{size}x{size} pixels, {_NORM.value} normalization, "
        f"{_NUM_SEEDS.value} draw(s) of weights and images from seed {_SEED.value}."
    )


def seed() -> int:
    """Return the seed of the run."""
    return int(_SEED.value)


def seeds() -> tuple[int, ...]:
    """Return the seeds of the draws, the seed of the run first."""
    return tuple(range(seed(), seed() + _NUM_SEEDS.value))


def draw(space: SearchSpace, count: int) -> np.ndarray:
    """Return `count` different architectures `int32[A, D]`, drawn by the seed of the run."""
    return np.asarray(sample_distinct(jax.random.key(seed()), space.num_choices, count))


def from_table(benchmark: TabularBenchmark) -> ScoreFn:
    """Return the look-up of CIFAR-10 validation accuracy after 12 epochs, in percent."""
    return lambda archs: benchmark.accuracy(archs, "cifar10/valid_12ep")


class Pool(NamedTuple):
    """A scored pool beside what is known of its networks.

    Attributes:
        benchmark: the trained accuracies.
        archs: `int32[A, 6]`.
        scored: the scores.
    """

    benchmark: TabularBenchmark
    archs: np.ndarray
    scored: Scores

    @property
    def params(self) -> np.ndarray:
        """The number of parameters of the benchmark's networks, `[A]`."""
        return self.benchmark.params[self.benchmark.index(self.archs)]

    @property
    def functions(self) -> np.ndarray:
        """The cell that stands for all that are the same function, `int32[A, 6]`."""
        return np.array([equivalence.representative(arch) for arch in self.archs])

    @property
    def live_params(self) -> np.ndarray:
        """The number of parameters that have a say in the output, `[A]`."""
        return np.array([spaces.nasbench201().num_params(cell) for cell in self.functions], float)

    @property
    def ranked(self) -> dict[str, np.ndarray]:
        """All scores `[S, A]` by name, the controls first."""
        random = np.random.default_rng(_SEED.value).random((1, len(self.archs)))
        counted = {"#params": self.params[None].astype(float), "#live": self.live_params[None]}
        return counted | {"random": random} | self.scored.scores


def draw_pool(setting: Setting, size: int, names: list[str], folder: Path) -> Pool:
    """Return `size` different cells of NAS-Bench-201, drawn by the seed of the run and scored."""
    archs = draw(setting.space, size)
    return Pool(nasbench201(), archs, score(setting, archs, names, folder))


CONTROLS = ("#params", "#live", "flops", "depth", "width", "random")
"""Scores that know nothing of what a network computes; pictures show them grey."""

_RANKING_NOTE = (
    "Of the mean over seeds. low and high: 95 % bootstrap interval of Spearman's correlation over "
    "functions, for which networks that are the same one are drawn together; sd of seeds: of that "
    "of single seeds; seed to seed: Spearman between two seeds; best tenth: Spearman among the "
    "most accurate tenth of the pool alone; above the first: share of the pool that is more "
    "accurate than what the score puts first. #live: parameters of the cell without what has no "
    "say in its output. partial: Spearman given log #params. ties: cells that "
    "share their score."
)


def ranking(
    ranked: Mapping[str, np.ndarray],
    accuracies: np.ndarray | Mapping[str, np.ndarray],
    functions: np.ndarray,
    *,
    what: str = "",
    k: int | None = None,
) -> tuple[list[Part], dict[str, float]]:
    """Return how well scores order accuracies: sections of a report, and lines of a summary.

    Args:
        ranked: scores `[S, A]` by name, "#params" among them.
        accuracies: `[A]`, or several by name.
        functions: `[A, D]`, the representative of each architecture; intervals are over these.
        what: the name of accuracies that are not several.
        k: that of the top-k recall; a tenth of the pool if None.
    """
    by_name = accuracies if isinstance(accuracies, Mapping) else {"": accuracies}
    params, k = ranked["#params"].mean(0), k or max(1, len(functions) // 10)
    table = pd.concat(
        _table(ranked, values, functions, params, k).assign(accuracy=of)
        for of, values in by_name.items()
    )
    order = {name: place for place, name in enumerate(ranked)}
    table = table.sort_values("score", key=lambda names: names.map(order), kind="stable")
    table.insert(1, "accuracy", table.pop("accuracy"))
    names = (table["score"] + "_" + table["accuracy"]).str.removesuffix("_")
    lines = dict(zip("spearman_" + names, table["spearman"], strict=True))
    first = next(iter(by_name))
    bars = figures.correlation_bars(table[table["accuracy"] == first], controls=CONTROLS)
    described = f"Spearman correlation with {what or first}, with 95 % bootstrap intervals."
    if not isinstance(accuracies, Mapping):
        del table["accuracy"]
    title = "Rank correlations"
    return [Table(title, table, _RANKING_NOTE), Plot(title, bars, described)], lines


def _table(
    ranked: Mapping[str, np.ndarray],
    accuracies: np.ndarray,
    functions: np.ndarray,
    params: np.ndarray,
    k: int,
) -> pd.DataFrame:
    """Return `runs.correlation_table` with what several draws and the best networks say."""
    means = {name: draws.mean(0) for name, draws in ranked.items()}
    table = correlation_table(
        means, accuracies, groups=functions, given={"#params": np.log(params)}
    )
    partial = table.pop("| #params")
    best, spearman = accuracies >= np.quantile(accuracies, 0.9), correlation.spearman
    more = pd.DataFrame(
        {
            "sd of seeds": pd.Series([spearman(one, accuracies) for one in draws]).std(
                skipna=False
            ),
            "seed to seed": correlation.seed_agreement(draws) if len(draws) > 1 else np.nan,
            "kendall": correlation.kendall(means[name], accuracies),
            "best tenth": spearman(means[name][best], accuracies[best]),
            "above the first %": 100 * np.mean(accuracies > accuracies[np.argmax(means[name])]),
            f"top-{k} recall": correlation.top_k_recall(means[name], accuracies, k),
            "partial | #params": partial[place],
            "ties": correlation.ties(means[name]),
        }
        for place, (name, draws) in enumerate(ranked.items())
    )
    return table.join(more)


def failures(scored: Scores) -> str:
    """Return how many scores are missing and why, in a sentence."""
    by_reason: dict[str, list[str]] = {}
    for name in scored.scores:
        for reason, count in scored.unscored(name).items():
            by_reason.setdefault(f"{count} {reason}", []).append(name)
    if not by_reason:
        return "Every network has every score."
    listed = "; ".join(
        reason if len(names) == len(scored.scores) else f"{reason} ({', '.join(names)})"
        for reason, names in by_reason.items()
    )
    draws = len(scored.seeds)
    return f"Without a score, ranked last, of all networks and {draws} draw(s): {listed}."


def plots(pool: Pool, data: str, kept: Sequence[int] | np.ndarray = ()) -> list[Plot]:
    """Return the scatter of the first score, and the recall curves of all.

    Args:
        pool: the scored pool.
        data: whose test accuracies are shown.
        kept: positions to ring.
    """
    accuracies, main = pool.benchmark.accuracy(pool.archs, data), pool.scored.first
    scatter = figures.score_versus_accuracy(
        pool.scored.mean(main),
        accuracies,
        score_name=main,
        accuracy_name=f"{data} test accuracy (%)",
        by_rank=True,
        highlight=list(kept),
    )
    names = [pool.scored.space.to_string(arch) for arch in pool.archs]
    ringed = f" The kept {len(kept)} are ringed." if len(kept) else ""
    means = {name: draws.mean(0) for name, draws in list(pool.ranked.items())[:8]}  # room for eight
    return [
        Plot(
            "Score versus accuracy",
            scatter,
            f"{data} test accuracy over {main}.{ringed}",
            names=names,
        ),
        Plot(
            "Top-k recall",
            figures.recall_curve(means, accuracies),
            "Share of the truly best k that are among the best k of each score.",
        ),
    ]


@contextlib.contextmanager
def run_folder(name: str) -> Iterator[tuple[Path, Meter]]:
    """Give the folder of the results and the meter that runs while the experiment does."""
    _refuse_unread()
    keep_programs(_COMPILATION_CACHE.value)
    folder = output_folder(_OUTPUT_DIR.value or Path("results") / name)
    with Meter(track_energy=_TRACK_ENERGY.value) as meter:
        yield folder, meter


def finish(folder: Path, meter: Meter, report: Report, figures: Mapping[str, Any]) -> None:
    """Write the report, its first picture on top, and the summary; print the report.

    Of several processes only the first does.
    """
    report = report.picture_first()
    if processes.shard()[0] > 0:
        return
    options = {name: flags.FLAGS[name].value for name in _read_flags()}
    page = save(report, folder)
    summary = write_summary(folder, figures, options, meter.usage)
    say(f"{to_text(report)}\nReport: {page}\nSummary: {summary}")
