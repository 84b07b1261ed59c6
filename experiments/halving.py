r"""A race over NAS-Bench-201: a cheap score thins the pool out, the full one decides.

    python -m experiments.halving --check --output_dir=results/halving

Samples 300 cells and scores them all on few small images; only the best share of them is scored in
full, on --batch_size images of --image_size pixels. --rungs names the cheap rungs, from the first
to the last: `8@16:4%,16@32:10` scores on 8 images of 16 pixels and keeps 4 %, then on 16 images of
32 pixels and keeps 10 cells. --check also scores everything in full, to say which share of the best
cells reached the last rung and what the race cost beside it.

All rungs share their draws of weights, and a small batch is the beginning of the large one, so the
recall is about the full score of the same draws; --fresh_draws has it pay for the noise of a draw.
Costs are CPU seconds of this process, compilation included. The check comes last and finds the
programs of the last rung compiled, so the share of the cost errs against the race.

With --num_archs=1000 --seed=1 --num_seeds=1 --rungs=8@16:5% that took 3 minutes: all of the top 1 %
reached the last rung, for 20.4 % of the cost.
"""

import hashlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from absl import flags

from experiments import common
from jaxnas import proxies
from jaxnas.benchmarks import nasbench201
from jaxnas.benchmarks.nasbench201_table import DATASETS
from jaxnas.launch import launch
from jaxnas.runs import Part, Plot, Report, Table, Text, figures
from jaxnas.scorer import Scores
from jaxnas.search import Result, Rung, RungResult, successive_halving
from jaxnas.spaces.nasbench201_space import cell

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

common.reads(*common.SCORES, *common.PROCESSES)

_RUNG = re.compile(r"([0-9]+)@([0-9]+):([0-9]+|[0-9]+(?:\.[0-9]+)?%)")
_RUNGS_NOTE = "Images@pixels. CPU s: compilation included; ms each: for a cell and a draw."
_RECALL_NOTE = (
    "Share of the cells with the best full scores that reach each rung. The controls fill the last "
    "rung otherwise: with the largest cells, or with any."
)
_WINNERS_NOTE = (
    "Test accuracy in percent after 200 epochs at C=16 and N=5, from the benchmark. #params: the "
    "largest cell; random: any cell, so the mean of the pool."
)


class Race(NamedTuple):
    """A race that was run.

    Attributes:
        proxy: name of the score.
        archs: `int32[A, 6]`.
        names: images@pixels of each rung; the last is full.
        result: who reached what.
        scored: the scores of each rung, of those that reached it.
        full: the full scores of everything, or None where they were not asked for.
    """

    proxy: str
    archs: np.ndarray
    names: list[str]
    result: Result[RungResult]
    scored: list[Scores]
    full: Scores | None

    @property
    def params(self) -> np.ndarray:
        """The number of parameters of the benchmark's networks, `[A]`."""
        return nasbench201().params[nasbench201().index(self.archs)]


def main() -> None:
    """Race and report."""
    (proxy,) = proxies.expand(_PROXY.value).names
    setting = common.setting()
    ladder = _ladder(setting)
    names, scored = [name for name, *_ in ladder], list[Scores]()
    with common.run_folder("halving") as (folder, meter):
        archs = common.draw(setting.space, _NUM_ARCHS.value)

        def rung(fidelity: common.Setting, keep: int | float) -> Rung:
            def score_fn(archs: np.ndarray) -> np.ndarray:
                scored.append(_score(fidelity, archs, proxy, folder))
                return scored[-1].mean(proxy)

            return Rung(score_fn, keep)

        result = successive_halving(archs, [rung(fidelity, keep) for _, fidelity, keep in ladder])
        full = _score(setting, archs, proxy, folder) if _CHECK.value else None
    race = Race(proxy, archs, names, result, scored, full)

    rungs, winners = _rungs(race), _winners(race)
    raced = rungs[: len(ladder)]  # without the line of the check
    winner, seconds = winners["cell"].iloc[0], raced["CPU s"].sum()
    summary = {"winner": winner, "race_cpu_seconds": seconds}
    summary |= {f"rung_{number}_scored": count for number, count in enumerate(raced["scored"], 1)}
    for row in winners.to_dict("records"):
        by = row["chosen by"].replace(" ", "_")
        summary |= {f"{by}_{data}_test": row[data] for data in DATASETS}
    outcome = f"Of {len(archs)} cells the race finds {winner}, for {seconds:.0f} CPU seconds."
    parts: list[Part] = [
        Table("The rungs", rungs, _RUNGS_NOTE),
        Table("The winner beside its controls", winners, _WINNERS_NOTE),
    ]
    if full is not None:
        recall, ratio = _recall(race, full.mean(proxy)), seconds / full.cpu_seconds
        parts += [Table("Recall", recall, _RECALL_NOTE), _plot(race, full.mean(proxy))]
        last = recall.iloc[len(ladder) - 1].drop("reached")
        summary |= {"full_cpu_seconds": full.cpu_seconds, "cost_ratio": ratio}
        for top, share in last.items():
            summary[f"recall_{top}".replace("%", "percent").replace(" ", "_")] = share
        outcome += (
            f" That is {ratio:.1%} of what everything at {names[-1]} cost, and "
            f"{last['top 1 %']:.0%} of the top 1 % there reached its last rung."
        )
    outcome += f"\n\nAt {names[0]}: {common.failures(scored[0])}"
    title = f"Successive halving by {proxy} on NAS-Bench-201"
    report = Report(title, common.describe(setting), [Text("The outcome", outcome), *parts])
    common.finish(folder, meter, report, summary)


