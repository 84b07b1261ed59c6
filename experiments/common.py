"""What every experiment shares: its flags, the space and data they name, and the run folder."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.typing import ArrayLike

from jaxnas import correlation, datasets, pool, proxies, spaces
from jaxnas.runs import Meter, Report, ScoreStore, save, to_text, write_summary
from jaxnas.spaces import normalization
from jaxnas.types import Batch, SearchSpace

_SEED = flags.DEFINE_integer("seed", 0, "Of every random choice.", lower_bound=0)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of the results; a run that finds its own goes on. [results/NAME]"
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 2, "Draws of weights and images for each score.", lower_bound=1
)
_DATASET = flags.DEFINE_string(
    "dataset", "cifar10-sample", f"Images to score on: {', '.join(datasets.FORMS)}."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 50, "Images for each score.", lower_bound=1)
_CLASS_BALANCED = flags.DEFINE_bool(
    "class_balanced", True, "As many images of each class, instead of a purely random batch."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Side of the images in pixels, divisible by 4. [that of the data set]"
)
_CHANNELS = flags.DEFINE_integer("channels", 16, "Width of the first stage.", lower_bound=1)
_CELLS = flags.DEFINE_integer("cells", 5, "Cells in each stage.", lower_bound=1)
_NORM = flags.DEFINE_enum(
    "norm", "instance", normalization.MODES, "What normalisation does while scoring."
)
_PLAN = flags.DEFINE_enum(
    "plan", "auto", ("auto", "walk", "traced"), "How networks run: walk on CPU, traced elsewhere."
)
_TRACK_ENERGY = flags.DEFINE_bool("track_energy", False, "Measure energy with codecarbon.")
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/jaxnas/xla",
    "Folder where compiled programs are kept between runs; empty for none.",
)


def define_proxies(default: list[str]) -> flags.FlagHolder[list[str]]:
    """Define the flag that names the scores of an experiment."""
    return flags.DEFINE_list("proxies", default, f"Scores, of {', '.join(proxies.BY_NAME)}.")


class Setting(NamedTuple):
    """What the flags name.

    Attributes:
        space: the search space, for the classes of the data.
        dataset: the images.
        batch: `batch(seed)`: the normalised examples of a seed.
        seeds: of weights and images.
        context: what else determines a score, for the store.
    """

    space: SearchSpace
    dataset: datasets.Dataset
    batch: Callable[[int], Batch]
    seeds: tuple[int, ...]
    context: dict[str, Any]


def setting() -> Setting:
    """Return what the flags name; raises `ValueError` for what does not exist or fit."""
    dataset = datasets.load(_DATASET.value)
    space = spaces.nasbench201(
        channels=_CHANNELS.value,
        cells=_CELLS.value,
        classes=dataset.num_classes,
        norm=_NORM.value,
    )

    def batch(seed: int) -> Batch:
        return datasets.batch(
            dataset,
            _BATCH_SIZE.value,
            seed=seed,
            image_size=_IMAGE_SIZE.value,
            class_balanced=_CLASS_BALANCED.value,
        )

    context = pool.run_context(
        data=datasets.digest(dataset),
        batch_size=_BATCH_SIZE.value,
        class_balanced=_CLASS_BALANCED.value,
        image_size=_IMAGE_SIZE.value,
    )
    seeds = tuple(range(_SEED.value, _SEED.value + _NUM_SEEDS.value))
    return Setting(space, dataset, batch, seeds, context)


def score(own: Setting, archs: ArrayLike, names: list[str], folder: Path) -> pool.PoolScores:
    """Return the scores of `archs`, from the store of the run where it holds them."""
    with ScoreStore(folder / "scores.sqlite") as store:
        return pool.score_pool(
            own.space,
            archs,
            own.batch,
            names,
            store=store,
            context=own.context,
            seeds=own.seeds,
            plan=_PLAN.value,
        )


def describe() -> str:
    """Return the setting in words, for the subtitle of a report."""
    size = _IMAGE_SIZE.value or "full"
    return (
        f"NAS-Bench-201 networks, C={_CHANNELS.value}, N={_CELLS.value}; {_DATASET.value}, "
        f"{_BATCH_SIZE.value} {'class-balanced' if _CLASS_BALANCED.value else 'random'} images at "
        f"{size} size, {_NORM.value} normalisation, "
        f"{_NUM_SEEDS.value} draw(s) of weights and images from seed {_SEED.value}."
    )


def seed() -> int:
    """Return the seed of the run."""
    return int(_SEED.value)


def random_scores(num: int) -> np.ndarray:
    """Return the random control: `num` scores that know nothing."""
    return np.random.default_rng(_SEED.value).random(num)


def correlations_row(
    scores: np.ndarray, accuracies: ArrayLike, log_params: ArrayLike | None, k: int
) -> dict[str, float | int]:
    """Return how well one score orders the accuracies, as a row of a table.

    Args:
        scores: `[S, A]`, one draw a row; what is not about seeds is of their mean.
        accuracies: `[A]`.
        log_params: `[A]`, or None for #params itself.
        k: of the top-k recall.
    """
    mean = scores.mean(0)
    low, high = correlation.bootstrap_interval(correlation.spearman, mean, accuracies)
    by_seed = [correlation.spearman(own, accuracies) for own in scores]
    several = len(scores) > 1
    nothing = float("nan")
    return {
        "spearman": correlation.spearman(mean, accuracies),
        "low": low,
        "high": high,
        "sd of seeds": float(np.std(by_seed, ddof=1)) if several else nothing,
        "seed to seed": correlation.seed_agreement(scores) if several else nothing,
        "kendall": correlation.kendall(mean, accuracies),
        f"top-{k} recall": correlation.top_k_recall(mean, accuracies, k),
        "partial | #params": nothing
        if log_params is None
        else correlation.partial_spearman(mean, accuracies, log_params),
        "ties": correlation.ties(mean),
    }


def failures(scored: pool.PoolScores, names: list[str]) -> str:
    """Return how many scores are missing and why, in a sentence."""
    networks = [name for name in names if name != "params"]
    reasons = scored.unscored(networks[0]) if networks else {}
    if not reasons:
        return "Every network has a score."
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"Without a score, ranked last: {counted}."


@contextlib.contextmanager
def run_folder(name: str) -> Iterator[tuple[Path, Meter]]:
    """Give the folder of the results and the meter that runs while the experiment does."""
    if _COMPILATION_CACHE.value:
        cache = Path(_COMPILATION_CACHE.value).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folder = Path(_OUTPUT_DIR.value or Path("results") / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder cannot be made ({error.strerror}): got {folder}; "
            "name another --output_dir."
        ) from error
    with Meter(track_energy=_TRACK_ENERGY.value) as meter:
        yield folder, meter


def finish(folder: Path, meter: Meter, report: Report, figures: Mapping[str, Any]) -> None:
    """Write the report and the summary, print the report and say where it is."""
    options = {
        flag.name: flag.value
        for module, own in flags.FLAGS.flags_by_module_dict().items()
        for flag in own
        if "experiments" in module
    }
    page = save(report, folder)
    summary = write_summary(folder, figures, options, meter.usage)
    print(to_text(report))
    print(f"Report: {page}\nSummary: {summary}")
