"""The experiment on supernets with small flags: its files, and a second run that trains nothing."""

import json

import pytest

SMALL = [
    *("--channels=2", "--image_size=8", "--train_batch=16", "--epochs=1", "--valid_size=800"),
    *("--num_inherited=12", "--num_seeds=1", "--num_orders=2", "--recipe=published"),
    *("--proxies=naswot,pair", "--batch_size=8", "--generations=1"),
]


@pytest.mark.slow
def test_supernet(tmp_path, experiment):
    first = experiment("fair_supernet", tmp_path, *SMALL)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = {"spearman_FLOPs", "spearman_indicators, skip *", "percentile_FLOPs-max"}
    assert {"spearman_pair", *expected} <= set(summary)
    assert "seed 0, order 1: step 12" in first.stdout
    again = experiment("fair_supernet", tmp_path, *SMALL)
    assert again.returncode == 0, again.stderr
    assert "order 1: step" not in again.stdout
    repeated = json.loads((tmp_path / "summary.json").read_text())
    assert {name: summary[name] for name in summary if "spearman" in name} == {
        name: repeated[name] for name in summary if "spearman" in name
    }


@pytest.mark.slow
def test_a_supernet_that_diverges_says_so(tmp_path, experiment):
    run = experiment("fair_supernet", tmp_path, *SMALL, "--learning_rate=1e30", "--trained=all")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
