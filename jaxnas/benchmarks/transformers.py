"""Trained transformers, to look up: PiT, AutoFormer-Tiny and NAS-Bench-BERT.

An architecture is `int32[D]`, decisions between the values of `PIT`, `AUTOFORMER` and `BERT`; it is
written `base_dim=40,mlp_ratio=4,...`. The tables are samples of 60, 60 and 300 networks. Accuracies
are on test sets, so they are for reporting: a search that looks at them looks at what judges it.

Sources: PiT and AutoFormer: Wei et al., "Auto-Prox: Training-Free Vision Transformer Architecture
Search via Automatic Proxy Discovery", AAAI 2024, arXiv 2312.09059;
https://github.com/lliai/Auto-Prox-AAAI24 (Apache-2.0 licence). NAS-Bench-BERT: Serianni and Kalita,
"Training-free Neural Architecture Search for RNNs and Transformers", ACL 2023, arXiv 2306.00288;
https://github.com/aaronserianni/training-free-nas (data: CC BY 4.0).
"""

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding
from jaxnas.benchmarks.tabular import TabularBenchmark, whole

TABLE = Path(__file__).with_name("transformers.npz")


class Choice(NamedTuple):
    """Decisions of one kind.

    Attributes:
        name: as in notations and in the columns of the source.
        values: what is offered.
        places: how many decisions there are, one a layer or a single one.
    """

    name: str
    values: tuple[Any, ...]
    places: int = 1


Choices = tuple[Choice, ...]

_HEADS = tuple((a, b, c) for a in (2, 4, 8) for b in (2, 4, 8) for c in (2, 4, 8) if a <= b <= c)

PIT: Choices = (
    Choice("base_dim", (16, 24, 32, 40)),
    Choice("mlp_ratio", (2, 4, 6, 8)),
    Choice("depth_1", (1, 2, 3)),
    Choice("depth_2", (4, 6, 8)),
    Choice("depth_3", (2, 4, 6)),
    Choice("heads", tuple("/".join(map(str, head)) for head in _HEADS)),
)
"""Heads of the three stages are one decision: a stage has as many as the one before, or more."""

AUTOFORMER: Choices = (
    Choice("hidden_dim", (192, 216, 240)),
    Choice("depth", (12, 13, 14)),
    Choice("mlp_ratio", (3.5, 4.0), 14),
    Choice("num_heads", (3, 4), 14),
)
"""Decisions of layers beyond the depth are not read."""

BERT: Choices = (
    Choice("hidden_size", (128, 256)),
    Choice("layers", (2, 4)),
    Choice("heads", (2, 4), 4),
    Choice("num_feed_forward", (1, 3), 4),
    Choice("feed_forward_dimension", (512, 1024), 4),
)
"""Decisions of layers beyond `layers` are not read, nor is the dimension of a single matrix."""

BY_NAME: Mapping[str, Choices] = {"pit": PIT, "autoformer": AUTOFORMER, "nasbench_bert": BERT}


def num_choices(choices: Choices) -> tuple[int, ...]:
    """Return how many values each decision has."""
    return tuple(len(choice.values) for choice in choices for _ in range(choice.places))


def chosen(choices: Choices, arch: ArrayLike) -> dict[str, tuple[Any, ...]]:
    """Return by name the values that an architecture chooses, one for each place.

    Raises:
        ValueError: not one architecture of these choices.
    """
    decisions = iter(encoding.one(arch, num_choices(choices)))
    return {
        choice.name: tuple(choice.values[next(decisions)] for _ in range(choice.places))
        for choice in choices
    }


def to_string(choices: Choices, arch: ArrayLike) -> str:
    """Return the notation of an architecture, such as `hidden_dim=192,depth=12,mlp_ratio=4-4-...`.

    Raises:
        ValueError: not one architecture of these choices.
    """
    named = chosen(choices, arch).items()
    return ",".join(f"{name}={'-'.join(map(str, values))}" for name, values in named)


def from_string(choices: Choices, string: str) -> NDArray[np.int32]:
    """Return the architecture `int32[D]` of its notation.

    Raises:
        ValueError: `string` is no notation of these choices.
    """
    check.instance("string", string, str, "a string")
    found = []
    try:
        for choice, part in zip(choices, string.split(","), strict=True):
            name, _, values = part.partition("=")
            offered = list(map(str, choice.values))
            found += [offered.index(value) for value in values.split("-")]
            if name != choice.name or len(values.split("-")) != choice.places:
                raise ValueError
    except ValueError:
        offers = ",".join(
            f"{choice.name}={'|'.join(map(str, choice.values))}" for choice in choices
        )
        raise ValueError(
            f"An architecture is written {offers}, with - between layers: got {string!r}."
        ) from None
    return np.array(found, np.int32)


def without_unread(choices: Choices, arch: ArrayLike, layers: int) -> NDArray[np.int32]:
    """Return an architecture with 0 for the decisions of layers that a network does not have."""
    read = [
        place < layers or choice.places == 1 for choice in choices for place in range(choice.places)
    ]
    return np.where(read, np.asarray(arch, np.int32), 0).astype(np.int32)


def pit() -> TabularBenchmark:
    """Return 60 PiT networks: test accuracy on CIFAR-100, Flowers and Chaoyang, in percent.

    Trained from scratch at 224 pixels, plainly (`c100_base_acc`, `flower_base_acc`,
    `chaoyang_base_acc`) and with distillation (`c100_kd_acc`, ...). Spearman's correlation of the
    number of parameters with the plain accuracies is .88, .92 and .74: that is what a score is
    measured against. `params` are those of the networks as trained, with 100 classes.
    """
    return _read("pit")


def autoformer() -> TabularBenchmark:
    """Return 60 AutoFormer-Tiny networks, with columns as `pit` and `imagenet_super_acc`.

    Accuracies lie close together (a standard deviation of .45 on CIFAR-100), and the tasks disagree
    with each other. `imagenet_super_acc` is inherited from a supernet, not of a training alone.
    """
    return _read("autoformer")


def nasbench_bert() -> TabularBenchmark:
    """Return 300 encoders of NAS-Bench-BERT: `glue`, its eight tasks, and `train_seconds`.

    The networks are not what the benchmark declares, and `archs` say what they are. All of them
    have ordinary attention: the declared operations (`declared_operations`, as published) stand in
    the released training code behind comparisons of strings by identity that are never true. In the
    table, too, they explain neither accuracy nor training time beyond size. The declared dimension
    of the feed-forward part is that of its second and third hidden layer, if it has three; the
    first always has ELECTRA's 1,024. The scores that were published beside the table are of
    networks of width 256 throughout, so they are scores of other networks.
    """
    return _read("nasbench_bert")


_TARGETS = {"pit": "c100_base_acc", "autoformer": "c100_base_acc", "nasbench_bert": "glue"}


@functools.cache
def _read(name: str) -> TabularBenchmark:
    choices = BY_NAME[name]
    sizes, prefix = num_choices(choices), f"{name}/"
    with whole(TABLE, "tables of transformers", "tools.build_transformers"):
        with np.load(io.BytesIO(TABLE.read_bytes()), allow_pickle=False) as stored:
            columns = {
                key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)
            }
        archs = encoding.validate_archs(columns.pop("archs"), sizes)
        parse = functools.partial(from_string, choices)
        return TabularBenchmark(name, archs, columns, _TARGETS[name], sizes, parse)