def _ladder(full: common.Setting) -> list[tuple[str, common.Setting, int | float]]:
    """Return name, setting and what to keep of each rung, the full score last.

    With --fresh_draws no two of them share a seed.
    """
    ladder: list[tuple[str, common.Setting, int | float]] = []
    for number, text in enumerate(_RUNGS.value):
        images, pixels, keep = _parsed(text)
        setting = common.with_images(full, images, pixels)
        if _FRESH_DRAWS.value:
            shift = (len(_RUNGS.value) - number) * len(full.seeds)
            setting = setting._replace(seeds=tuple(seed + shift for seed in full.seeds))
        ladder.append((f"{images}@{pixels}", setting, keep))
    return [*ladder, (f"{full.context['batch_size']}@{full.image_size}", full, 1.0)]


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


def _score(setting: common.Setting, archs: np.ndarray, name: str, folder: Path) -> Scores:
    """Return the scores of `archs`, kept apart from all others: the store knows their own cost."""
    pool = {
        "pool": hashlib.sha256(archs.tobytes()).hexdigest()[:16],
        "pool_proxy": name,
        "pool_seeds": list(setting.seeds),
    }
    return common.score(setting._replace(context=setting.context | pool), archs, [name], folder)


def _rungs(race: Race) -> pd.DataFrame:
    """Return what each rung saw, kept and cost; below them the full score of everything."""
    rows: list[tuple[str, int, int | None, float]] = [
        (name, len(rung.scored), len(rung.kept), scored.cpu_seconds)
        for name, rung, scored in zip(race.names, race.result.steps, race.scored, strict=True)
    ]
    if race.full is not None:
        rows.append((f"all at {race.names[-1]}", len(race.archs), None, race.full.cpu_seconds))
    table = pd.DataFrame(rows, columns=["rung", "scored", "kept", "CPU s"])
    table["ms each"] = 1000 * table["CPU s"] / (len(race.scored[0].seeds) * table["scored"])
    return table.astype({"kept": "Int64"})


def _recall(race: Race, full: np.ndarray) -> pd.DataFrame:
    """Return the share of the best full scores `[A]` that each rung, and each control, sees."""
    reached = [rung.scored for rung in race.result.steps]
    num, num_last = len(full), len(reached[-1])
    reached.append(np.argsort(-race.params, kind="stable")[:num_last])
    best = np.argsort(-full, kind="stable")
    table = pd.DataFrame({"reached": [*race.names, "#params", "random"]})
    tops = {"top 1 %": math.ceil(num / 100), "top 10": min(10, num), "top 5 %": math.ceil(num / 20)}
    for top, count in tops.items():
        shares = [np.isin(best[:count], positions).mean() for positions in reached]
        table[top] = [*shares, num_last / num]
    return table


def _winners(race: Race) -> pd.DataFrame:
    """Return the accuracies of the race's winner, and of what else could have been chosen."""
    chosen = {"race": race.result.winner}
    if race.full is not None:
        chosen["full score"] = int(race.full.order(race.proxy)[0])
    chosen["#params"] = int(race.params.argmax())
    known = pd.DataFrame({data: nasbench201().accuracy(race.archs, data) for data in DATASETS})
    known["params"] = race.params
    table = pd.concat([known.iloc[list(chosen.values())], known.mean().to_frame().T])
    table.insert(0, "chosen by", [*chosen, "random"])
    strings = [cell.to_string(race.archs[position]) for position in chosen.values()]
    return table.assign(cell=[*strings, "any"]).astype({"params": int})


def _plot(race: Race, full: np.ndarray) -> Plot:
    """Return the full score `[A]` over that of the first rung."""
    first, last = race.names[0], race.names[-1]
    scatter = figures.score_versus_accuracy(
        race.result.steps[0].scores,
        scipy.stats.rankdata(full),
        score_name=f"{race.proxy} at {first}",
        accuracy_name=f"{race.proxy} at {last}, rank",
        by_rank=True,
        highlight=race.result.steps[-1].scored.tolist(),
    )
    described = (
        f"Ranks of {race.proxy} at {last} over those at {first}, larger is better. What reached "
        "the last rung is ringed."
    )
    names = [cell.to_string(arch) for arch in race.archs]
    return Plot("Cheap versus full", scatter, described, names=names)


if __name__ == "__main__":
    flags.FLAGS.set_default("batch_size", 64)
    launch(main)
