r"""Predicted against measured speed of training of fully connected networks of any wiring.

    python -m experiments.connectivity_dags --dataset=digits
    python -m experiments.connectivity_dags --image_size=8

Trains networks of different wirings by full-batch gradient descent on the squared error, at one
learning rate for all and at each one's own (1 over the largest eigenvalue of its kernel), and
prints how well the published bound (Chen et al., NeurIPS 2022, arXiv 2205.05662, equation 12), path
statistics, kernel eigenvalues and the linearised NTK rank the wirings by speed. Speed is
-log(last loss / first loss); the output at initialisation is subtracted. A run that is stopped goes
on where it was.

48 wirings (28 different kernels), width 256, 800 steps, 128 images, seeds 0 and 1; Spearman with
mean speed, 95 % over wirings, on 8x8 digits and on the bundled CIFAR-10 at 8x8 pixels (four CPU
minutes each):

                              digits, fixed      tuned          CIFAR-10, fixed    tuned
    linearised NTK            .97 (.93 to .99)   .90 (.79-.95)  .97 (.94 to .99)   .90 (.77-.95)
    equation 12               .73 (.56 to .82)  -.84            .71 (.54 to .80)  -.84
    paths                     .88               -.82            .86               -.80
    linear edges              .62               -.26            .64               -.20
    effective depth           .24                .18            .27                .25
    effective width           .54               -.62            .51               -.65
    smallest eigenvalue, NTK  .96               -.46            .96               -.41
    smallest eigenvalue, NNGP .90               -.55            .93               -.56
    random                   -.02               -.02           -.03                .01
    seed to seed              .99                .97            .99                .94

At equally many paths equation 12 has the wrong sign (partial -.69 and -.71 at the fixed rate), the
linearised NTK does not (.92 and .94). With each kernel counted once (28) it has .97, .92, .97, .92.
The named wirings come in the published order at one rate (3.74, 5.49, 6.43 on digits; 2.20, 3.18,
3.91) and in the reverse order at each one's own (8.80, 7.47, 6.64; 5.59, 4.57, 4.07). Theorem 3.1
promises a speed of .01 to .06 where 2.2 to 8.8 were measured.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from experiments.descent_runs import Descent, Problem, speeds
from jaxnas import connectivity, correlation, datasets, encoding, wiring
from jaxnas.connectivity.recursion import Order, Stem
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.scorer import run_context
from jaxnas.spaces.dag_mlp import DagMLP, dag_mlp
from jaxnas.types import Kernels

NAMED = {"DAG#1 sequential": "2_02_002", "DAG#2 parallel": "1_01_222", "DAG#3 mixed": "2_21_112"}
REGIMES = ("fixed", "tuned")

_CORRELATIONS_NOTE = (
    "low and high: 95 % bootstrap interval over kernels; | paths: given the number of paths."
)
_NAMED_NOTE = (
    "Speed is -log(last / first loss), mean over seeds; promised: by the factor of theorem 3.1 of "
    "the paper, 1 - rate * smallest eigenvalue of the NNGP / 2, whatever width it would ask for."
)
_BESIDE_NOTE = (
    "Largest difference from `jaxnas.connectivity.recursion` over the largest entry, in pre order."
)

_NUM_WIRINGS = flags.DEFINE_integer(
    "num_wirings", 48, "Number of wirings to train, of 275.", 5, 275
)
_SAMPLES = flags.DEFINE_integer("samples", 128, "Number of training images.", 2)
_WIDTH = flags.DEFINE_integer("width", 256, "Number of units of every node.", 1)
_STEPS = flags.DEFINE_integer("steps", 800, "Number of steps of gradient descent.", 1)
_ORDER = flags.DEFINE_enum(
    "order",
    "post",
    ("post", "pre"),
    "Whether the ReLU is after (post) or before (pre) the weights.",
)

common.reads(*common.IMAGES, "num_seeds")


def main() -> None:
    """Train, predict and compare."""
    setting = common.setting()
    with common.run_folder("connectivity_dags") as (folder, meter):
        problem = _problem(setting)
        chosen = _choose(_NUM_WIRINGS.value, common.seed())
        predictors, rates = _predict(chosen, problem)
        measured = _measure(setting, chosen, problem, rates, folder)
    tables = {regime: _correlations(predictors[regime], measured[regime]) for regime in REGIMES}
    report = Report("Connectivity and the speed of training", _describe(), [])
    parts: list[Text | Table | Plot] = []
    codes = [wiring.to_code(chosen_wiring) for chosen_wiring in chosen]
    for regime in REGIMES:
        parts += _parts(regime, tables[regime], predictors[regime], measured[regime], codes)
    named = _named(predictors, measured, rates)
    parts.append(Table("The named wirings", named, _NAMED_NOTE))
    parts.append(_beside_neural_tangents(problem))
    summary: dict[str, Any] = {
        f"spearman_{row['score']}_{regime}": row["spearman"]
        for regime, table in tables.items()
        for _, row in table.iterrows()
    }
    for regime in REGIMES:
        summary[f"seed_agreement_{regime}"] = _agreement(measured[regime])
    for _, row in named.iterrows():
        summary |= {f"{row['wiring']}, {name}": row[name] for name in named.columns[2:]}
    common.finish(folder, meter, report._replace(parts=parts), summary)


def _problem(setting: common.Setting) -> Problem:
    images = datasets.resize(
        datasets.normalize(setting.dataset, setting.dataset.x_train), setting.image_size
    )
    order = np.random.default_rng(common.seed()).permutation(len(images))[: _SAMPLES.value]
    rows = connectivity.unit_rows(images[order], np.asarray(images).mean(0))
    targets = connectivity.centred_one_hot(
        setting.dataset.y_train[order], setting.dataset.num_classes
    )
    return Problem(rows * rows.shape[1] ** 0.5, targets, connectivity.input_gram(rows))


def _choose(count: int, seed: int) -> np.ndarray:
    """Return different wirings with a linear edge and no dead one, the named ones first."""
    pruned = np.asarray(jax.jit(jax.vmap(wiring.prune))(encoding.enumerate_archs((3,) * 6)))
    live = np.unique(pruned[(pruned == wiring.LINEAR).any(1)], axis=0)
    named = np.stack([wiring.from_code(code) for code in NAMED.values()])
    others = live[~(live[:, None] == named[None]).all(2).any(1)]
    drawn = np.random.default_rng(seed).permutation(others)
    return np.concatenate([named, drawn])[:count]


def _predict(
    chosen: np.ndarray, problem: Problem
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return what each predictor says in each regime, `[A]`, and the learning rates `[A]`."""
    order, stem = _order()
    both = connectivity.over_wirings(_itself, chosen, problem.gram, order=order, stem=stem)
    paths = connectivity.statistics(chosen)
    random = np.random.default_rng(common.seed()).random(len(chosen))
    spectra = np.linalg.eigvalsh(both.ntk)
    cosine = connectivity.largest_cosine(problem.gram)
    bounds = jax.jit(jax.vmap(connectivity.published_bound, in_axes=(0, None)))(chosen, cosine)
    static = {
        "equation 12": np.asarray(bounds),
        "paths": paths.paths,
        "effective depth": paths.depth,
        "effective width": paths.width,
        "linear edges": paths.linear_edges.astype(float),
        "smallest eigenvalue, NNGP": np.linalg.eigvalsh(both.nngp)[:, 0],
        "smallest eigenvalue, NTK": spectra[:, 0],
        "trace of the NTK": spectra.sum(1),
        "1 / condition of the NTK": spectra[:, 0] / spectra[:, -1],
        "random": random,
    }
    rates = {"fixed": np.full(len(chosen), 1 / spectra[:, -1].max()), "tuned": 1 / spectra[:, -1]}
    first = (problem.targets**2).sum() / 2
    predicted = {}
    for regime, rate in rates.items():
        with jax.enable_x64(True):
            loss = jax.jit(jax.vmap(connectivity.linearised_loss, in_axes=(0, None, 0, None)))(
                both.ntk, problem.targets, rate, _STEPS.value
            )
            linearised = -np.log(np.asarray(loss) / first)
        predicted[regime] = {"linearised NTK": linearised} | static
    return predicted, rates


