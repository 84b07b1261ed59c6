r"""KNAS on text: score wirings of a pre-trained encoder, fine-tune the best k, choose by a dev set.

    python -m experiments.knas_text --model=FOLDER --task=rte --output_dir=results/knas_text

FOLDER holds an encoder of the BERT or RoBERTa family as Hugging Face's tools save it. Samples
wirings near the pre-trained one (extra skip connections, dropped layers, another activation),
scores them (by MGM, unless --proxies names others) on labeled sentences before any training, and
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

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import flags

from experiments import common
from jaxnas import correlation, pretrained, proxies
from jaxnas.datasets import text, tokens
from jaxnas.launch import launch, say
from jaxnas.runs import JsonCache, Part, Report, Table, Text, correlation_table, run_context
from jaxnas.scorer import Scorer, Scores
from jaxnas.spaces.encoder_space import EncoderNetwork, Options, encoder, layers, wiring
from jaxnas.spaces.encoder_space.tuning import Splits, tune
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
    "train_size", None, "Largest number of training examples. [all]", 1
)
_DEV_SIZE = flags.DEFINE_integer(
    "dev_size", 64, "Number of training examples held out as the dev set.", 1
)
_MAX_LENGTH = flags.DEFINE_integer("max_length", 128, "Largest number of tokens of an example.", 4)
_PROXIES = common.define_proxies(["mgm"])
_SCORED = flags.DEFINE_integer("scored", 32, "Number of sentences for each score.", 1)
_SCORE_SEEDS = flags.DEFINE_integer("score_seeds", 2, "Number of draws of head and sentences.", 1)
_NUM_CANDIDATES = flags.DEFINE_integer("num_candidates", 24, "Number of wirings to score.", 1)
_CHANGES = flags.DEFINE_integer("changes", 3, "Largest number of changes of a wiring.", 1)
_JOIN = flags.DEFINE_enum("join", "norm", layers.JOINS, "How a skip connection is added.")
_GATE = flags.DEFINE_float("gate", 0.0, "Initial value of the gates, with --join=gate.")
_POOLING = flags.DEFINE_enum("pooling", "mean", layers.POOLINGS, "What the head reads.")
_K = flags.DEFINE_integer("k", 4, "Number of wirings to fine-tune.", 1)
_TUNE_SEEDS = flags.DEFINE_integer("tune_seeds", 2, "Number of fine-tuning runs of a wiring.", 1)
_RANKED = flags.DEFINE_integer(
    "ranked", 0, "Number of further candidates to fine-tune for rank correlations. -1 for all.", -1
)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Number of epochs of fine-tuning.", 1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-4, "Learning rate of fine-tuning.")
_RANK = flags.DEFINE_integer(
    "lora_rank", None, "Rank of the factors to train instead of whole layers. [train the layers]", 1
)
_TUNE_BATCH = flags.DEFINE_integer("tune_batch", 16, "Number of examples of a training step.", 1)

_OF_DATA = (_TASK, _TRAIN_FILE, _TRAIN_SPLIT, _TEST_FILE, _TEST_SPLIT, _TRAIN_SIZE, _DEV_SIZE)

common.reads()

DEV, TEST = "dev %", "test %"
DRAWS = 1000  # of random wirings, where all are fine-tuned

_OUTCOME_NOTE = (
    "Of each row the run with the best dev accuracy is chosen, and its test accuracy is the "
    "result; mean and sd are over all runs, of the mean of draws over the draws."
)
_RANKS_NOTE = (
    "Spearman with the mean accuracy over the runs of each wiring; 95 % bootstrap interval of the "
    "one with dev accuracy. Fewest changes: fewest decisions other than the pre-trained encoder's."
)


def main() -> None:
    """Search and report."""
    if _JOIN.value != "gate":
        common.refuse("gate", because="only --join=gate has gates")
    source = pretrained.load(_MODEL.value)
    splits = _splits()
    classes = 1 + int(max(part.labels.max() for part in splits))
    options = Options(classes=classes, pooling=_POOLING.value, join=_JOIN.value, gate=_GATE.value)
    space = encoder(source, options)
    network = EncoderNetwork(config=source.config, options=options)
    k, count = _K.value, _NUM_CANDIDATES.value
    if k > count:
        raise ValueError(
            f"k must be at most the number of candidates: got k={k} with {count} candidates; "
            "sample more or lower k."
        )
    archs = wiring.sample(space.num_choices, count, changes=_CHANGES.value, seed=common.seed())
    with common.run_folder("knas_text") as (folder, meter):
        scored = _score(space, archs, splits, folder)
        scores = {name: scored.mean(name) for name in scored.scores}
        run = _tuning(network, source.weights, space, splits, folder)
        ways = {name: np.argsort(-values, kind="stable") for name, values in scores.items()}
        ways["random"] = np.random.default_rng(common.seed()).permutation(count)
        seeds = range(_TUNE_SEEDS.value)
        arms = {
            f"{name}-{k}": pd.DataFrame(run(archs[at], seed) for at in way[:k] for seed in seeds)
            for name, way in ways.items()
        }
        unchanged = np.zeros(len(space.num_choices), np.int32)
        arms["unchanged"] = pd.DataFrame(run(unchanged, seed) for seed in range(k * len(seeds)))
        num_ranked = count if _RANKED.value < 0 else min(_RANKED.value, count)
        ranked = [pd.DataFrame(run(arch, seed) for seed in seeds) for arch in archs[:num_ranked]]
    rows = [_outcome(name, arm) for name, arm in arms.items()]
    if num_ranked == count:
        rows.append(_random_outcome(ranked))
    outcome = pd.DataFrame(rows)
    candidates = pd.DataFrame({"wiring": map(space.to_string, archs), **scores})
    if ranked:
        candidates[f"mean {DEV}"] = pd.Series([runs[DEV].mean() for runs in ranked])
    best = candidates.sort_values(scored.first, ascending=False, kind="stable").head(30)
    parts: list[Part] = [
        Table("As many runs, spent in several ways", outcome, _OUTCOME_NOTE),
        Table("Candidates", best, "The best 30 by the first score."),
        Text("Scores", common.failures(scored)),
    ]
    summary: dict[str, Any] = {"scoring_seconds": scored.cpu_seconds}
    for row in rows:
        summary |= {f"{row['runs of']}_test": row[TEST], f"{row['runs of']}_mean_test": row["mean"]}
    if len(ranked) > 2:
        ranks = _ranks(space, archs, scores, ranked)
        parts.insert(1, Table("Rank correlations", ranks, _RANKS_NOTE))
        summary |= {f"{row['score']}_spearman": row[DEV] for row in ranks.to_dict("records")}
    subtitle = (
        f"{_TRAIN_FILE.value or _TASK.value}: {len(splits.train.labels)} training, "
        f"{len(splits.dev.labels)} dev and {len(splits.test.labels)} test examples; skip "
        f"connections joined by {_JOIN.value}, {_POOLING.value} pooling; {_SCORED.value} examples "
        f"and {_SCORE_SEEDS.value} draw(s) a score."
    )
    report = Report(f"KNAS on text: {', '.join(scores)}", subtitle, parts)
    common.finish(folder, meter, report, summary)


def _splits() -> Splits:
    """Return the task that the flags name, as tokens."""
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
    parts = (train.take(rest), train.take(dev), test)
    return Splits(*(tokens.tokenize(tokenizer, part, lengths=_lengths()) for part in parts))


def _lengths() -> tuple[int, ...]:
    """Return the lengths that examples are padded to: few, because each costs a compilation."""
    most = _MAX_LENGTH.value
    return (*(length for length in (32, 64, 128, 256) if length < most), most)


def _score(space: SearchSpace, archs: np.ndarray, splits: Splits, folder: Path) -> Scores:
    """Return the scores of the wirings, from the store of the run where it holds them."""

    def batch(seed: int) -> Batch:
        return tokens.draw(splits.train, _SCORED.value, seed=seed, lengths=_lengths())

    drawn = {flag.name: flag.value for flag in (*_OF_DATA, _MAX_LENGTH, _SCORED)}
    scorer = Scorer(
        *(space, batch, list(proxies.expand(_PROXIES.value).names)),
        store=folder / "scores.sqlite",
        context=run_context(**drawn, seed=common.seed()),
        seeds=range(_SCORE_SEEDS.value),
    )
    with scorer:
        return scorer(archs)


def _tuning(
    network: EncoderNetwork,
    weights: Mapping[str, np.ndarray],
    space: SearchSpace,
    splits: Splits,
    folder: Path,
) -> Callable[[np.ndarray, int], dict[str, Any]]:
    """Return `run(arch, seed)`: a fine-tuning's wiring and accuracies, remembered in a file."""
    of_runs = (*_OF_DATA, _MAX_LENGTH, _TUNE_BATCH, _EPOCHS, _LEARNING_RATE, _RANK, _MODEL)
    context = {flag.name: flag.value for flag in of_runs}
    context |= {"seed": common.seed(), "space": repr(space.options)}
    cache = JsonCache(folder / "runs.json", "runs", context)
    options = FineTuneOptions(epochs=_EPOCHS.value, learning_rate=_LEARNING_RATE.value)

    def run(arch: np.ndarray, seed: int) -> dict[str, Any]:
        name = space.to_string(arch)

        def compute() -> dict[str, float]:
            found = tune(
                *(network, weights, arch, splits, options._replace(seed=seed)),
                rank=_RANK.value,
                batch_size=_TUNE_BATCH.value,
                lengths=_lengths(),
            )
            say(f"{name} @ {seed}: dev {found.dev:.2f} %, test {found.test:.2f} %")
            return {DEV: found.dev, TEST: found.test}

        return {"wiring": name, **cache(f"{name} @ {seed}", compute)}

    return run


