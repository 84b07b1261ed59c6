"""What trained supernets say of networks whose accuracies are known, as tables and words."""

import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.supernet_runs import TrainedSupernet
from jaxnas import correlation
from jaxnas.benchmarks import MacroBenchmark
from jaxnas.runs import Plot, Table, Text, figures
from jaxnas.search import History
from jaxnas.spaces.nasbench_macro import representative
from jaxnas.supernet import indicators
from jaxnas.supernet.recipes import Recipe


class Outcome(NamedTuple):
    """What a supernet says.

    Attributes:
        run: see `TrainedSupernet`.
        signals: scores `[N]` of the networks that are compared, by name.
        found: by evolution under the cap, by the signal of the recipe.
    """

    run: TrainedSupernet
    signals: dict[str, np.ndarray]
    found: History


class Untrained(NamedTuple):
    """What a score of untrained networks says: of those that are compared, and by evolution."""

    scores: np.ndarray
    found: History


class Comparison(NamedTuple):
    """What there is to report.

    Attributes:
        benchmark: the truth.
        rows: `int[N]`, the networks that are compared; from the first half a signal may be chosen.
        outcomes: of the supernets.
        together: found by the mean of their signals; `None` of one supernet.
        untrained: scores of the networks untrained, by name.
        recipe: of the supernets.
        cap: of FLOPs.
        seed: of the random score.
    """

    benchmark: MacroBenchmark
    rows: np.ndarray
    outcomes: list[Outcome]
    together: History | None
    untrained: dict[str, Untrained]
    recipe: Recipe
    cap: float
    k: int
    seed: int


def build(comparison: Comparison) -> tuple[list[Text | Table | Plot], dict[str, Any]]:
    """Return the parts of the report, and the numbers for the summary."""
    runs = [outcome.run for outcome in comparison.outcomes]
    half = len(comparison.rows) // 2
    halves = {"chosen on": slice(0, half), "reported on": slice(half, None)}
    table = pd.concat(
        [_correlations(comparison, *each) for each in halves.items()], ignore_index=True
    )
    found = _searches(comparison)
    parts: list[Text | Table | Plot] = [
        Text("The outcome", _verdict(comparison, table, found)),
        Table("Rank correlations", table, _CORRELATIONS_NOTE),
        Table("Search under a cap of FLOPs", found, _SEARCH_NOTE),
        Table("Agreement of block indicators", _agreement(runs), _AGREEMENT_NOTE),
        Table("Indicators of the first run", _shown(runs[0].read), "By layer."),
        _curve(runs),
    ]
    reported = table[table["half"] == "reported on"].to_dict("records")
    summary = {f"spearman_{row['signal']}": row["spearman"] for row in reported}
    for row in found.to_dict("records"):
        summary[f"percentile_{row['by']}"] = row["percentile"]
        summary[f"percentile_best_of_k_{row['by']}"] = row[f"best of {comparison.k}"]
    return parts, summary


_CORRELATIONS_NOTE = (
    "Spearman with the accuracy of the trained networks, mean and standard deviation over runs; "
    "low and high: 95 % bootstrap interval over functions, of the mean of the scores of all runs; "
    "partial: given log FLOPs, of that mean. The signal of the recipe is marked *."
)
_SEARCH_NOTE = (
    "percentile: share of all networks of the benchmark under the cap that are less accurate than "
    "the best by the score, mean over searches, and the worst of them. best of k: the k best are "
    "trained, the first of the benchmark's three trainings decides among them and the others "
    "judge. looks: networks that evolution scored. FLOPs-max, #params-max and best see the whole "
    "space; random is 1,000 searches."
)
_RANDOM = 1000
_AGREEMENT_NOTE = (
    "Kendall's tau between the block indicators of two runs, mean over layers and pairs of runs; 0 "
    "is chance. Identities have no indicator and do not count."
)


