r"""KNAS on text: score wirings of a pre-trained encoder, fine-tune the best k, choose by a dev set.

    python -m experiments.knas_text --model=FOLDER --task=rte --output_dir=results/knas_text

FOLDER holds an encoder of the BERT or RoBERTa family as Hugging Face's tools save it. Samples
wirings near the pre-trained one (extra skip connections, dropped layers, another activation),
scores them (by MGM, unless --proxies names others) on labelled sentences before any training, and
fine-tunes the best k with a few seeds each. Beside it, with as many runs: the encoder as it is, and
k random wirings. With --ranked=-1 every candidate is fine-tuned, which says how well each score
ranks.

The space is a reconstruction: that of the paper was not published. The dev set that chooses is cut
from the training set; the test set is looked at once a run, and never chooses.

Measured with MiniLM on SST-2 (docs/results/text.md, 56 CPU minutes): MGM ranks 24 fine-tuned
wirings with Spearman .71 by test and .48 (.07 to .80) by dev accuracy, the best four by it do
better than random ones by 1.5 points in the mean, and the unchanged encoder does better than all of
them. On MRPC the best four by MGM do worse than random ones, by .8 points, and than the encoder, by
2.0.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import common, text_report
from experiments.text_runs import Data, FineTuning, Tuner, run
from jaxnas import pretrained, proxies
from jaxnas.datasets import text, tokens
from jaxnas.datasets.text import Texts
from jaxnas.launch import launch
from jaxnas.runs import Report, Text
from jaxnas.scorer import Scorer, Scores, run_context
from jaxnas.spaces.encoder import EncoderNetwork, Options, encoder, layers, wiring
from jaxnas.training.adamw import FineTuneOptions
from jaxnas.types import Batch, SearchSpace

_MODEL = flags.DEFINE_string("model", None, "Folder of the pre-trained encoder.", required=True)
_TASK = flags.DEFINE_enum(
    "task", "rte", tuple(text.SAMPLES), "Task, of the samples that come with jaxnas."
)
_TRAIN_FILE = flags.DEFINE_string(
    "train_file", None, "Training set to use instead of --task: .tsv, .jsonl or .parquet."
)
_TEST_FILE = flags.DEFINE_string("test_file", None, "Test set to use with --train_file.")
_TEST_SPLIT = flags.DEFINE_string(
    "test_split", None, "Split to read of a --test_file that has a column `split`."
)
_TRAIN_SPLIT = flags.DEFINE_string(
    "train_split", None, "Split to read of a --train_file that has a column `split`."
)
_TRAIN_SIZE = flags.DEFINE_integer(
    "train_size", None, "Largest number of training examples. [all]", lower_bound=1
)
_DEV_SIZE = flags.DEFINE_integer(
    "dev_size", 64, "Number of training examples held out as the dev set.", lower_bound=1
)
_MAX_LENGTH = flags.DEFINE_integer(
    "max_length", 128, "Largest number of tokens of an example.", lower_bound=4
)
_PROXIES = common.define_proxies(["mgm"])
_SCORED = flags.DEFINE_integer("scored", 32, "Number of sentences for each score.", lower_bound=1)
_SCORE_SEEDS = flags.DEFINE_integer(
    "score_seeds", 2, "Number of draws of head and sentences.", lower_bound=1
)
_NUM_CANDIDATES = flags.DEFINE_integer(
    "num_candidates", 24, "Number of wirings to score.", lower_bound=1
)
_CHANGES = flags.DEFINE_integer(
    "changes", 3, "Largest number of changes of a wiring.", lower_bound=1
)
_JOIN = flags.DEFINE_enum("join", "norm", layers.JOINS, "How a skip connection is added.")
_GATE = flags.DEFINE_float("gate", 0.0, "Initial value of the gates, with --join=gate.")
_POOLING = flags.DEFINE_enum("pooling", "mean", layers.POOLINGS, "What the head reads.")
_K = flags.DEFINE_integer("k", 4, "Number of wirings to fine-tune.", lower_bound=1)
_TUNE_SEEDS = flags.DEFINE_integer(
    "tune_seeds", 2, "Number of fine-tuning runs of a wiring.", lower_bound=1
)
_RANKED = flags.DEFINE_integer(
    "ranked",
    0,
    "Number of further candidates to fine-tune for rank correlations. -1 for all.",
    lower_bound=-1,
)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Number of epochs of fine-tuning.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-4, "Learning rate of fine-tuning.")
_RANK = flags.DEFINE_integer(
    "lora_rank",
    None,
    "Rank of the factors to train instead of whole layers. [train the layers]",
    lower_bound=1,
)
_TUNE_BATCH = flags.DEFINE_integer(
    "tune_batch", 16, "Number of examples of a training step.", lower_bound=1
)

_OF_DATA = (_TASK, _TRAIN_FILE, _TRAIN_SPLIT, _TEST_FILE, _TEST_SPLIT, _TRAIN_SIZE, _DEV_SIZE)

common.reads()


def main() -> None:
    """Search and report."""
    if _JOIN.value != "gate":
        common.refuse("gate", because="only --join=gate has gates")
    source = pretrained.load(_MODEL.value)
    data, classes = _data()
    options = Options(classes=classes, pooling=_POOLING.value, join=_JOIN.value, gate=_GATE.value)
    space = encoder(source, options)
    if not _K.value <= _NUM_CANDIDATES.value:
        raise ValueError(
            f"k must be at most the number of candidates: got k={_K.value} with "
            f"{_NUM_CANDIDATES.value} candidates; sample more or lower k."
        )
    names = list(proxies.expand(_PROXIES.value).names)
    with common.run_folder("knas_text") as (folder, meter):
        archs = wiring.sample(
            space.num_choices, _NUM_CANDIDATES.value, changes=_CHANGES.value, seed=common.seed()
        )
        scored = _scores(space, archs, data, names, folder)
        scores = {name: scored.mean(name) for name in names}
        tuning = FineTuneOptions(epochs=_EPOCHS.value, learning_rate=_LEARNING_RATE.value)
        network = EncoderNetwork(config=source.config, options=options)
        tuner = Tuner(
            *(network, source.weights, data, _TUNE_BATCH.value, _lengths()),
            *(tuning, _RANK.value, folder / "runs.json", _context(space)),
        )
        arms = _arms(tuner, archs, scores, space)
        count = len(archs) if _RANKED.value < 0 else min(_RANKED.value, len(archs))
        ranked = [_runs(tuner, arch) for arch in archs[:count]]
    parts, summary = text_report.build(
        text_report.FineTunedPool(
            [space.to_string(arch) for arch in archs],
            np.array([space.num_params(arch) for arch in archs], float),
            (archs != 0).sum(1),
            *(scores, arms, ranked, _K.value, common.seed()),
        )
    )
    task = _TRAIN_FILE.value or _TASK.value
    subtitle = (
        f"{task}: {len(data.train.labels)} training, {len(data.dev.labels)} dev and "
        f"{len(data.test.labels)} test examples; skip connections joined by {_JOIN.value}, "
        f"{_POOLING.value} pooling; {_SCORED.value} examples and {_SCORE_SEEDS.value} draw(s) a "
        "score."
    )
    parts.insert(1, Text("Scores", common.failures(scored)))
    report = Report(f"KNAS on text: {', '.join(names)}", subtitle, parts)
    common.finish(folder, meter, report, summary | {"scoring_seconds": scored.cpu_seconds})


def _data() -> tuple[Data, int]:
    """Return the task that the flags name as tokens, and its number of classes."""
    if _TRAIN_FILE.value is None:
        of_files = ("test_file", "test_split", "train_split")
        common.refuse(*of_files, because="it belongs to a --train_file")
        task = text.bundled_task(_TASK.value)
        train, test = task.train, task.dev
    elif _TEST_FILE.value is None:
        raise ValueError("--train_file needs --test_file beside it: got none; name one.")
    else:
        common.refuse("task", because="--train_file is the task")
        train = text.load_texts(_TRAIN_FILE.value, split=_TRAIN_SPLIT.value)
        test = text.load_texts(_TEST_FILE.value, split=_TEST_SPLIT.value)
    order = np.random.default_rng(common.seed()).permutation(len(train.labels))
    if len(order) <= _DEV_SIZE.value:
        raise ValueError(
            f"dev_size must leave training examples: got {_DEV_SIZE.value} of {len(order)}."
        )
    dev, rest = order[: _DEV_SIZE.value], order[_DEV_SIZE.value :][: _TRAIN_SIZE.value]
    tokenizer = pretrained.load_tokenizer(_MODEL.value, max_length=_MAX_LENGTH.value)
    parts = (_chosen(train, rest), _chosen(train, dev), test)
    data = Data(*(tokens.tokenize(tokenizer, part, lengths=_lengths()) for part in parts))
    return data, 1 + int(max(part.labels.max() for part in data))


def _lengths() -> tuple[int, ...]:
    """Return the lengths that examples are padded to: few, because each costs a compilation."""
    most = _MAX_LENGTH.value
    return (*(length for length in (32, 64, 128, 256) if length < most), most)


def _chosen(examples: Texts, places: np.ndarray) -> Texts:
    return Texts(
        tuple(examples.first[at] for at in places),
        examples.second and tuple(examples.second[at] for at in places),
        examples.labels[places],
    )


def _scores(
    space: SearchSpace, archs: np.ndarray, data: Data, names: list[str], folder: Path
) -> Scores:
    """Return the scores of the wirings, from the store of the run where it holds them."""

    def batch(seed: int) -> Batch:
        return tokens.draw(data.train, _SCORED.value, seed=seed, lengths=_lengths())

    drawn = {flag.name: flag.value for flag in (*_OF_DATA, _MAX_LENGTH, _SCORED)}
    scorer = Scorer(
        *(space, batch, names),
        store=folder / "scores.sqlite",
        context=run_context(**drawn, seed=common.seed()),
        seeds=range(_SCORE_SEEDS.value),
    )
    with scorer:
        return scorer(archs)


def _context(space: SearchSpace) -> dict[str, Any]:
    of_runs = (_MAX_LENGTH, _TUNE_BATCH, _EPOCHS, _LEARNING_RATE, _RANK)
    options = {flag.name: flag.value for flag in (*_OF_DATA, *of_runs)}
    return options | {"seed": common.seed(), "model": _MODEL.value, "space": repr(space.options)}


def _arms(
    tuner: Tuner, archs: np.ndarray, scores: dict[str, np.ndarray], space: SearchSpace
) -> dict[str, list[FineTuning]]:
    """Return the runs of each way to spend them, the searches first."""
    k, seeds = _K.value, _TUNE_SEEDS.value
    random = np.random.default_rng(common.seed()).permutation(len(archs))[:k]
    chosen = {name: np.argsort(-values, kind="stable")[:k] for name, values in scores.items()}
    arms = {
        f"{name}-{k}": [tuning for at in places for tuning in _runs(tuner, archs[at])]
        for name, places in (chosen | {"random": random}).items()
    }
    plain = np.zeros(len(space.num_choices), np.int32)
    return arms | {"unchanged": [run(tuner, plain, seed) for seed in range(k * seeds)]}


def _runs(tuner: Tuner, arch: np.ndarray) -> list[FineTuning]:
    return [run(tuner, arch, seed) for seed in range(_TUNE_SEEDS.value)]


if __name__ == "__main__":
    launch(main)
