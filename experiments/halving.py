r"""A race over NAS-Bench-201: a cheap score thins the pool out, the full one decides.

    python -m experiments.halving --check --output_dir=results/halving

Samples 300 cells and scores them all on few small images; only the best share of them is scored in
full, on --batch_size images of --image_size pixels. --rungs names the cheap rungs, from the first
to the last: `8@16:4%,16@32:10` scores on 8 images of 16 pixels and keeps 4 %, then on 16 images of
32 pixels and keeps 10 cells. --check also scores everything in full, to say which share of the best
cells reached the last rung and what the race cost beside it.

All rungs share their draws of weights, and a small batch is the beginning of the large one. That is
how a race is run, and what its recall is about: how well it stands in for the full score of the
same draws. It is not how well another draw would agree; with --fresh_draws each rung has weights
and images of its own, and the recall pays for that noise too. Costs are CPU seconds of this
process, compilation included. The check comes last and finds the programs of the last rung
compiled, so the share of the cost errs against the race.

With --num_archs=1000 --seed=1 --num_seeds=1 --rungs=8@16:5% that took 3 minutes: all of the top 1 %
reached the last rung, for 20.4 % of the cost.
"""

import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import scipy.stats
from absl import flags

from experiments import common
from jaxnas import proxies
from jaxnas.benchmarks import nasbench201
from jaxnas.benchmarks.tabular import DATASETS
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.scorer import Scores
from jaxnas.search import HalvingResult, Rung, sample_distinct, successive_halving
from jaxnas.spaces.nasbench201 import cell

_PROXY = flags.DEFINE_string(
    "proxy", "grad_norm", f"Score to race by, of {', '.join(common.SCORE_NAMES)}."
)
_NUM_ARCHS = flags.DEFINE_integer("num_archs", 300, "Number of cells to race.", 2, 15625)
_RUNGS = flags.DEFINE_list(
    "rungs",
    ["8@16:4%"],
    "Rungs below the full score: IMAGES@PIXELS:KEPT. KEPT is a count or a percentage.",
)
_CHECK = flags.DEFINE_bool(
    "check", False, "Score all cells in full too, for the recall and the cost."
)
_FRESH_DRAWS = flags.DEFINE_bool(
    "fresh_draws", False, "Draw weights and images anew for each rung, instead of sharing them."
)
_RUNG = re.compile(r"([0-9]+)@([0-9]+):([0-9]+|[0-9]+(?:\.[0-9]+)?%)")
_TOPS: dict[str, Callable[[int], int]] = {
    "top 1 %": lambda num: math.ceil(num / 100),
    "top 10": lambda num: min(10, num),
    "top 5 %": lambda num: math.ceil(num / 20),
}

common.reads(*common.SCORES, *common.PROCESSES)


class Fidelity(NamedTuple):
    """How closely a rung looks.

    Attributes:
        name: images@pixels.
        setting: with the images of the rung.
        keep: as in `Rung`.
    """

    name: str
    setting: common.Setting
    keep: int | float


class Race(NamedTuple):
    """A race that was run.

    Attributes:
        proxy: name of the score.
        archs: `int32[A, 6]`.
        ladder: the fidelity of each rung; the last is full.
        result: who reached what.
        scored: the scores of each rung, of those that reached it.
        full: the full scores of everything, or None where they were not asked for.
    """

    proxy: str
    archs: np.ndarray
    ladder: list[Fidelity]
    result: HalvingResult
    scored: list[Scores]
    full: Scores | None

    @property
    def params(self) -> np.ndarray:
        """The number of parameters of the benchmark's networks, `[A]`."""
        return nasbench201().params[nasbench201().index(self.archs)]

    @property
    def cpu_seconds(self) -> float:
        """What all rungs cost."""
        return sum(scored.cpu_seconds for scored in self.scored)


def main() -> None:
    """Race and report."""
    (proxy,) = proxies.expand(_PROXY.value).names
    full = common.setting()
    ladder = _ladder(full)
    with common.run_folder("halving") as (folder, meter):
        key = jax.random.key(common.seed())
        archs = np.asarray(sample_distinct(key, full.space.num_choices, _NUM_ARCHS.value))
        race = _race(archs, ladder, proxy, folder)
    report, summary = _report(race)
    common.finish(folder, meter, report._replace(subtitle=common.describe(full)), summary)


