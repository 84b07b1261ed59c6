r"""The scores on transformers that somebody has trained: PiT, AutoFormer-Tiny and NAS-Bench-BERT.

    python -m experiments.transformers --space=pit --num_seeds=3
    python -m experiments.transformers --space=autoformer --num_seeds=3
    python -m experiments.transformers --space=bert --num_seeds=1

Scores the networks of a table and prints Spearman's correlation of each score with each accuracy of
the table, with its interval, and the partial correlation given log #params. #params of the trained
networks, FLOPs, depth, width and a random score stand beside them. Images are resized to 64 pixels
(the networks were trained at 224, --image_size=224), texts are sentences of SST-2 in hashed words.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import benchmarks, spaces
from jaxnas.benchmarks.transformers import AUTOFORMER, BERT, PIT, chosen
from jaxnas.datasets import text, tokens
from jaxnas.launch import launch
from jaxnas.runs import Report, Text, run_context
from jaxnas.types import SearchSpace

# The table of a space, its choices, those of depth and width among them, and the accuracies.
_VISION = tuple(f"{data}_base_acc" for data in ("c100", "flower", "chaoyang"))
_TASKS = ("glue", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts")
_STAGES = ("depth_1", "depth_2", "depth_3")
SPACES: dict[str, Any] = {
    "pit": (benchmarks.pit, PIT, _STAGES, "base_dim", _VISION),
    "autoformer": (benchmarks.autoformer, AUTOFORMER, ("depth",), "hidden_dim", _VISION),
    "bert": (benchmarks.nasbench_bert, BERT, ("layers",), "hidden_size", _TASKS),
}

_SPACE = flags.DEFINE_enum("space", "pit", tuple(SPACES), "Search space whose table is read.")
_NUM_ARCHS = flags.DEFINE_integer(
    "num_archs", 300, "Number of networks: the first of the table.", 4
)
_PROXIES = common.define_proxies(
    [
        *("gradient_diversity_mean", "gradient_diversity", "layer_balance", "mgm", "grad_norm"),
        *("unified_kernel", "gradient_correlation", "gradient_values", "ntk_condition", "zico"),
        *("naswot", "swap", "expressivity", "progressivity", "trainability", "channel_entropy"),
        *("az_nas", "panel", "quintet", "pair"),
    ]
)

common.reads(*common.BATCHES, *common.PROCESSES, "plan", "deduplicate")


def main() -> None:
    """Score and correlate."""
    setting = _sentences() if _SPACE.value == "bert" else _images(spaces.BY_NAME[_SPACE.value])
    table_of, choices, depths, width, accuracies = SPACES[_SPACE.value]
    table = table_of()
    archs = table.archs[: _NUM_ARCHS.value]
    with common.run_folder(f"transformers_{_SPACE.value}") as (folder, meter):
        names = list(dict.fromkeys([*_PROXIES.value, "flops"]))
        scored = common.score(setting, archs, names, folder)
        decisions = [chosen(choices, arch) for arch in archs]
        controls = {
            "#params": table.params[: len(archs)],
            "depth": [sum(one[name][0] for name in depths) for one in decisions],
            "width": [one[width][0] for one in decisions],
            "random": np.random.default_rng(common.seed()).random(len(archs)),
        }
        ranking, summary = common.ranking(
            {name: np.array([one], float) for name, one in controls.items()} | scored.scores,
            {name: table.columns[name][: len(archs)] for name in accuracies},
            np.array([setting.space.representative(arch) for arch in archs]),
        )
    seconds = pd.Series(scored.seconds.ravel()).median()  # nan if nothing was scored now
    pool = Text(
        "The pool",
        f"{len(archs)} trained networks, {_SPACE.value}, {len(setting.seeds)} draw(s). "
        f"{common.failures(scored)} {seconds:.2f} CPU seconds a network and draw in the median, "
        f"{scored.cpu_seconds:.0f} in all, compilation included.",
    )
    title = f"Rank correlations of transformers: {_SPACE.value}"
    report = Report(title, f"Batches of {setting.context}.", [pool, *ranking])
    summary["scoring_cpu_seconds"] = scored.cpu_seconds
    common.finish(folder, meter, report, summary)


def _images(factory: Callable[..., SearchSpace]) -> common.Setting:
    """Return the setting of a space that reads images."""
    size = flags.FLAGS.image_size or 64

    def space(*, classes: int, colors: int, **_: Any) -> SearchSpace:
        return factory(image_size=size, classes=classes, colors=colors)

    return common.with_images(common.setting(space), flags.FLAGS.batch_size, size)


def _sentences() -> common.Setting:
    """Return the setting of encoders, which read sentences."""
    common.refuse("image_size", "dataset", because="the encoders read sentences")
    setting, batch_size = common.setting(lambda **_: spaces.bert()), flags.FLAGS.batch_size
    sentences = text.bundled_task("sst2").train
    numbers = tokens.tokenize(tokens.HashedWords(setting.space.options["vocabulary"]), sentences)
    return setting._replace(
        batch=lambda seed: tokens.draw(numbers, batch_size, seed=seed, lengths=(64,)),
        context=run_context(data="sst2", words="hashed", length=64, batch_size=batch_size),
    )


if __name__ == "__main__":
    launch(main)