def _measure(
    setting: common.Setting,
    chosen: np.ndarray,
    problem: Problem,
    rates: dict[str, np.ndarray],
    folder: Path,
) -> dict[str, np.ndarray]:
    """Return the measured speeds of each regime, `[S, A]`."""
    order, stem = _order()
    module = DagMLP(width=_WIDTH.value, classes=problem.targets.shape[1], order=order, stem=stem)
    space = dag_mlp(module, features=problem.inputs.shape[1])
    context = run_context(
        network=space.options,
        data=datasets.digest(setting.dataset),
        image_size=setting.image_size,
        samples=_SAMPLES.value,
        steps=_STEPS.value,
        # The one rate for all is that of the wirings that were chosen.
        wirings=[len(chosen), common.seed()],
    )
    descent = Descent(
        space, problem, _STEPS.value, setting.seeds, folder / "speeds.sqlite", context
    )
    return speeds(descent, chosen, rates)


def _correlations(predictors: dict[str, np.ndarray], speeds: np.ndarray) -> pd.DataFrame:
    """Return how well predictors order the speeds; wirings of one kernel are drawn together."""
    mean = speeds.mean(0)
    spectra = [predictors[name] for name in ("trace of the NTK", "1 / condition of the NTK")]
    each = zip(*spectra, strict=True)
    kernels = np.array([f"{trace:.4e}, {condition:.3e}" for trace, condition in each])
    rows = []
    for name, values in predictors.items():
        low, high = correlation.bootstrap_interval(
            correlation.spearman, values, mean, groups=kernels
        )
        given = correlation.partial_spearman(values, mean, predictors["paths"])
        rho = correlation.spearman(values, mean)
        rows.append({"score": name, "spearman": rho, "low": low, "high": high, "| paths": given})
    return pd.DataFrame(rows)