def _ladder(full: common.Setting) -> list[Fidelity]:
    """Return the rungs that the flags name; with --fresh_draws no two of them share a seed."""
    ladder = []
    for number, text in enumerate(_RUNGS.value):
        images, pixels, keep = _parsed(text)
        setting = common.with_images(full, images, pixels)
        if _FRESH_DRAWS.value:
            shift = (len(_RUNGS.value) - number) * len(full.seeds)
            setting = setting._replace(seeds=tuple(seed + shift for seed in full.seeds))
        ladder.append(Fidelity(f"{images}@{pixels}", setting, keep))
    name = f"{full.context['batch_size']}@{full.image_size}"
    return [*ladder, Fidelity(name, full, 1.0)]


def _parsed(rung: str) -> tuple[int, int, int | float]:
    """Return images, pixels and what to keep, of a text like `8@16:4%` or `8@16:15`."""
    if not (match := _RUNG.fullmatch(rung)):
        raise ValueError(
            "A rung must be IMAGES@PIXELS:KEPT, with a count or a percentage to keep: got "
            f"{rung!r}; write 8@16:4% or 8@16:15."
        )
    images, pixels, kept = match.groups()
    keep = float(kept[:-1]) / 100 if kept.endswith("%") else int(kept)
    return int(images), int(pixels), keep


def _race(archs: np.ndarray, ladder: list[Fidelity], name: str, folder: Path) -> Race:
    scored: list[Scores] = []

    def rung(fidelity: Fidelity) -> Rung:
        def score_fn(archs: np.ndarray) -> np.ndarray:
            scored.append(_score(fidelity.setting, archs, name, folder))
            return scored[-1].mean(name)

        return Rung(score_fn, fidelity.keep)

    result = successive_halving(archs, [rung(fidelity) for fidelity in ladder])
    full = _score(ladder[-1].setting, archs, name, folder) if _CHECK.value else None
    return Race(name, archs, ladder, result, scored, full)


def _score(setting: common.Setting, archs: np.ndarray, name: str, folder: Path) -> Scores:
    """Return the scores of `archs`, kept apart from all others: the store knows their own cost."""
    digest = hashlib.sha256(archs.tobytes()).hexdigest()[:16]
    context = setting.context | {
        "pool": digest,
        "pool_proxy": name,
        "pool_seeds": list(setting.seeds),
    }
    return common.score(setting._replace(context=context), archs, [name], folder)


def _report(race: Race) -> tuple[Report, dict[str, Any]]:
    rungs, winners = _rungs(race), _winners(race)
    recall = None if race.full is None else _recall(race, race.full.mean(race.proxy))
    summary = _summary(race, rungs, winners, recall)
    parts: list[Text | Table | Plot] = [
        Text("The outcome", _outcome(race, winners, summary)),
        Table(
            "The rungs",
            rungs,
            "Images@pixels. CPU s: compilation included; ms each: for a cell and a draw.",
        ),
        Table(
            "The winner beside its controls",
            winners,
            "Test accuracy in percent after 200 epochs at C=16 and N=5, from the benchmark. "
            "#params: the largest cell; random: any cell, so the mean of the pool.",
        ),
        _plot(race),
    ]
    if recall is not None:
        table = Table(
            "Recall",
            recall,
            "Share of the cells with the best full scores that reach each rung. The controls fill "
            "the last rung otherwise: with the largest cells, or with any.",
        )
        parts.insert(2, table)
    return Report(f"Successive halving by {race.proxy} on NAS-Bench-201", "", parts), summary


def _summary(
    race: Race, rungs: pd.DataFrame, winners: pd.DataFrame, recall: pd.DataFrame | None
) -> dict[str, Any]:
    summary = {"winner": winners["cell"].iloc[0], "race_cpu_seconds": race.cpu_seconds}
    for number, (_, row) in enumerate(rungs[: len(race.ladder)].iterrows(), 1):
        summary |= {f"rung_{number}_{what}": row[what] for what in ("scored", "kept")}
        summary[f"rung_{number}_cpu_seconds"] = row["CPU s"]
    for _, row in winners.iterrows():
        by = row["chosen by"].replace(" ", "_")
        summary |= {f"{by}_{data}_test": row[data] for data in DATASETS}
    if race.full is not None and recall is not None:
        last = recall.iloc[len(race.ladder) - 1]
        summary |= {
            "full_cpu_seconds": race.full.cpu_seconds,
            "cost_ratio": race.cpu_seconds / race.full.cpu_seconds,
            "recall_top_1_percent": last["top 1 %"],
            "recall_top_10": last["top 10"],
            "recall_top_5_percent": last["top 5 %"],
        }
    return summary