def _outcome(name: str, runs: pd.DataFrame) -> dict[str, Any]:
    best = runs.iloc[runs[DEV].argmax()]  # the first of equals
    return {
        "runs of": name,
        "chosen": best["wiring"],
        DEV: best[DEV],
        TEST: best[TEST],
        "mean": runs[TEST].mean(),
        "sd": runs[TEST].std(),
        "runs": len(runs),
    }


def _random_outcome(ranked: list[pd.DataFrame]) -> dict[str, Any]:
    """Return what k random wirings give, over draws of them from the fine-tuned pool."""
    rng = np.random.default_rng(common.seed())
    draws = []
    for _ in range(DRAWS):
        places = rng.permutation(len(ranked))[: _K.value]
        runs = pd.concat([ranked[at] for at in places], ignore_index=True)
        draws.append(_outcome(f"random-{_K.value}, mean of {DRAWS} draws", runs))
    table = pd.DataFrame(draws)
    means = {column: table[column].mean() for column in (DEV, TEST, "mean")}
    return draws[0] | means | {"chosen": "", "sd": table[TEST].std()}


def _ranks(
    space: SearchSpace,
    archs: np.ndarray,
    scores: dict[str, np.ndarray],
    ranked: list[pd.DataFrame],
) -> pd.DataFrame:
    """Return how well each score and each control orders the fine-tuned wirings, the first ones."""
    random = np.random.default_rng(common.seed()).random(len(archs))
    controls = {
        "#params": np.array([space.num_params(arch) for arch in archs], float),
        "fewest changes": -(archs != 0).sum(1).astype(float),
        "random": random,
    }
    compared = {name: values[: len(ranked)] for name, values in (scores | controls).items()}
    dev, test = ([each[column].mean() for each in ranked] for column in (DEV, TEST))
    table = correlation_table(compared, dev).rename(columns={"spearman": DEV})
    table.insert(2, TEST, [correlation.spearman(values, test) for values in compared.values()])
    return table.assign(ties=[correlation.ties(values) for values in compared.values()])


if __name__ == "__main__":
    launch(main)
