r"""Rank and search networks without training any: `jaxnas rank`, `search`, `report`, `run`.

    jaxnas                                        ranks 24 random NAS-Bench-201 cells
    jaxnas rank --archs=cells.txt --by=panel      ranks the cells of a file, one a line
    jaxnas search --by=panel                      scores the whole space and reports the best
    jaxnas search --space=darts --strategy=regularized_evolution --evaluations=200 \
        --caps=params=1e6 --data=npz:images.npz
    jaxnas report --output_dir=results/search_nasbench201  shows what a folder holds
    jaxnas run halving --check                    runs an experiment; `jaxnas run` lists them

Networks are scored on real CIFAR-10 images that come with the package, or on yours (--data). Scores
of a search are stored as they come, and those of rank with --output_dir: the same command goes on
where it was interrupted. `jaxnas search --help` has the flags of one command.
"""

import ast
import functools
import importlib.util
import inspect
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from jaxnas import benchmarks, correlation, datasets, finder, spaces
from jaxnas.launch import keep_programs, launch, say
from jaxnas.proxies import BY_NAME, aggregate
from jaxnas.runs import (
    Part,
    Plot,
    Report,
    ScoreStore,
    Table,
    Text,
    figures,
    run_context,
    save,
    to_text,
)
from jaxnas.runs.files import write_whole
from jaxnas.scorer import Scorer, Scores
from jaxnas.script import training_script
from jaxnas.search import sample_distinct
from jaxnas.types import SearchSpace

_SPACE = flags.DEFINE_enum("space", "nasbench201", tuple(spaces.BY_NAME), "Search space.")
_OPTIONS = flags.DEFINE_list(
    "options", [], "Options of the search space, such as channels=16,cells=5,norm=instance."
)
_BY = flags.DEFINE_list(
    "by",
    ["panel", "pair"],
    f"Scores; the first one ranks. Of {', '.join([*aggregate.RECIPES, *BY_NAME])}.",
)
_DATA = flags.DEFINE_string(
    "data", "cifar10-sample", f"Images to score on: {', '.join(datasets.FORMS)}."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images for each score.", lower_bound=1)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 16, "Side in pixels to which images are resized; 0 keeps that of the data.", 0
)
_SEED = flags.DEFINE_integer("seed", 0, "Random seed.", lower_bound=0)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 1, "Draws of weights and images for each score.", lower_bound=1
)
_PLAN = flags.DEFINE_enum(
    "plan", "auto", ("auto", "eager", "compiled"), "How networks run; auto suits the device."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of scores and report. [of search: results/search_SPACE]"
)
_ARCHS = flags.DEFINE_string(
    "archs", None, "Text file of architectures in the notation of the space, one a line."
)
_NUM_ARCHS = flags.DEFINE_integer(
    "num_archs", 24, "Number of random architectures, without --archs.", lower_bound=3
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    None,
    finder.STRATEGIES,
    "Strategy. [exhaustive for a space of at most 20,000, else regularized_evolution]",
)
_EVALUATIONS = flags.DEFINE_integer(
    "evaluations", None, "Number of architectures to score. [100]", lower_bound=1
)
_CAPS = flags.DEFINE_list(
    "caps", [], "Largest allowed costs, such as params=1e6,flops=2e7,latency_ms=5."
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/jaxnas/xla",
    "Folder where compiled programs are kept between runs; empty for none.",
)
_SMALL = 20_000
_FIRST = (1, 3, 10)


def rank() -> None:
    """Rank architectures of a file, or random ones."""
    space = _space()
    if _ARCHS.value is None:
        key, count = jax.random.key(_SEED.value), _NUM_ARCHS.value
        # Where not all decisions make a network of the space, of four times as many enough do.
        drawn = sample_distinct(key, space.num_choices, 4 * count if space.is_legal else count)
        archs = space.legal(np.asarray(drawn))[:count]
    else:
        lines = Path(_ARCHS.value).read_text(encoding="utf-8").split("\n")
        archs = np.array([space.from_string(line.strip()) for line in lines if line.strip()])
    scores = _scorer(space, _OUTPUT_DIR.value)(archs)
    accuracy = benchmarks.accuracy_of(space.name, archs)
    frame, order = scores.to_frame(), scores.order()
    parts: list[Part] = []
    if accuracy is not None and len(archs) > 2:
        label = _accuracy_label(space)
        frame.insert(1, label, accuracy)
        agreement = ", ".join(
            f"{name} {correlation.spearman(values, accuracy):.2f}"
            for name, values in frame.drop(columns=["arch", label, "missing"]).items()
        )
        parts = [
            Text(
                "How well the order agrees with training",
                f"Spearman's correlation with the accuracy that the benchmark reached ({label}): "
                f"{agreement}. With {len(archs)} networks that is uncertain by about "
                f"{1.96 / np.sqrt(len(archs)):.1f}.",
            )
        ]
    heading = f"Ranked by {_BY.value[0]}, larger is better"
    ranked = finder.ranking(heading, frame.iloc[order], scores)
    best = finder.winner(space, scores.top(1)[0])
    shown = finder.picture(scores) if accuracy is None else _picture(scores, accuracy)
    title = "jaxnas: networks ranked without training"
    report = Report(title, _subtitle(space), [shown, best, ranked, *parts])
    _finish(report, _OUTPUT_DIR.value)


