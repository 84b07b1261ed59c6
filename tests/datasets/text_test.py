import gzip
import json
import sys
import types

import numpy as np
import pytest

from jaxnas.datasets import text
from tools import build_text


@pytest.mark.parametrize("name", text.SAMPLES)
def test_samples(name):
    task = text.bundled_task(name)
    assert task.name == name
    for examples, count in ((task.train, 256), (task.dev, 128)):
        assert len(examples.first) == count
        np.testing.assert_array_equal(np.bincount(examples.labels), [count // 2] * 2)
        assert all(examples.first)
        assert (examples.second is None) == (name == "sst2")
        assert examples.second is None or (len(examples.second) == count and all(examples.second))
    pairs = [set(zip(each.first, each.second or each.first, strict=True)) for each in task[1:3]]
    assert not pairs[0] & pairs[1]


def test_examples_are_taken_by_position():
    pairs = text.Texts(("a", "b", "c"), ("d", "e", "f"), np.array([0, 1, 2]))
    taken = pairs.take([2, 0])
    assert (taken.first, taken.second) == (("c", "a"), ("f", "d"))
    np.testing.assert_array_equal(taken.labels, [2, 0])
    assert pairs._replace(second=None).take([1]).second is None
    assert pairs.take([]).first == ()


def test_samples_are_what_they_say():
    task = text.bundled_task("sst2")
    # Read by us: the classes are not the other way round.
    bad = [
        each for each, label in zip(task.train.first, task.train.labels, strict=True) if not label
    ]
    assert sum(" bad " in f" {each} " for each in bad) > 1
    assert text.bundled_task("rte").class_names[0] == "entailment"
    with pytest.raises(ValueError, match="The samples are sst2, rte: got 'mrpc'"):
        text.bundled_task("mrpc")


ROWS = [('it\'s "good"', "né 😀", 1), ("", "b c", 0), ("d", "e", 1)]


def write_tsv(path, header, rows, opener=open):
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines("\t".join(map(str, row)) + "\n" for row in (header, *rows))
    return path


def check(examples, labels=(1, 0, 1)):
    assert examples.first == tuple(row[0] for row in ROWS)
    assert examples.second == tuple(row[1] for row in ROWS)
    np.testing.assert_array_equal(examples.labels, labels)
    assert examples.labels.dtype == np.int32


def test_tsv(tmp_path):
    header = ("sentence1", "sentence2", "label")
    check(text.load_texts(write_tsv(tmp_path / "a.tsv", header, ROWS)))
    check(text.load_texts(write_tsv(tmp_path / "a.tsv.gz", header, ROWS, gzip.open)))
    windows = (tmp_path / "a.tsv").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "b.tsv").write_bytes(b"\xef\xbb\xbf" + windows)
    check(text.load_texts(tmp_path / "b.tsv"))


def test_mrpc_as_its_authors_write_it(tmp_path):
    header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    rows = [(label, 1, 2, first, second) for first, second, label in ROWS]
    check(text.load_texts(write_tsv(tmp_path / "msr.tsv", header, rows)))


def test_rte_with_words_for_labels(tmp_path):
    names = ("entailment", "not_entailment")
    rows = [(at, first, second, names[label]) for at, (first, second, label) in enumerate(ROWS)]
    path = write_tsv(tmp_path / "rte.tsv", ("index", "sentence1", "sentence2", "label"), rows)
    check(text.load_texts(path, class_names=names))
    check(text.load_texts(path, class_names=names[::-1]), (0, 1, 0))
    with pytest.raises(ValueError, match=r"label of example 1 must be a number .* class_names"):
        text.load_texts(path)
    with pytest.raises(ValueError, match="one of yes, no: got 'not_entailment'"):
        text.load_texts(path, class_names=("yes", "no"))


def test_jsonl_and_parquet(tmp_path):
    rows = [{"premise": a, "hypothesis": b, "label": label} for a, b, label in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    check(text.load_texts(tmp_path / "a.jsonl"))
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    check(text.load_texts(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"cannot be read as \.parquet"):
        text.load_texts(tmp_path / "b.parquet")


def test_a_split_of_a_table(tmp_path):
    rows = [("train", 0, "a"), ("dev", 1, "b"), ("train", 1, "c")]
    path = write_tsv(tmp_path / "a.tsv", ("split", "label", "text"), rows)
    train = text.load_texts(path, split="train")
    assert train.first == ("a", "c")
    assert train.second is None
    with pytest.raises(ValueError, match="has no split 'test': got dev, train"):
        text.load_texts(path, split="test")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "must be a .tsv, .jsonl or .parquet file: got .csv"),
        ("a.tsv", b"", "cannot be read as .tsv: got 'the file is empty'"),
        ("a.tsv", b"sentence\tlabel\n", "must have examples: got none"),
        ("a.tsv", b"words\tlabel\na\t1\n", "must have a text column.* got words, label"),
        ("a.tsv", b"sentence\na\n", "must have a text column"),
        ("a.tsv", b"sentence\tlabel\na\n", "line 2 has 1 columns, and the first 2"),
        ("a.tsv", b"sentence\tlabel\n\xff\t1\n", "cannot be read as .tsv"),
        ("a.tsv", b"sentence\tlabel\na\t-1\n", "label of example 1 .* got '-1'"),
        ("a.tsv.gz", b"sentence\tlabel\na\t1\n", "cannot be read as .tsv: got .Not a gzipped"),
        ("a.jsonl", b"{", "cannot be read as .jsonl"),
        ("a.jsonl", b"[1]", "a line is no object but list"),
        ("a.jsonl", b'{"text": null, "label": 1}', "text of example 1 must be a text: got None"),
        ("a.jsonl", b'{"text": "a", "label": true}', "label of example 1 .* got True"),
        ("a.jsonl", b'{"text": "a", "label": 1.5}', "label of example 1 .* got 1.5"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"}', "label of example 2 .* got None"),
        ("a.jsonl", b'{"text": "a", "label": 2147483648}', "label of example 1 .* got 2147483648"),
        ("a.tsv", b"text\tlabel\na\t2147483648\n", "label of example 1 .* got '2147483648'"),
        ("a.tsv", b"text\tlabel\na\t" + b"9" * 5000, "label of example 1 .* got '999"),
        ("a.tsv", b"text\tlabel\ttext\na\t1\tb\n", "two columns have the name text"),
        ("a.jsonl", b'{"text": "a", "label": 1, "label": 0}', "two columns have the name label"),
        ("a.jsonl", b"[" * 100_000, "cannot be read as .jsonl: got .maximum recursion"),
        ("a.jsonl", b'{"text": ' + b"[" * 900 + b"]" * 900 + b', "label": 1}', "must be a text"),
        ("a.parquet", b"PAR1" + bytes(40) + b"PAR1", "cannot be read as .parquet"),
    ],
)
def test_refuses_other_files(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        text.load_texts(tmp_path / name)


def test_refuses_a_truncated_archive(tmp_path):
    path = write_tsv(tmp_path / "a.tsv.gz", ("sentence", "label"), [("a" * 99, 1)], gzip.open)
    content = path.read_bytes()
    for damaged in (content[:-9], content[:15] + b"\xff" * 9 + content[24:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot be read as \.tsv"):
            text.load_texts(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.tsv is missing"):
        text.load_texts(tmp_path / "a.tsv")


def test_hugging_face(monkeypatch, tmp_path):
    rows = [{"sentence1": a, "sentence2": b, "label": label} for a, b, label in ROWS]
    asked = []

    def load_dataset(path, name, split):
        asked.append((path, name, split))
        return rows

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    fake.load_from_disk = lambda path: {"validation": rows[:1]}
    monkeypatch.setitem(sys.modules, "datasets", fake)
    check(text.load_hugging_face("glue", "rte", split="validation"))
    assert asked == [("glue", "rte", "validation")]
    (tmp_path / "dataset_dict.json").write_text("{}")
    assert len(text.load_hugging_face(str(tmp_path), split="validation").first) == 1
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install"):
        text.load_hugging_face("glue", "rte")


def test_the_builder(tmp_path):
    rows = [("train", at % 2, f"train {at}") for at in range(20)]
    rows += [("dev", at % 2, f"dev {at}") for at in range(6)]
    source = write_tsv(tmp_path / "a.tsv", ("split", "label", "text"), rows)
    counts = {"train": 8, "dev": 4}
    for name in ("b.tsv.gz", "c.tsv.gz"):
        build_text.build(source, tmp_path / name, counts)
    assert (tmp_path / "b.tsv.gz").read_bytes() == (tmp_path / "c.tsv.gz").read_bytes()
    train, dev = (text.load_texts(tmp_path / "b.tsv.gz", split=each) for each in counts)
    for found, count in ((train, 4), (dev, 2)):
        np.testing.assert_array_equal(np.bincount(found.labels), [count] * 2)
        numbers = [int(sentence.split()[1]) for sentence in found.first]
        assert numbers == sorted(set(numbers))
        assert [number % 2 for number in numbers] == found.labels.tolist()
    with pytest.raises(ValueError, match="10 examples of dev with label 0: got 3"):
        build_text.build(source, tmp_path / "d.tsv.gz", {"dev": 20})