def _parts(
    regime: str,
    table: pd.DataFrame,
    predictors: dict[str, np.ndarray],
    speeds: np.ndarray,
    codes: list[str],
) -> list[Text | Table | Plot]:
    rate = "one learning rate for all" if regime == "fixed" else "the learning rate of each"
    scatter = figures.score_versus_accuracy(
        predictors["linearised NTK"],
        speeds.mean(0),
        score_name="predicted: linearised NTK",
        accuracy_name="measured speed",
    )
    bars = figures.correlation_bars(table, controls=("paths", "linear edges", "random"))
    note = f"Seeds agree at {_agreement(speeds):.2f} (Spearman)." if len(speeds) > 1 else ""
    return [
        Table(f"Spearman with measured speed, {rate}", table, f"{_CORRELATIONS_NOTE} {note}"),
        Plot(
            f"Predicted speed, {rate}",
            scatter,
            "Measured over predicted speed of each wiring.",
            names=codes,
        ),
        Plot(f"Predictors, {rate}", bars, "Spearman of each predictor; trivial counts are grey."),
    ]


def _named(
    predictors: dict[str, dict[str, np.ndarray]],
    speeds: dict[str, np.ndarray],
    rates: dict[str, np.ndarray],
) -> pd.DataFrame:
    """Return what was measured, predicted and promised of the named wirings, the first ones."""
    rows = []
    for column, (name, code) in enumerate(NAMED.items()):
        row: dict[str, Any] = {"wiring": name, "code": code}
        for regime in REGIMES:
            eigenvalue = predictors[regime]["smallest eigenvalue, NNGP"][column]
            kept = 1 - rates[regime][column] * eigenvalue / 2  # of the squared error, each step
            row |= {
                f"{regime}: speed": speeds[regime][:, column].mean(),
                f"{regime}: predicted": predictors[regime]["linearised NTK"][column],
                f"{regime}: promised": -_STEPS.value * np.log(kept),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _beside_neural_tangents(problem: Problem) -> Table | Text:
    """Return how far the exact kernels are from those of neural-tangents, if that is installed."""
    title = "The kernels by neural-tangents"
    try:
        from jaxnas.kernels import analytic
    except ImportError as error:
        return Text(title, f"Left out. {error}")
    wirings = np.stack([wiring.from_code(code) for code in NAMED.values()])
    exact = connectivity.over_wirings(_itself, wirings, problem.gram, order="pre")
    unit_rows = problem.inputs / problem.inputs.shape[1] ** 0.5
    rows = []
    for at, (name, code) in enumerate(NAMED.items()):
        with jax.enable_x64(True):
            found = analytic.fully_connected_cell(wirings[at], unit_rows)
        row = {"wiring": name, "code": code}
        for kernel, ours, theirs in zip(("NNGP", "NTK"), exact, found, strict=True):
            row[kernel] = f"{abs(np.asarray(theirs) - ours[at]).max() / abs(ours[at]).max():.0e}"
        rows.append(row)
    return Table(title, pd.DataFrame(rows), _BESIDE_NOTE)


def _agreement(speeds: np.ndarray) -> float:
    return correlation.seed_agreement(speeds) if len(speeds) > 1 else float("nan")


def _describe() -> str:
    return (
        f"{_NUM_WIRINGS.value} wirings of four nodes, width {_WIDTH.value}, {_ORDER.value} order; "
        f"{_SAMPLES.value} images, {_STEPS.value} steps of full-batch gradient descent."
    )


def _order() -> tuple[Order, Stem]:
    return ("post", "relu") if _ORDER.value == "post" else ("pre", "linear")


def _itself(both: Kernels) -> Kernels:
    return both


if __name__ == "__main__":
    launch(main)
