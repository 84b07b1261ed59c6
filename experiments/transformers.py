r"""The scores on transformers that somebody has trained: PiT, AutoFormer-Tiny and NAS-Bench-BERT.

    python -m experiments.transformers --space=pit --num_seeds=3
    python -m experiments.transformers --space=autoformer --num_seeds=3
    python -m experiments.transformers --space=bert --num_seeds=1

Scores the networks of a table and prints Spearman's correlation of each score with each accuracy of
the table, with its interval, and the partial correlation given log #params. #params of the trained
networks, FLOPs, depth, width and a random score stand beside them. Images are resized to 64 pixels
(the networks were trained at 224, --image_size=224), texts are sentences of SST-2 in hashed words.
"""

from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import benchmarks, proxies, spaces
from jaxnas.benchmarks import transformers
from jaxnas.datasets import text, tokens
from jaxnas.launch import launch
from jaxnas.runs import Plot, Report, Table, Text, figures
from jaxnas.scorer import run_context
from jaxnas.types import SearchSpace

# The table of a space, the names of its depth and width, and of the accuracies.
_VISION = tuple(f"{data}_base_acc" for data in ("c100", "flower", "chaoyang"))
_TASKS = ("glue", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts")
SPACES: dict[str, Any] = {
    "pit": (benchmarks.pit, ("depth_1", "depth_2", "depth_3"), "base_dim", _VISION),
    "autoformer": (benchmarks.autoformer, ("depth",), "hidden_dim", _VISION),
    "bert": (benchmarks.nasbench_bert, ("layers",), "hidden_size", _TASKS),
}

_SPACE = flags.DEFINE_enum("space", "pit", tuple(SPACES), "Search space whose table is read.")
_NUM_ARCHS = flags.DEFINE_integer(
    "num_archs", 300, "Number of networks: the first of the table.", 4
)
_PROXIES = common.define_proxies(
    [
        *("gradient_diversity_mean", "gradient_diversity", "layer_balance", "mgm", "grad_norm"),
        *("unified_kernel", "gradient_correlation", "gradient_values", "ntk_condition", "naswot"),
        *("swap", "expressivity", "progressivity", "trainability", "channel_entropy"),
        *("az_nas", "panel", "quintet", "pair"),
    ]
)

common.reads(*common.BATCHES, *common.PROCESSES, "plan", "deduplicate")


def main() -> None:
    """Score and correlate."""
    table_of, depths, width, accuracies = SPACES[_SPACE.value]
    setting, table = _setting(), table_of()
    archs = table.archs[: _NUM_ARCHS.value]
    names = list(dict.fromkeys([*_PROXIES.value, "flops"]))
    proxies.expand(names)
    with common.run_folder(f"transformers_{_SPACE.value}") as (folder, meter):
        scored = common.score(setting, archs, names, folder)
    trained = spaces.bert() if _SPACE.value == "bert" else _vision(image_size=224, classes=100)
    chosen = [transformers.chosen(_choices(), arch) for arch in archs]
    controls = {
        "#params": [trained.num_params(arch) for arch in archs],
        "depth": [sum(one[name][0] for name in depths) for one in chosen],
        "width": [one[width][0] for one in chosen],
        "random": np.random.default_rng(common.seed()).random(len(archs)),
    }
    ranked = {name: np.array([one], float) for name, one in controls.items()} | scored.scores
    functions = np.array([setting.space.representative(arch) for arch in archs])
    found = []
    for name in accuracies:
        rows = common.correlate(
            *(ranked, table.columns[name][: len(archs)], ranked["#params"][0], functions),
            k=max(1, len(archs) // 10),
        )
        rows.insert(1, "accuracy", name)
        found.append(rows)
    rows = pd.concat(found)
    seconds = np.nanmedian(scored.seconds) if np.isfinite(scored.seconds).any() else np.nan
    pool = (
        f"{len(archs)} trained networks, {_SPACE.value}, {len(setting.seeds)} draw(s). "
        f"{common.failures(scored)} {seconds:.2f} CPU seconds a network and draw in the median, "
        f"{scored.cpu_seconds:.0f} in all, compilation included."
    )
    parts: list[Text | Table | Plot] = [
        Text("The pool", pool),
        Table("Rank correlations", rows, common.CORRELATIONS_NOTE),
        Plot(
            "Rank correlations",
            figures.correlation_bars(found[0], controls=(*controls, "flops")),
            f"Spearman correlation with {accuracies[0]}, with 95 % bootstrap intervals.",
        ),
    ]
    summary: dict[str, Any] = {
        f"spearman_{row['score']}_{row['accuracy']}": row["spearman"] for _, row in rows.iterrows()
    }
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    title = f"Rank correlations of transformers: {_SPACE.value}"
    common.finish(folder, meter, Report(title, f"Batches of {setting.context}.", parts), summary)


def _choices() -> transformers.Choices:
    return transformers.BY_NAME["nasbench_bert" if _SPACE.value == "bert" else _SPACE.value]


def _vision(**options: Any) -> SearchSpace:
    return spaces.BY_NAME[_SPACE.value](**options)


def _setting() -> common.Setting:
    """Return space and batches: of images, or of sentences."""
    size = flags.FLAGS.image_size or 64
    batch_size = flags.FLAGS.batch_size

    def space(*, classes: int, colors: int, **_: Any) -> SearchSpace:
        if _SPACE.value == "bert":
            return spaces.bert()
        return _vision(image_size=size, classes=classes, colors=colors)

    setting = common.setting(space)
    if _SPACE.value != "bert":
        return common.with_images(setting, batch_size, size)
    common.refuse("image_size", "dataset", because="the encoders read sentences")
    sentences = text.bundled_task("sst2").train
    numbers = tokens.tokenize(tokens.HashedWords(setting.space.options["vocabulary"]), sentences)
    return setting._replace(
        batch=lambda seed: tokens.draw(numbers, batch_size, seed=seed, lengths=(64,)),
        context=run_context(data="sst2", words="hashed", length=64, batch_size=batch_size),
    )


if __name__ == "__main__":
    launch(main)
