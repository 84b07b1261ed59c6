r"""Do exact kernels of infinitely wide networks rank NAS-Bench-201 cells by their accuracy?

    python -m experiments.connectivity_ranking --num_archs=2000 --image_size=4

Three kernels of each cell: `wiring`, where a convolution is a linear map (`connectivity.recursion`,
`pre` order); `stacked`, that wiring twice in each of three stages with a residual block in between,
as the benchmark stacks its cells; and `convolutional`, with its convolutions and poolings on small
images (`connectivity.convolutional`). Five predictors from the NTK of each: smallest eigenvalue,
minus log condition number, linearised training loss, alignment with the labels, and the loss on
examples that are left out. Beside them equation 12 of Chen et al., NeurIPS 2022, arXiv 2205.05662,
and what knows nothing of kernels.

The table is of test accuracies of cells with odd official indices. It is not a clean test of the
predictors: images and ridge were chosen by accuracies after 12 epochs of 250 cells with even ones,
where the left-out loss led (.64, .64, .61; -log condition .57, .62, .53); but before that the test
accuracies of all cells had been seen beside `wiring` and `stacked`, and of 300 beside
`convolutional`.

2,000 cells, 50 images of the bundled CIFAR-10 at 4x4 pixels, two draws, six CPU minutes. Spearman
with CIFAR-10, CIFAR-100 and ImageNet16-120 (95 % intervals are +-.02), and with CIFAR-10 given
#params and given the number of convolutions:

    #params                             .76   .73   .70          .51
    #live                               .81   .78   .76    .45   .52
    convolutions                        .74   .76   .75    .46
    equation 12                         .02   .01   .10   -.07  -.43
    wiring, -log condition              .75   .76   .72    .56   .40
    wiring, smallest eigenvalue         .64   .65   .66    .38  -.15
    stacked, -log condition             .78   .78   .73    .57   .42
    stacked, -left-out loss             .78   .78   .73    .57   .43
    convolutional, -log condition       .88   .85   .80    .71   .75
    convolutional, -linearised loss     .85   .82   .76    .63   .68
    convolutional, -left-out loss       .79   .78   .77    .68   .58
    convolutional, alignment           -.75  -.75  -.71   -.62  -.54
    random                             -.02  -.02  -.01    .02  -.01

So a wiring alone says as much as a count, stacked a little more on the two CIFARs. With its
convolutions and poolings the condition of the infinitely wide network's NTK seems to rank better
than every count, but it is the best of fifteen by this very table. With other images and another
2,000 cells (--seed=9) it has .82, .79, .72, the linearised loss .84, .81, .74, #live .81, .79, .75
and the number of convolutions .76, .77, .76: it depends on the images, and ranks about as well as
counting the parameters that have a say.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import Batch, connectivity, correlation, spaces, wiring
from jaxnas.benchmarks import nasbench201
from jaxnas.benchmarks.tabular import DATASETS
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, ScoreRow, ScoreStore, Table, Text, figures, track
from jaxnas.spaces.nasbench201 import cell, equivalence
from jaxnas.types import Kernels

_NUM_ARCHS = flags.DEFINE_integer(
    "num_archs", 2000, "Number of cells with a path to rank.", 20, 7500
)

common.reads(*common.BATCHES)

STEPS = 800
BLOCK = wiring.from_code("2_12")  # residual: two layers, and a projection without a ReLU
CONTROLS = ("#params", "#live", "convolutions", "random")

_NOTE = (
    "Of the mean over draws of images. low and high: 95 % bootstrap interval over functions; "
    "| #params: given #params; | convolutions: given the number of convolutions on a path. #live: "
    "parameters that have a say in the output."
)


def main() -> None:
    """Score, and compare."""
    setting = common.setting()
    archs = _pool(_NUM_ARCHS.value, common.seed())
    with (
        common.run_folder("connectivity_ranking") as (folder, meter),
        ScoreStore(folder / "predictors.sqlite") as store,
    ):
        run = store.open_run(setting.context | {"steps": STEPS})
        by_seed = [_predict(store, run, seed, archs, setting.batch(seed)) for seed in setting.seeds]
        ranked = _counts(archs, setting.batch(common.seed()))
        ranked |= {name: np.mean([one[name] for one in by_seed], 0) for name in by_seed[0]}
    tables = {data: _correlations(ranked, archs, data) for data in DATASETS}
    parts: list[Table | Plot | Text] = [
        Table(f"Spearman with {data} test accuracy", table, _NOTE) for data, table in tables.items()
    ]
    bars = figures.correlation_bars(tables[DATASETS[0]], controls=CONTROLS)
    parts.append(Plot("Predictors", bars, f"Spearman with {DATASETS[0]} test accuracy."))
    described = (
        f"{len(archs)} cells with odd indices; {len(setting.seeds)} draw(s) of images of "
        f"{setting.image_size}x{setting.image_size} pixels."
    )
    summary: dict[str, Any] = {
        f"spearman_{row['score']}_{data}": row["spearman"]
        for data, table in tables.items()
        for _, row in table.iterrows()
    }
    common.finish(folder, meter, Report("Connectivity and accuracy", described, parts), summary)


def _pool(count: int, seed: int) -> np.ndarray:
    """Return cells with a path and an odd official index, `int32[A, 6]`."""
    odd = nasbench201().archs[1::2]
    connected = connectivity.statistics(connectivity.from_nasbench201(odd)).paths > 0
    return np.random.default_rng(seed).permutation(odd[connected])[:count]


def _counts(archs: np.ndarray, batch: Batch) -> dict[str, np.ndarray]:
    """Return what is known of cells without a kernel of theirs, `[A]` each."""
    benchmark, wirings = nasbench201(), connectivity.from_nasbench201(archs)
    gram = connectivity.input_gram(connectivity.unit_rows(batch.inputs))
    bound = jax.jit(jax.vmap(connectivity.published_bound, in_axes=(0, None)))
    paths = connectivity.statistics(wirings)
    count = spaces.nasbench201().num_params
    return {
        "#params": benchmark.params[benchmark.index(archs)].astype(float),
        "#live": np.array([count(equivalence.representative(arch)) for arch in archs]),
        "convolutions": np.asarray(paths.linear_edges, float),
        "random": np.random.default_rng(common.seed()).random(len(archs)),
        "effective depth": np.asarray(paths.depth),
        "equation 12": np.asarray(bound(wirings, connectivity.largest_cosine(gram))),
    }


def _predict(
    store: ScoreStore, run: int, seed: int, archs: np.ndarray, batch: Batch
) -> dict[str, np.ndarray]:
    """Return the predictors of all three kernels, `[A]` each, from the store where it has them."""
    pruned = np.asarray(jax.jit(jax.vmap(wiring.prune))(connectivity.from_nasbench201(archs)))
    same_wiring = [wiring.to_code(arch) for arch in pruned]
    same_function = [cell.to_string(equivalence.representative(arch)) for arch in archs]
    gram = connectivity.input_gram(connectivity.unit_rows(batch.inputs))

    def of_wiring(code: str) -> np.ndarray:
        return _of_chain([wiring.from_code(code)], gram)

    def of_stack(code: str) -> np.ndarray:
        stage = [wiring.from_code(code)] * 2
        return _of_chain([*stage, BLOCK, *stage, BLOCK, *stage], gram)

    def of_convolutions(string: str) -> np.ndarray:
        return connectivity.convolutional_kernels(cell.from_string(string), batch.inputs).ntk

    labels = connectivity.centred_one_hot(batch.labels, int(max(batch.labels)) + 1)
    kinds: dict[str, tuple[list[str], Callable[[str], np.ndarray]]] = {
        "wiring": (same_wiring, of_wiring),
        "stacked": (same_wiring, of_stack),
        "convolutional": (same_function, of_convolutions),
    }
    done, found = store.done(run), {}
    for kind, (names, kernel) in kinds.items():
        different = sorted(set(names))
        for name in track(different, len(different), f"{kind}, seed {seed}"):
            if (name, f"{kind}: {PREDICTORS[-1]}", seed) in done:
                continue
            values = zip(PREDICTORS, _of_kernel(kernel(name), labels), strict=True)
            store.add(run, [_row(name, f"{kind}: {one}", seed, value) for one, value in values])
        table = store.frame(run).set_index(["proxy", "seed", "arch"])["score"].to_dict()
        for predictor in (f"{kind}: {one}" for one in PREDICTORS):
            found[predictor] = np.array([table[predictor, seed, name] for name in names])
    return found


def _of_chain(cells: list[np.ndarray], gram: np.ndarray) -> np.ndarray:
    return connectivity.over_wirings(_ntk, wiring.chain(cells)[None], gram, order="pre")[0]


def _ntk(both: Kernels) -> Any:
    return both.ntk


def _row(name: str, predictor: str, seed: int, value: float) -> ScoreRow:
    return ScoreRow(name, predictor, seed, value, "ok" if np.isfinite(value) else "not finite")


def _of_kernel(ntk: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Return the predictors, larger is better; the kernel is scaled to mean eigenvalue 1."""
    kernel = ntk * len(ntk) / np.trace(ntk)
    eigenvalues = np.maximum(np.linalg.eigvalsh(kernel), np.finfo(float).eps)
    target = labels @ labels.T
    with jax.enable_x64(True):
        trained = _trained(kernel, labels, 1 / eigenvalues[-1], STEPS)
        left_out = _left_out(kernel, labels)
    return (
        eigenvalues[0] * np.trace(ntk) / len(ntk),
        np.log(eigenvalues[0] / eigenvalues[-1]),
        -float(trained),
        float((kernel * target).sum() / np.linalg.norm(kernel) / np.linalg.norm(target)),
        -float(left_out),
    )


PREDICTORS = (
    "smallest eigenvalue",
    "-log condition",
    "-linearised loss",
    "alignment",
    "-left-out loss",
)
_trained = jax.jit(connectivity.linearised_loss)
_left_out = jax.jit(connectivity.leave_one_out_loss)


def _correlations(ranked: dict[str, np.ndarray], archs: np.ndarray, data: str) -> pd.DataFrame:
    accuracies = nasbench201().accuracy(archs, data)
    functions = np.array([equivalence.representative(arch) for arch in archs])
    rows = []
    for name, values in ranked.items():
        low, high = correlation.bootstrap_interval(
            correlation.spearman, values, accuracies, groups=functions
        )
        row = {
            "score": name,
            "spearman": correlation.spearman(values, accuracies),
            "low": low,
            "high": high,
        }
        for given in ("#params", "convolutions"):  # by rank, so the log makes no difference
            row[f"| {given}"] = correlation.partial_spearman(values, accuracies, ranked[given])
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    launch(main)
