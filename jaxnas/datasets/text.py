"""Text classification: sentences and pairs from disk, and two small samples that come with jaxnas.

The samples are of the GLUE benchmark (Wang et al., 2019, arXiv 1804.07461), drawn by
`tools/build_text.py`: 256 training and 128 development examples each, as many of each class.

- `sst2`: Stanford Sentiment Treebank, sentences of film reviews (Socher et al., EMNLP 2013). Its
  authors give it away without naming a licence; the reviews are from rottentomatoes.com.
- `rte`: Recognizing Textual Entailment, pairs from the PASCAL challenges RTE-1 to 3 and 5 (Dagan et
  al., 2006; Bar-Haim et al., 2006; Giampiccolo et al., 2007; Bentivogli et al., 2009), published
  for research. MRPC, the usual second task, has terms of Microsoft's: read your own copy.
"""

import gzip
import json
import os
import reprlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnas import check

SAMPLES = {"sst2": ("negative", "positive"), "rte": ("entailment", "not_entailment")}
"""Names of the samples, and of their classes."""

# As they are called in GLUE, in SuperGLUE and in MRPC's own files, in this order of preference.
_FIRST = ("sentence", "sentence1", "premise", "question1", "text1", "text", "#1 String")
_SECOND = ("sentence2", "hypothesis", "question2", "text2", "#2 String")
_LABEL = ("label", "Quality")

_MOST_CLASSES = 10**6
_Row = Mapping[str, Any]


class Texts(NamedTuple):
    """Labeled sentences, or pairs of them.

    Attributes:
        first: N texts.
        second: N texts that belong to the first, or None.
        labels: `int32[N]`.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: np.ndarray

    def __repr__(self) -> str:
        return f"Texts({len(self.first)} {'texts' if self.second is None else 'pairs of texts'})"

    def take(self, positions: ArrayLike) -> "Texts":
        """Return the examples at some positions `int[M]`, in their order."""
        at = check.positions(positions)
        first, second = (
            texts and tuple(texts[each] for each in at) for texts in (self.first, self.second)
        )
        return Texts(first or (), second, self.labels[at])


class TextTask(NamedTuple):
    """A text classification task.

    Attributes:
        name: as in flags, tables and plots.
        train: to learn from.
        dev: to choose by.
        class_names: K names.
    """

    name: str
    train: Texts
    dev: Texts
    class_names: tuple[str, ...]


def bundled_task(name: str) -> TextTask:
    """Return one of the samples that are part of jaxnas, in `SAMPLES`.

    Raises:
        ValueError: there is no such sample.
    """
    if name not in SAMPLES:
        raise ValueError(f"The samples are {', '.join(SAMPLES)}: got {name!r}; see load_texts.")
    resource = resources.files("jaxnas.datasets").joinpath(f"{name}_sample.tsv.gz")
    with resources.as_file(resource) as path:
        train, dev = (load_texts(path, split=split) for split in ("train", "dev"))
    return TextTask(name, train, dev, SAMPLES[name])


def load_texts(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Texts:
    """Return the examples of a file: `.tsv`, `.jsonl` (or either with `.gz`) or `.parquet`.

    Columns have the names of GLUE, SuperGLUE or MRPC: `sentence`, or `sentence1` and `sentence2`,
    or `premise` and `hypothesis`, and so on; and `label`. Quotes in a TSV file are characters.

    Args:
        path: the file.
        split: rows to take, of a file with a column `split`; None for all.
        class_names: needed where labels are words: their numbers are their places here.

    Raises:
        ImportError: a parquet file, and pyarrow is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind or damaged, a column is missing, no row is left, a label
            is none, or the split is not in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give the path of a .tsv, .jsonl or .parquet.")
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if kind not in ("tsv", "jsonl", "parquet"):
        raise ValueError(f"{path} must be a .tsv, .jsonl or .parquet file: got .{kind}.")
    try:
        rows = _read_parquet(path) if kind == "parquet" else read_lines(path, kind)
    except ImportError:
        raise
    except Exception as error:  # what a damaged file raises depends on the damaged byte
        raise ValueError(
            f"{path} cannot be read as .{kind}: got {str(error)[:200]!r}; copy the file again."
        ) from error
    if split is not None:
        there = sorted({str(row.get("split")) for row in rows})
        rows = [row for row in rows if row.get("split") == split]
        if not rows:
            raise ValueError(f"{path} has no split {split!r}: got {', '.join(there)}.")
    return _texts(rows, class_names, str(path))