def search() -> None:
    """Search a space, and report the best."""
    space = _space()
    size = np.prod([float(count) for count in space.num_choices])
    strategy = _STRATEGY.value or (
        "exhaustive" if size <= _SMALL and not _EVALUATIONS.value else "regularized_evolution"
    )
    folder = _OUTPUT_DIR.value or f"results/search_{space.name}"
    found = finder.find(
        _scorer(space, folder),
        strategy,
        evaluations=_EVALUATIONS.value,
        seed=_SEED.value,
        caps={name: float(value) for name, value in _pairs("caps", _CAPS.value).items()},
    )
    report = found.as_report()
    accuracy = benchmarks.accuracy_of(space.name, found.scores.archs)
    if accuracy is not None:
        _, best, *rest = report.parts
        parts = [_picture(found.scores, accuracy), best, _against(found, accuracy), *rest]
        report = report._replace(parts=parts)
    _finish(report._replace(subtitle=f"{_subtitle(space)} Strategy: {strategy}."), folder)
    try:
        text = training_script(space, found.best, _DATA.value)
    except ValueError:  # a layout of one's own has a model, and no name that makes it again
        return
    path = Path(folder) / "train.py"
    write_whole(path, text.encode())
    say(f"To train the best: {path}")


def report() -> None:
    """Show what the store of a folder holds."""
    if _OUTPUT_DIR.value is None:
        raise ValueError("A report needs the folder of a run: got none; name it in --output_dir.")
    path = Path(_OUTPUT_DIR.value) / "scores.sqlite"
    if not path.is_file():
        raise ValueError(f"A folder of a run holds scores.sqlite: got none in {path.parent}.")
    parts: list[Part] = []
    with ScoreStore(path) as store:
        for run, context in store.contexts().items():
            means = store.frame(run).pivot_table("score", "arch", "proxy", sort=False)
            if means.empty:  # a run that was killed before its first score
                continue
            first, *others = means.columns
            best = means.sort_values(first, ascending=False, kind="stable").head(20)
            seconds = store.cpu_seconds(run)
            note = f"{len(means)} architectures, {seconds:.0f} CPU seconds. Setting: {context}."
            title = f"{context.get('space', 'scores')}: the best by {first}"
            parts.append(Table(title, best.reset_index(), note))
            if others:
                title = f"{context.get('space', 'scores')}: {first} and {others[0]}"
                picture = figures.score_versus_cost(
                    *(means[first], means[others[0]]), score_name=first, cost_name=others[0]
                )
                described = f"{first} over {others[0]} of each architecture."
                parts.append(Plot(title, picture, described, names=[*means.index]))
    found = Report(f"Scores in {path}", "Means over seeds.", parts).picture_first()
    page = save(found, path.parent, name="scores")
    say(f"{to_text(found)}\nPage: {page}")


COMMANDS: dict[str, Callable[[], None]] = {"rank": rank, "search": search, "report": report}

_SCORING = (
    *("space", "options", "by", "data", "batch_size", "image_size", "seed", "num_seeds", "plan"),
    *("output_dir", "compilation_cache"),
)
READS = {
    "rank": {*_SCORING, "archs", "num_archs"},
    "search": {*_SCORING, "strategy", "evaluations", "caps"},
    "report": {"output_dir", "compilation_cache"},
}
"""The flags of each command."""
_EVERY_FLAG = frozenset[str]().union(*READS.values())


@functools.cache
def _data() -> datasets.Dataset:
    return datasets.load(_DATA.value)


def _space() -> SearchSpace:
    """Return the space, for the classes and colors of the data, with the options of the flag."""
    factory: Callable[..., SearchSpace] = spaces.BY_NAME[_SPACE.value]
    data = _data()
    options: dict[str, Any] = {
        "classes": data.num_classes,
        "colors": data.x_train.shape[-1],
        **_pairs("options", _OPTIONS.value),
    }
    known = inspect.signature(factory).parameters
    unknown = options.keys() - known.keys()
    if unknown:
        raise ValueError(
            f"{_SPACE.value} has the options {', '.join(known)}: got {', '.join(sorted(unknown))}."
        )
    return factory(**options)


def _pairs(flag: str, given: list[str]) -> dict[str, Any]:
    """Return `name=value` as names and values, whole numbers as such."""
    pairs: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--{flag} has the form name=value: got {pair!r}.")
        pairs[name] = int(value) if value.lstrip("-").isdigit() else value
    return pairs


