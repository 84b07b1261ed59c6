"""The search on text with small flags: it leaves its files, resumes, and fails in one line."""

import json
from pathlib import Path

import pytest

pytest.importorskip("safetensors", reason="the extra `text` is not installed")
pytest.importorskip("tokenizers", reason="the extra `text` is not installed")

ROOT = Path(__file__).parents[1]
SMALL = [
    *(f"--model={ROOT / 'tests' / 'golden' / 'tiny_bert'}", "--task=sst2", "--max_length=12"),
    *("--num_candidates=3", "--k=1", "--tune_seeds=1", "--score_seeds=1", "--epochs=1"),
    *("--train_size=32", "--ranked=-1", "--scored=8"),
]


@pytest.mark.slow
def test_search_and_resume(tmp_path, experiment):
    first = experiment("knas_text", tmp_path, *SMALL)
    assert first.returncode == 0, first.stderr
    assert "unchanged" in first.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 0 <= summary["unchanged_test"] <= 100
    path = tmp_path / "runs.json"
    before = path.read_bytes()
    runs = json.loads(before)["runs"]
    assert len(runs) == 4  # three wirings, all ranked, and the encoder as it is
    assert all(set(each) == {"dev %", "test %"} for each in runs.values())
    again = experiment("knas_text", tmp_path, *SMALL)
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == before
    assert " @ 0" not in again.stdout  # nothing was run again
    other = experiment("knas_text", tmp_path, *SMALL, "--learning_rate=1e-3")
    assert other.returncode == 1
    assert "holds runs of another setting" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--k=9"], "k must be at most the number of candidates"),
        (["--model=nowhere"], "config.json is missing"),
        (["--train_file=a.tsv"], "--train_file needs --test_file"),
        (["--dev_size=256"], "dev_size must leave training examples"),
        (["--max_length=13"], "from 4 to the 12 positions"),
    ],
)
@pytest.mark.slow
def test_fails_in_one_line(tmp_path, experiment, arguments, sentence):
    failed = experiment("knas_text", tmp_path, *SMALL, *arguments)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert sentence in failed.stderr
    assert failed.stderr.count("\n") == 1