def _outcome(race: Race, winners: pd.DataFrame, summary: dict[str, Any]) -> str:
    """Return in words what won, whether it beats its controls, and what that cost."""
    test = winners.set_index("chosen by")["cifar10"]
    spread = nasbench201().accuracy(race.archs).std()
    sentences = (
        f"Of {len(race.archs)} cells the race finds {summary['winner']}: {test['race']:.2f} % on "
        f"CIFAR-10 in the benchmark, {test['race'] - test['#params']:+.2f} points to the largest "
        f"cell, {test['race'] - test['random']:+.2f} to a random one (sd {spread:.2f}). It cost "
        f"{race.cpu_seconds:.0f} CPU seconds."
    )
    if race.full is not None:
        sentences += (
            f"\n\nEverything at {race.ladder[-1].name} cost {race.full.cpu_seconds:.0f}: the race "
            f"cost {summary['cost_ratio']:.1%} of that, and {summary['recall_top_1_percent']:.0%} "
            "of the top 1 % there reached its last rung."
        )
    return f"{sentences}\n\nAt {race.ladder[0].name}: {common.failures(race.scored[0])}"


def _rungs(race: Race) -> pd.DataFrame:
    """Return what each rung saw, kept and cost; below them the full score of everything."""
    rows: list[tuple[str, int, int | None, float]] = [
        (fidelity.name, len(rung.scored), len(rung.kept), scored.cpu_seconds)
        for fidelity, rung, scored in zip(race.ladder, race.result.rungs, race.scored, strict=True)
    ]
    if race.full is not None:
        name = f"all at {race.ladder[-1].name}"
        rows.append((name, len(race.archs), None, race.full.cpu_seconds))
    frame = pd.DataFrame(rows, columns=["rung", "scored", "kept", "CPU s"])
    draws = len(race.ladder[-1].setting.seeds)
    frame["ms each"] = 1000 * frame["CPU s"] / (draws * frame["scored"])
    return frame.astype({"kept": "Int64"})


def _recall(race: Race, full_scores: np.ndarray) -> pd.DataFrame:
    """Return the share of the best full scores that each rung, and each control, gets to see."""
    num = len(race.archs)
    seen = [
        (fidelity.name, rung.scored)
        for fidelity, rung in zip(race.ladder, race.result.rungs, strict=True)
    ]
    num_last = len(seen[-1][1])
    seen.append(("#params", _order(race.params)[:num_last]))
    best = {top: _order(full_scores)[: count(num)] for top, count in _TOPS.items()}
    rows = [
        {"reached": name}
        | {top: np.isin(best_rows, positions).mean() for top, best_rows in best.items()}
        for name, positions in seen
    ]
    return pd.DataFrame([*rows, {"reached": "random"} | dict.fromkeys(_TOPS, num_last / num)])


def _winners(race: Race) -> pd.DataFrame:
    """Return the accuracies of the race's winner, and of what else could have been chosen."""
    chosen = {"race": race.result.winner}
    if race.full is not None:
        chosen["full score"] = _order(race.full.mean(race.proxy))[0]
    chosen["#params"] = _order(race.params)[0]
    accuracy = {data: nasbench201().accuracy(race.archs, data) for data in DATASETS}
    rows: list[dict[str, Any]] = [
        {"chosen by": by}
        | {data: column[position] for data, column in accuracy.items()}
        | {"params": int(race.params[position]), "cell": cell.to_string(race.archs[position])}
        for by, position in chosen.items()
    ]
    mean = {data: column.mean() for data, column in accuracy.items()}
    rows.append({"chosen by": "random"} | mean | {"params": int(race.params.mean()), "cell": "any"})
    return pd.DataFrame(rows)


def _plot(race: Race) -> Plot:
    """Return the full score over that of the first rung, where the full one is known."""
    last = race.result.rungs[-1]
    positions, full = last.scored, last.scores
    if race.full is not None:
        positions, full = np.arange(len(race.archs)), race.full.mean(race.proxy)
    first_name, last_name = race.ladder[0].name, race.ladder[-1].name
    scatter = figures.score_versus_accuracy(
        race.result.rungs[0].scores[positions],
        scipy.stats.rankdata(full),
        score_name=f"{race.proxy} at {first_name}",
        accuracy_name=f"{race.proxy} at {last_name}, rank",
        by_rank=True,
        highlight=last.scored.tolist() if race.full is not None else None,
    )
    ringed = " What reached the last rung is ringed." if race.full is not None else ""
    return Plot(
        "Cheap versus full",
        scatter,
        f"Ranks of {race.proxy} at {last_name} over those at {first_name}, larger is better."
        f"{ringed}",
        names=[cell.to_string(race.archs[position]) for position in positions],
    )


def _order(values: np.ndarray) -> np.ndarray:
    """Return the positions `[A]`, best first; of equals the first first."""
    return np.argsort(-values, kind="stable")


if __name__ == "__main__":
    flags.FLAGS.set_default("batch_size", 64)
    launch(main)