def _scorer(space: SearchSpace, folder: str | None) -> Scorer:
    data = _data()

    def batch(seed: int) -> Any:
        size = _IMAGE_SIZE.value or None
        return datasets.batch(data, _BATCH_SIZE.value, seed=seed, image_size=size)

    return Scorer(
        *(space, batch, _BY.value),
        seeds=range(_SEED.value, _SEED.value + _NUM_SEEDS.value),
        store=None if folder is None else Path(folder) / "scores.sqlite",
        context=run_context(
            data=datasets.digest(data), batch_size=_BATCH_SIZE.value, image_size=_IMAGE_SIZE.value
        ),
        plan=_PLAN.value,
    )


def _subtitle(space: SearchSpace) -> str:
    options = ", ".join(f"{name}={value}" for name, value in space.options.items())
    pixels = f"{_IMAGE_SIZE.value} pixels" if _IMAGE_SIZE.value else "their size"
    return (
        f"{space.name} ({options}); {_DATA.value}, {_BATCH_SIZE.value} images of {pixels}, "
        f"{_NUM_SEEDS.value} draw(s) of weights and images from seed {_SEED.value}."
    )


def _accuracy_label(space: SearchSpace) -> str:
    """Return what a benchmark's accuracies are of, whichever data networks are scored on."""
    return f"{benchmarks.BY_SPACE[space.name]().target} %"


def _picture(scores: Scores, accuracy: np.ndarray) -> Plot:
    """Return the first score beside the accuracy that training reached."""
    first, best = scores.first, scores.order()[:20].tolist()
    figure = figures.score_versus_accuracy(
        *(scores.mean(first), accuracy),
        score_name=first,
        accuracy_name=f"accuracy that the benchmark reached ({_accuracy_label(scores.space)})",
        highlight=best,
    )
    return Plot(
        "The score and the accuracy",
        figure,
        f"Accuracy of {len(accuracy)} networks over {first}; the best {len(best)} are ringed.",
        names=[scores.space.to_string(arch) for arch in scores.archs],
    )


def _against(found: finder.Found, accuracy: np.ndarray) -> Table:
    """Return the best accuracy among the first k of the score, of #params, and of chance."""
    scores = found.scores
    params = np.array([found.space.num_params(arch) for arch in scores.archs], float)
    rng = np.random.default_rng(_SEED.value)
    draws = [rng.permutation(len(accuracy)) for _ in range(1000)]
    ranked = {name: scores.order(name) for name in scores.scores}
    orders = ranked | {"#params": np.argsort(-params, kind="stable")}
    first = [k for k in _FIRST if k <= len(accuracy)]
    rows = [
        {"by": name, **{f"best of {k} %": accuracy[order[:k]].max() for k in first}}
        for name, order in orders.items()
    ]
    chance = {f"best of {k} %": np.mean([accuracy[d[:k]].max() for d in draws]) for k in first}
    rows += [{"by": "random, mean of 1,000 draws", **chance}]
    rows += [{"by": "the best there is", **{f"best of {k} %": accuracy.max() for k in first}}]
    return Table(
        "What training says",
        pd.DataFrame(rows),
        f"Accuracy that the benchmark reached ({_accuracy_label(found.space)}): the best among the "
        "first k by each order.",
    )


def _finish(report: Report, folder: str | None) -> None:
    page = "" if folder is None else f"\nReport: {save(report, folder)}"
    say(f"{to_text(report)}{page}")


def _experiments() -> dict[str, str]:
    """Return the first line of each experiment, by its name."""
    spec = importlib.util.find_spec("experiments")
    found = {}
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "launch(main)" in text:
                found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n", 1)[0]
    return found


def run_experiment() -> None:
    """Run an experiment as `python -m experiments.NAME` does, or list them all."""
    found = _experiments()
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        say("\n".join(f"jaxnas run {name:22} {line}" for name, line in found.items()))
        return
    name = sys.argv.pop(1)
    if name not in found:
        raise SystemExit(f"error: Unknown experiment {name!r}: use {', '.join(found)}.")
    for flag in _EVERY_FLAG:  # it has flags of these names
        delattr(flags.FLAGS, flag)
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


def main() -> None:
    """Run a command of the command line."""
    named = len(sys.argv) > 1 and not sys.argv[1].startswith("-")
    name = sys.argv.pop(1) if named else "rank"
    if name == "run":
        run_experiment()
        return
    if name not in COMMANDS:
        raise SystemExit(f"error: Unknown command {name!r}: use {', '.join(COMMANDS)}, run.")
    # A command has its flags alone; without a command, --help shows all.
    for other in _EVERY_FLAG - READS[name] if named or "--help" not in sys.argv else ():
        delattr(flags.FLAGS, other)
    # A console script is another module; its --help is that of this one.
    sys.modules["__main__"].__doc__ = __doc__
    for flag in flags.FLAGS.flags_by_module_dict().get(__name__, ()):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def run() -> None:
        keep_programs(_COMPILATION_CACHE.value)
        COMMANDS[name]()

    launch(run)


if __name__ == "__main__":
    main()
