"""What fine-tuning runs of wirings say of the scores that chose them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.text_runs import DEV, TEST, FineTuning
from jaxnas import correlation
from jaxnas.runs import Plot, Table, Text

_DRAWS = 1000


class FineTunedPool(NamedTuple):
    """A scored and partly fine-tuned pool.

    Attributes:
        wirings: notation of each, `[A]`.
        params: number of parameters of each, `[A]`.
        changes: number of decisions other than the pre-trained encoder's, `[A]`.
        scores: `[A]` by name.
        arms: runs by how they were spent; `unchanged` is the last.
        ranked: runs of each of the first wirings, for the ranks; all seeds alike.
        k: wirings that an arm chooses.
        seed: of the random control.
    """

    wirings: list[str]
    params: np.ndarray
    changes: np.ndarray
    scores: dict[str, np.ndarray]
    arms: dict[str, list[FineTuning]]
    ranked: list[list[FineTuning]]
    k: int
    seed: int


def build(found: FineTunedPool) -> tuple[list[Text | Table | Plot], dict[str, Any]]:
    """Return the parts of the report, and the numbers of its summary."""
    outcome = pd.DataFrame([_outcome(name, runs) for name, runs in found.arms.items()])
    if len(found.ranked) == len(found.wirings):
        outcome = pd.concat([outcome, pd.DataFrame([_random_outcome(found)])], ignore_index=True)
    candidates = pd.DataFrame({"wiring": found.wirings, **found.scores})
    if found.ranked:
        means = pd.Series([_mean(runs, DEV) for runs in found.ranked])
        candidates = candidates.assign(**{f"mean {DEV}": means})
    first = next(iter(found.scores))
    candidates = candidates.sort_values(first, ascending=False, kind="stable")
    parts: list[Text | Table | Plot] = [
        Text("The outcome", _verdict(outcome, list(found.scores), found.k)),
        Table(
            "As many runs, spent in several ways",
            outcome,
            "Of each row the run with the best dev accuracy is chosen, and its test accuracy is "
            "the result; mean and sd are over all runs, of the mean of draws over the draws.",
        ),
    ]
    summary: dict[str, Any] = {}
    for row in outcome.to_dict("records"):
        summary |= {f"{row['runs of']}_test": row[TEST], f"{row['runs of']}_mean_test": row["mean"]}
    if len(found.ranked) > 2:
        ranks = _ranks(found)
        parts.append(
            Table(
                "Rank correlations",
                ranks,
                f"Spearman with the mean accuracy over {len(found.ranked[0])} run(s) of each of "
                f"{len(found.ranked)} wirings; 95 % bootstrap interval of the one with dev "
                "accuracy. Fewest changes: fewest decisions other than the pre-trained encoder's.",
            )
        )
        summary |= {f"{row['score']}_spearman": row[DEV] for row in ranks.to_dict("records")}
    parts.append(Table("Candidates", candidates.head(30), "The best 30 by the first score."))
    return parts, summary


def _outcome(name: str, runs: Sequence[FineTuning]) -> dict[str, Any]:
    # The first of equals: by the dev set there is nothing between them.
    best = max(runs, key=lambda tuning: tuning[DEV])
    tests = [tuning[TEST] for tuning in runs]
    return {
        "runs of": name,
        "chosen": best["wiring"],
        DEV: best[DEV],
        TEST: best[TEST],
        "mean": float(np.mean(tests)),
        "sd": float(np.std(tests, ddof=1)) if len(tests) > 1 else np.nan,
        "runs": len(runs),
    }


def _random_outcome(found: FineTunedPool) -> dict[str, Any]:
    """Return what k random wirings give, over draws of them from the fine-tuned pool."""
    rng = np.random.default_rng(found.seed)
    draws = []
    for _ in range(_DRAWS):
        places = rng.permutation(len(found.ranked))[: found.k]
        draws.append(_outcome("", [tuning for at in places for tuning in found.ranked[at]]))
    means = {column: float(np.mean([draw[column] for draw in draws])) for column in (DEV, TEST)}
    return {
        "runs of": f"random-{found.k}, mean of {_DRAWS} draws",
        "chosen": "",
        **means,
        "mean": float(np.mean([draw["mean"] for draw in draws])),
        "sd": float(np.std([draw[TEST] for draw in draws], ddof=1)),
        "runs": draws[0]["runs"],
    }


def _ranks(found: FineTunedPool) -> pd.DataFrame:
    """Return how well each score and each control orders the fine-tuned wirings."""
    count = len(found.ranked)
    controls = {
        "#params": found.params,
        "fewest changes": -found.changes.astype(float),
        "random": np.random.default_rng(found.seed).random(len(found.wirings)),
    }
    accuracies = {
        column: np.array([_mean(runs, column) for runs in found.ranked]) for column in (DEV, TEST)
    }
    rows = []
    for name, values_of in (found.scores | controls).items():
        low, high = correlation.bootstrap_interval(
            correlation.spearman, values_of[:count], accuracies[DEV]
        )
        row: dict[str, Any] = {"score": name}
        for column, values in accuracies.items():
            row[column] = correlation.spearman(values_of[:count], values)
        rows.append(row | {"low": low, "high": high, "ties": correlation.ties(values_of[:count])})
    return pd.DataFrame(rows)


def _mean(runs: Sequence[FineTuning], column: str) -> float:
    return float(np.mean([tuning[column] for tuning in runs]))


def _verdict(outcome: pd.DataFrame, scores: list[str], k: int) -> str:
    """Return in words whether each score beat its controls."""
    final = outcome.set_index("runs of")
    searched = [f"{name}-{k}" for name in scores]
    others = [name for name in final.index if name not in searched]
    words = []
    for name in searched:
        margins = {
            other: (
                final.loc[name, TEST] - final.loc[other, TEST],
                final.loc[name, "mean"] - final.loc[other, "mean"],
            )
            for other in others
        }
        listed = ", ".join(
            f"{result:+.2f} points to {other} ({mean:+.2f} in the mean)"
            for other, (result, mean) in margins.items()
        )
        wins = all(result > 0 for result, _ in margins.values())
        words.append(f"{name} {'wins' if wins else 'does not win'}: {listed}.")
    return " ".join(words)