def load_hugging_face(
    path: str,
    name: str | None = None,
    *,
    split: str = "train",
    class_names: Sequence[str] | None = None,
) -> Texts:
    """Return a split of a set of the library `datasets`, which may download it.

    Args:
        path: as for `datasets.load_dataset`, such as "glue"; or a folder of `save_to_disk`.
        name: of the configuration, such as "rte".
        split: such as "train" or "validation".
        class_names: see `load_texts`.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: see `load_texts`.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError('Hugging Face sets need: pip install "datasets".') from error
    if (Path(path) / "dataset_dict.json").is_file():
        rows = datasets.load_from_disk(path)[split]
    else:
        rows = datasets.load_dataset(path, name, split=split)
    return _texts(list(rows), class_names, f"{path} {name or ''}".strip())


def read_lines(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the rows of a `tsv` or `jsonl` file, which may be packed by gzip, by column."""
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
        if kind == "jsonl":
            return [
                _row(json.loads(line, object_pairs_hook=_each_once))
                for line in lines
                if line.strip()
            ]
        table = [line.rstrip("\r\n").split("\t") for line in lines]
    if not table:
        raise ValueError("the file is empty")
    header, *rows = table
    _check_names(header)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} columns, and the first {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"two columns have the name {twice}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_names([name for name, _ in pairs])
    return dict(pairs)


def _row(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"a line is no object but {type(entry).__name__}")
    return entry


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError('A parquet file needs pyarrow; run: pip install "pyarrow".') from error
    table = parquet.read_table(path)
    _check_names(table.column_names)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _texts(rows: Sequence[_Row], class_names: Sequence[str] | None, where: str) -> Texts:
    if not rows:
        raise ValueError(f"{where} must have examples: got none.")
    columns = rows[0].keys()
    first, second, label = (
        next((name for name in names if name in columns), None)
        for names in (_FIRST, _SECOND, _LABEL)
    )
    if first is None or label is None:
        raise ValueError(
            f"{where} must have a text column, such as sentence or sentence1 and sentence2, and "
            f"label: got {', '.join(columns)}; rename them."
        )
    named = [name for name in (first, second) if name is not None]
    for number, row in enumerate(rows, start=1):
        wrong = [name for name in named if not isinstance(row.get(name), str)]
        if wrong:
            raise ValueError(
                f"{where}: {wrong[0]} of example {number} must be a text: got "
                f"{reprlib.repr(row.get(wrong[0]))}; leave the example out."
            )
    labels = [_label(row.get(label), class_names, number, where) for number, row in enumerate(rows)]
    return Texts(
        tuple(row[first] for row in rows),
        None if second is None else tuple(row[second] for row in rows),
        np.array(labels, np.int32),
    )


def _label(value: Any, class_names: Sequence[str] | None, number: int, where: str) -> int:
    """Return the number of a class, given as a number, its digits or its name."""
    if class_names is not None and value in class_names:
        return list(class_names).index(value)
    digits = str(value) if type(value) in (int, str) else ""
    count = _MOST_CLASSES if class_names is None else len(class_names)
    if digits.isdecimal() and len(digits) < 10 and int(digits) < count:
        return int(digits)
    allowed = (
        f"a number from 0 to {count - 1}"
        if class_names is None
        else f"one of {', '.join(class_names)}"
    )
    raise ValueError(
        f"{where}: the label of example {number + 1} must be {allowed}: got {reprlib.repr(value)}; "
        "name the classes by class_names, and leave out unlabeled examples."
    )