def _correlations(comparison: Comparison, name: str, at: slice) -> pd.DataFrame:
    rows = comparison.rows[at]
    accuracy = comparison.benchmark.columns["accuracy"][rows]
    flops = comparison.benchmark.flops[rows].astype(float)
    functions = np.array([representative(arch) for arch in comparison.benchmark.archs[rows]])
    signals = {
        signal: np.stack([outcome.signals[signal][at] for outcome in comparison.outcomes])
        for signal in comparison.outcomes[0].signals
    }
    signals |= {name: each.scores[at][None] for name, each in comparison.untrained.items()}
    signals |= {
        "FLOPs": flops[None],
        "#params": comparison.benchmark.params[rows][None].astype(float),
        "random": np.random.default_rng(comparison.seed).random((1, len(rows))),
    }
    table = []
    for signal, scores in signals.items():
        mean = scores.mean(0)
        each = [correlation.spearman(one, accuracy) for one in scores]
        low, high = correlation.bootstrap_interval(
            correlation.spearman, mean, accuracy, groups=functions
        )
        row: dict[str, Any] = {
            "half": name,
            "signal": signal + (" *" if signal == comparison.recipe.signal else ""),
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


def _searches(comparison: Comparison) -> pd.DataFrame:
    benchmark = comparison.benchmark
    legal = np.flatnonzero(benchmark.flops <= comparison.cap)
    decides, judges = benchmark.runs[:, 0], benchmark.runs[:, 1:].mean(1)
    rng = np.random.default_rng(comparison.seed)

    def share(judged: np.ndarray, row: int) -> float:
        return float(100 * (judged[legal] < judged[row]).mean())

    def row(by: str, found: list[np.ndarray], looks: float = np.nan) -> dict[str, Any]:
        """`found`: what each search found, rows of the benchmark, its best first."""
        firsts = [int(rows[0]) for rows in found]
        places = [share(benchmark.columns["accuracy"], first) for first in firsts]
        trained = [rows[: comparison.k][decides[rows[: comparison.k]].argmax()] for rows in found]
        retrained = [share(judges, int(one)) for one in trained]
        return {
            "by": by,
            "network": "".join(map(str, benchmark.archs[firsts[0]])),
            "accuracy %": benchmark.columns["accuracy"][firsts].mean(),
            "percentile": np.mean(places),
            "worst": np.min(places),
            f"best of {comparison.k}": np.mean(retrained),
            f"worst best of {comparison.k}": np.min(retrained),
            "MFLOPs": benchmark.flops[firsts].mean() / 1e6,
            "looks": looks,
        }

    def by_evolution(by: str, histories: list[History]) -> dict[str, Any]:
        found = [benchmark.index(np.asarray(each.ranked_archs)) for each in histories]
        return row(by, found, float(np.mean([len(each.scores) for each in histories])))

    def by_column(by: str, column: np.ndarray) -> dict[str, Any]:
        return row(by, [legal[np.argsort(-column[legal], kind="stable")]])

    table = [
        by_evolution(f"{comparison.recipe.signal} *", [each.found for each in comparison.outcomes])
    ]
    if comparison.together is not None:
        table.append(
            by_evolution(f"{comparison.recipe.signal}, mean of runs", [comparison.together])
        )
    table += [by_evolution(name, [each.found]) for name, each in comparison.untrained.items()]
    table += [by_column("FLOPs-max", benchmark.flops), by_column("#params-max", benchmark.params)]
    table.append(row("random", [rng.permutation(legal)[: comparison.k] for _ in range(_RANDOM)]))
    table.append(by_column("best", benchmark.columns["accuracy"]))
    return pd.DataFrame(table)


def _agreement(runs: list[TrainedSupernet]) -> pd.DataFrame:
    taus: dict[str, list[float]] = {"same weights, other order": [], "other weights": []}
    for first, second in itertools.combinations(runs, 2):
        kind = "same weights, other order" if first.seed == second.seed else "other weights"
        taus[kind].append(indicators.agreement(first.read, second.read))
    return pd.DataFrame(
        {
            "pairs of runs": kind,
            "pairs": len(each),
            "Kendall's tau": np.mean(each) if each else np.nan,
            "sd": np.std(each, ddof=1) if len(each) > 1 else np.nan,
        }
        for kind, each in taus.items()
    )


def _shown(read: indicators.Indicators) -> pd.DataFrame:
    table = pd.DataFrame(read.block, columns=["identity", "k3 e3", "k5 e6"])
    table.insert(0, "layer", range(len(table)))
    return table.assign(bypass=read.layer)


def _curve(runs: list[TrainedSupernet]) -> Plot:
    curves = {
        f"seed {run.seed}, order {run.order}": pd.Series(
            [point.loss for point in run.supernet.history],
            index=[point.step for point in run.supernet.history],
        )
        for run in runs[: len(figures.PALETTE)]
    }
    return Plot(
        "Training",
        figures.curves(curves, x="step", y="loss (nats)"),
        "Mean loss of the paths, label smoothing included.",
    )


def _verdict(comparison: Comparison, table: pd.DataFrame, found: pd.DataFrame) -> str:
    reported = table[table["half"] == "reported on"].set_index("signal")
    marked = f"{comparison.recipe.signal} *"
    spearman = reported["spearman"].to_dict()
    given_flops = reported["partial | FLOPs"].to_dict()[marked]
    place = found.set_index("by")["percentile"].to_dict()
    retrained = found.set_index("by")[f"best of {comparison.k}"].to_dict()
    return (
        f"{comparison.recipe.signal} of {len(comparison.outcomes)} run(s) ranks the networks of "
        f"the half that is reported on with Spearman {spearman[marked]:.2f} (FLOPs "
        f"{spearman['FLOPs']:.2f}, #params {spearman['#params']:.2f}), {given_flops:.2f} given "
        f"log FLOPs. The network that it finds under the cap is better than {place[marked]:.1f} % "
        f"of the legal ones; the one of most FLOPs than {place['FLOPs-max']:.1f} %. With "
        f"{comparison.k} networks trained, of which the most accurate is kept: "
        f"{retrained[marked]:.1f}, {retrained['FLOPs-max']:.1f}, random "
        f"{retrained['random']:.1f} %."
    )
