"""HNAS on DARTS with small flags: its report, and a second run that trains nothing."""

import json
import re

import pytest

from jaxnas.spaces import darts

SMALL = [
    *("--channels=2", "--dataset=digits", "--batch_size=4", "--num_seeds=1", "--norm=batch"),
    *("--num_candidates=4", "--num_evaluations=2"),
    *("--train_channels=2", "--train_epochs=1", "--train_batch=256"),
]


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow  # compiles each network that it trains
def test_search(tmp_path, experiment):
    first = experiment("hnas_darts", tmp_path, *SMALL)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = {name: summary[f"test_{name}"] for name in ("HNAS", "panel", "#params", "random")}
    assert all(0 <= value <= 100 for value in found.values())
    genotype = re.search(r"Genotype\(.*?(?=\n\n)", first.stdout, re.DOTALL)[0]  # over lines
    assert darts().to_string(darts().from_string(genotype)) == " ".join(genotype.split())
    trained = written(tmp_path / "training")
    assert trained
    again = experiment("hnas_darts", tmp_path, *SMALL)
    assert again.returncode == 0, again.stderr
    assert written(tmp_path / "training") == trained
    repeated = json.loads((tmp_path / "summary.json").read_text())
    assert found == {name: repeated[f"test_{name}"] for name in found}
