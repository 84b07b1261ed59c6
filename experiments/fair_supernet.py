r"""Which signal of a supernet ranks networks? All 6,561 of NAS-Bench-Macro know the answer.

    python -m experiments.fair_supernet --recipe=fair --channels=16 --image_size=16
    python -m experiments.fair_supernet --recipe=published --channels=16 --image_size=16

Trains a supernet by a recipe, reads its indicators and the losses of inherited paths, and compares
them with the accuracies of the trained networks: on one half of the networks, from which a choice
of signal may be made, and on the other half, which is for the report. Beside them stand scores of
untrained networks and plain costs. Evolution by the signal of the recipe then searches the whole
space for the best network under a cap of FLOPs. With --num_orders=2 each draw of the initial
weights is trained twice, on the images in another order: what two such runs agree on, beyond what
two draws of the weights do, is a matter of the draw, not of the structure.

Measured (docs/results/supernets.md; 16 channels, 16 pixels, 9,500 images): the inherited loss of
recipe `fair` has Spearman .80 after 8 epochs and .67 after 4 (three runs each), the indicators of
`published` -.24, FLOPs .72, and `swap`, of untrained networks, .91.

On a GPU, the benchmark's own size on all of CIFAR-10:

    python -m experiments.fair_supernet --recipe=fair --channels=32 --dataset=cifar10:FOLDER \
        --train_batch=128 --epochs=30 --num_seeds=3
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import common, supernet_report, supernet_runs
from experiments.supernet_report import Outcome
from experiments.supernet_runs import Images, TrainedSupernet
from jaxnas import proxies, search
from jaxnas.benchmarks import MacroBenchmark, nasbench_macro
from jaxnas.benchmarks.macro import NUM_CHOICES
from jaxnas.launch import launch
from jaxnas.runs import Report
from jaxnas.spaces import nasbench_macro as space_of
from jaxnas.spaces.mobilenetv2 import SearchedNetwork
from jaxnas.spaces.nasbench_macro import layout
from jaxnas.supernet.recipes import Recipe
from jaxnas.types import SearchSpace

_NUM_INHERITED = flags.DEFINE_integer(
    "num_inherited",
    600,
    "Number of networks whose scores are compared with their accuracies.",
    8,
    6561,
)
_PROXIES = common.define_proxies(["swap", "naswot"])
_NUM_ORDERS = flags.DEFINE_integer(
    "num_orders", 1, "Number of orders of the images for each draw of the weights.", 1
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", 20, "Number of generations of evolution, of 50 networks each.", 1
)
_K = flags.DEFINE_integer("k", 10, "Number of the found networks that are trained.", 1, 50)
_CAP = flags.DEFINE_float(
    "flops_quantile", 0.5, "Cap of FLOPs, as a quantile of those of the space.", 0, 1
)

common.reads(*common.BATCHES, "channels", "norm", "plan", "deduplicate")
flags.adopt_module_key_flags(supernet_runs)


def main() -> None:
    """Train, read, search and compare."""
    setting = common.setting(_space)
    recipe = supernet_runs.recipe()
    benchmark = nasbench_macro()
    cap = float(np.quantile(benchmark.flops, _CAP.value))
    rng = np.random.default_rng(0)  # the halves are the same for all runs
    rows = rng.permutation(len(benchmark.archs))[: _NUM_INHERITED.value]
    if not (benchmark.flops[rows] <= cap).any():
        raise ValueError(
            f"No network that is compared costs {cap:.3g} FLOPs or less: raise --flops_quantile or "
            "--num_inherited."
        )
    with common.run_folder(f"fair_supernet_{recipe.name}") as (folder, meter):
        first = setting._replace(
            seeds=setting.seeds[:1]
        )  # one draw: untrained scores hardly depend on it
        untrained = {
            name: _untrained(first, name, benchmark, rows, cap, folder) for name in _PROXIES.value
        }
        module, images = _module(setting, recipe), supernet_runs.images(setting)
        outcomes = []
        for seed, order in itertools.product(setting.seeds, range(_NUM_ORDERS.value)):
            run = supernet_runs.run(module, recipe, images, folder, seed, order)
            outcomes.append(_outcome(run, benchmark, rows, cap))

        def by_all(archs: np.ndarray) -> np.ndarray:
            return np.mean([each.run.signal(archs) for each in outcomes], axis=0)

        together = _evolve(by_all, benchmark, cap, common.seed()) if len(outcomes) > 1 else None
    parts, summary = supernet_report.build(
        supernet_report.Comparison(
            benchmark, rows, outcomes, together, untrained, recipe, cap, _K.value, common.seed()
        )
    )
    report = Report(
        f"A supernet of NAS-Bench-Macro, {recipe.name}", _describe(setting, recipe, images), parts
    )
    common.finish(folder, meter, report, summary)


def _space(*, channels: int, cells: int, norm: str, **options: Any) -> SearchSpace:
    return space_of(channels=channels, head=40 * channels, norm=norm, **options)


def _module(setting: common.Setting, recipe: Recipe) -> SearchedNetwork:
    options = setting.space.options
    network_layout = layout(options["stem"], options["head"], setting.image_size)
    return SearchedNetwork(
        "batch", options["colors"], network_layout, options["classes"], recipe.bypass
    )


def _untrained(
    setting: common.Setting,
    name: str,
    benchmark: MacroBenchmark,
    rows: np.ndarray,
    cap: float,
    folder: Path,
) -> supernet_report.Untrained:
    """Return what a score says untrained; of an aggregate, beside the networks that are compared.

    So networks of all generations have one measure: the ranks that they would have among these.
    """
    chosen = proxies.expand(name)
    parts = [proxy.name for proxy in chosen.proxies]
    compared = common.score(setting, benchmark.archs[rows], parts, folder).scores

    def beside(archs: np.ndarray) -> np.ndarray:
        scored = common.score(setting, archs, parts, folder).scores
        each = (
            {part: np.append(compared[part], scored[part][:, [at]], axis=1) for part in parts}
            for at in range(len(archs))
        )
        return np.array([chosen.scores(pool)[name][:, -1].mean() for pool in each])

    scores = chosen.scores(compared)[name].mean(0)
    return supernet_report.Untrained(scores, _evolve(beside, benchmark, cap, common.seed()))


def _outcome(
    run: TrainedSupernet, benchmark: MacroBenchmark, rows: np.ndarray, cap: float
) -> Outcome:
    archs = benchmark.archs[rows]
    signals = run.by_inheritance(archs) | run.by_indicators(archs)
    return Outcome(run, signals, _evolve(run.signal, benchmark, cap, run.seed))


def _evolve(
    score: Callable[[np.ndarray], np.ndarray], benchmark: MacroBenchmark, cap: float, seed: int
) -> search.History:
    return search.constrained_evolution(
        NUM_CHOICES,
        score,
        key=jax.random.key(seed),
        legal=lambda archs: benchmark.flops[benchmark.index(archs)] <= cap,
        options=search.EvolutionOptions(generations=_GENERATIONS.value),
    )


def _describe(setting: common.Setting, recipe: Recipe, images: Images) -> str:
    options = recipe.options
    return (
        f"NAS-Bench-Macro at {setting.space.options['stem']} channels; {setting.image_size}x"
        f"{setting.image_size} images, {options.epochs} epochs of {options.batch_size} images a "
        f"step, rate {options.learning_rate}; kernels drawn by {recipe.initialization}, trained: "
        f"{recipe.trained}, classifier {'trained' if recipe.classifier else 'frozen'}, beside the "
        f"blocks: {recipe.bypass}; {_NUM_INHERITED.value} networks compared, "
        f"{len(images.valid[1])} images held out; seeds {', '.join(map(str, setting.seeds))}."
    )


if __name__ == "__main__":
    launch(main)
