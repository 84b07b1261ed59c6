r"""KNAS on NAS-Bench-201: score a pool untrained, keep the best k, validate only those.

    python -m experiments.knas_nasbench201 --seed=0 --output_dir=results/knas

Samples 300 cells, scores them by the mean of the Gram matrix of their gradients (MGM) and by some
others, keeps the best 40 of each, looks at their 12-epoch validation accuracy (or trains them with
--fine_step=train) and takes the best. Beside it: the same with 40 random and with the 40 largest
candidates.
"""

from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from experiments.fine_step import Trainer, from_table
from jaxnas import pool, proxies
from jaxnas.benchmarks import TabularBenchmark, nasbench201
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Svg, Table, Text, figures
from jaxnas.search import TwoStepResult, sample_distinct, two_step
from jaxnas.spaces.nasbench201 import cell
from jaxnas.training import TrainingOptions
from jaxnas.types import ScoreFn

_PROXY = flags.DEFINE_string("proxy", "mgm", "The score whose ranking is shown in full.")
_PROXIES = common.define_proxies(["mgm", "gradient_values", "gradient_diversity", "layer_balance"])
_NUM_CANDIDATES = flags.DEFINE_integer("num_candidates", 300, "Cells to sample.", lower_bound=1)
_K = flags.DEFINE_integer("k", 40, "Candidates that the fine step sees.", lower_bound=1)
_FINE_STEP = flags.DEFINE_enum(
    "fine_step", "table", ("table", "train"), "Look 12 epochs up in the benchmark, or train here."
)
_EPOCHS = flags.DEFINE_integer("epochs", 12, "Of --fine_step=train.", lower_bound=1)
_RANDOM_DRAWS = 1000
_TEST_COLUMNS = {
    "cifar10": "C10 test %",
    "cifar100": "C100 test %",
    "imagenet16-120": "IN16 test %",
}

flags.adopt_module_key_flags(common)  # so that --help shows them


def main() -> None:
    """Search and report."""
    own = common.setting()
    names = list(dict.fromkeys([_PROXY.value, *_PROXIES.value]))
    proxies.resolve(names)
    if _K.value > _NUM_CANDIDATES.value:
        raise ValueError(
            f"k must be at most the number of candidates: got k={_K.value} with "
            f"{_NUM_CANDIDATES.value} candidates; sample more or lower k."
        )
    with common.run_folder("knas_nasbench201") as (folder, meter):
        benchmark = nasbench201()
        key = jax.random.key(common.seed())
        archs = np.asarray(sample_distinct(key, own.space.num_choices, _NUM_CANDIDATES.value))
        scored = common.score(own, archs, names, folder)
        if _FINE_STEP.value == "table":
            fine_fn: ScoreFn = from_table(benchmark)
        else:
            options = TrainingOptions(epochs=_EPOCHS.value, batch_size=64, seed=common.seed())
            fine_fn = Trainer(own, options, folder / "training")
        searches = _searches(benchmark, archs, scored, names, fine_fn)
    report, summary = _report(benchmark, archs, scored, names, searches)
    common.finish(folder, meter, report, summary)


def _searches(
    benchmark: TabularBenchmark,
    archs: np.ndarray,
    scored: pool.PoolScores,
    names: list[str],
    fine_fn: ScoreFn,
) -> pd.DataFrame:
    """Return one row for each way to keep k candidates, with the same fine step."""
    params = benchmark.params[benchmark.index(archs)]
    rows = []
    for name, coarse in {**{n: scored.mean(n) for n in names}, "#params": params}.items():
        result = two_step(archs, coarse, fine_fn, _K.value)
        rows.append({"kept by": name, **_outcome(benchmark, archs, result)})
    rows.append(_random_row(benchmark, archs, fine_fn))
    return pd.DataFrame(rows)


def _outcome(
    benchmark: TabularBenchmark, archs: np.ndarray, result: TwoStepResult
) -> dict[str, Any]:
    """Return what a search found; GPU seconds are those of 12 epochs of each kept candidate."""
    kept = archs[result.kept]
    return {
        **_test_accuracies(benchmark, result.arch),
        "mean of kept C10 %": float(benchmark.accuracy(kept, "cifar10").mean()),
        "fine score %": float(result.fine_scores.max()),
        "GPU s": float(benchmark.seconds(kept).sum()),
        "winner": cell.to_string(result.arch),
    }


def _test_accuracies(benchmark: TabularBenchmark, arch: np.ndarray) -> dict[str, float]:
    return {label: float(benchmark.accuracy(arch, data)) for data, label in _TEST_COLUMNS.items()}


def _random_row(benchmark: TabularBenchmark, archs: np.ndarray, fine_fn: ScoreFn) -> dict[str, Any]:
    """Return the random control: the mean of many draws, or one where each costs training."""
    draws = _RANDOM_DRAWS if _FINE_STEP.value == "table" else 1
    rng = np.random.default_rng(common.seed())
    outcomes = []
    for _ in range(draws):
        result = two_step(archs, rng.permutation(len(archs)), fine_fn, _K.value)
        outcomes.append(_outcome(benchmark, archs, result))
    frame = pd.DataFrame(outcomes).drop(columns="winner")
    spread = frame["C10 test %"].std(ddof=0)
    label = f"{draws} draws, C10 sd {spread:.2f}" if draws > 1 else outcomes[0]["winner"]
    means = {str(name): float(value) for name, value in frame.mean().items()}
    return {"kept by": "random", **means, "winner": label}


