"""The experiment on indicators and draws at its smallest: its numbers, and a repeated run."""

import json

import pytest

SMALL = [
    *("--dataset=digits", "--recipe=published", "--classifier", "--epochs=6", "--num_seeds=2"),
    *("--noaugment", "--learning_rate=0.2", "--widths=1", "--initializations=qr"),
]


@pytest.mark.slow
def test_agreement(tmp_path, experiment):
    first = experiment("indicator_agreement", tmp_path, *SMALL)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert all(-1 <= summary[f"{pairs}_qr_1"] <= 1 for pairs in ("same", "other"))
    assert summary["loss_qr_1"] < 2.3  # the logarithm of ten classes: it learned something
    again = experiment("indicator_agreement", tmp_path, *SMALL)
    assert ": step " in first.stdout
    assert ": step " not in again.stdout
    repeated = json.loads((tmp_path / "summary.json").read_text())
    assert summary["other_qr_1"] == repeated["other_qr_1"]
    refused = experiment("indicator_agreement", tmp_path / "other", *SMALL, "--initialization=qr")
    assert refused.returncode == 1
    assert "--initializations" in refused.stderr