def _report(
    benchmark: TabularBenchmark,
    archs: np.ndarray,
    scored: pool.PoolScores,
    names: list[str],
    searches: pd.DataFrame,
) -> tuple[Report, dict[str, Any]]:
    chosen = _PROXY.value
    accuracy = benchmark.accuracy(archs, "cifar10")
    params = benchmark.params[benchmark.index(archs)]
    controls = {"#params": params[None], "random": common.random_scores(len(archs))[None]}
    ranked = {**{name: scored.scores[name] for name in names}, **controls}
    log_params = np.log(params)
    correlations = pd.DataFrame(
        [
            {
                "score": name,
                **common.correlations_row(
                    own, accuracy, None if name == "#params" else log_params, _K.value
                ),
            }
            for name, own in ranked.items()
        ]
    )
    order = np.argsort(-scored.mean(chosen), kind="stable")
    winner = searches.iloc[0]
    verdict = _verdict(searches)
    parts: list[Text | Table | Plot] = [
        Text("The outcome", f"{verdict}\n\n{common.failures(scored, names)}"),
        Table(
            "Two-step search beside its controls",
            searches,
            f"Each row keeps {_K.value} of {len(archs)} candidates and takes the best by the same "
            "fine step. Test accuracies are those of the benchmark after 200 epochs.",
        ),
        Table(f"The best {_K.value} by {chosen}", _ranking(benchmark, archs, scored, order)),
        Plot(
            "Score versus accuracy",
            figures.score_versus_accuracy(
                scored.mean(chosen),
                accuracy,
                score_name=chosen,
                accuracy_name="CIFAR-10 test accuracy (%)",
                by_rank=True,
                highlight=order[: _K.value].tolist(),
            ),
            f"CIFAR-10 test accuracy over the rank by {chosen}; the kept {_K.value} are ringed.",
        ),
        Plot(
            "Rank correlations",
            figures.correlation_bars(correlations, controls=tuple(controls)),
            "Spearman correlation with CIFAR-10 test accuracy, 95 % bootstrap intervals.",
        ),
        Table("Rank correlations with CIFAR-10 test accuracy", correlations),
        Plot(
            "Top-k recall",
            figures.recall_curve(
                {name: own.mean(0) for name, own in list(ranked.items())[:8]}, accuracy
            ),
            "Share of the truly best k that are among the best k of each score.",
        ),
        Text(
            "Cost",
            f"Scoring took {scored.cpu_seconds:.0f} CPU seconds for {len(archs)} networks "
            f"({scored.cpu_seconds / len(archs):.2f} each, compilation included); validating the "
            f"kept {_K.value} would take {winner['GPU s']:.0f} GPU seconds.",
        ),
    ]
    report = Report(f"KNAS: {chosen} on NAS-Bench-201", common.describe(), parts)
    summary = {
        f"{row['kept by']}_{data}_test": row[label]
        for _, row in searches.iterrows()
        for data, label in _TEST_COLUMNS.items()
    }
    summary |= {f"spearman_{row['score']}": row["spearman"] for _, row in correlations.iterrows()}
    return report, summary | {
        "winner": winner["winner"],
        "num_unscored": sum(scored.unscored(chosen).values()),
        "scoring_cpu_seconds": scored.cpu_seconds,
    }


def _verdict(searches: pd.DataFrame) -> str:
    """Return in words whether the score beat its controls."""
    by_name = searches.set_index("kept by")["C10 test %"]
    found = searches.iloc[0]
    return (
        f"{found['kept by']} finds {found['winner']}: {by_name.iloc[0]:.2f} % on CIFAR-10, "
        f"{found['C100 test %']:.2f} % on CIFAR-100, {found['IN16 test %']:.2f} % on "
        f"ImageNet16-120. Against the controls with the same fine step on CIFAR-10: "
        f"{by_name.iloc[0] - by_name['random']:+.2f} points to random, "
        f"{by_name.iloc[0] - by_name['#params']:+.2f} to #params."
    )


def _ranking(
    benchmark: TabularBenchmark, archs: np.ndarray, scored: pool.PoolScores, order: np.ndarray
) -> pd.DataFrame:
    rows = []
    for rank, position in enumerate(order[: _K.value], 1):
        arch = archs[position]
        row: dict[str, Any] = {"rank": rank, "cell": _drawing(arch)}
        row[_PROXY.value] = scored.mean(_PROXY.value)[position]
        if len(scored.scores[_PROXY.value]) > 1:
            row["sd"] = scored.sd(_PROXY.value)[position]
        row["params"] = cell.num_params(arch)
        row["12-epoch valid %"] = float(benchmark.accuracy(arch, "cifar10", "valid_12ep"))
        rows.append(row | _test_accuracies(benchmark, arch) | {"string": cell.to_string(arch)})
    return pd.DataFrame(rows)


def _drawing(arch: np.ndarray) -> Svg:
    edges = [
        (*ends, cell.OPERATIONS[decision])
        for ends, decision in zip(cell.EDGES, arch, strict=True)
        if decision != cell.NONE
    ]
    return Svg(figures.cell_svg(edges, cell.NUM_NODES, operations=cell.OPERATIONS[1:]))


if __name__ == "__main__":
    launch(main)
