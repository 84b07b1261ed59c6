"""The search by a supernet with small flags: its report, a second run that trains nothing."""

import json

import pytest

SMALL = [
    *("--layout=digits", "--dataset=digits", "--train_batch=64", "--epochs=1", "--k=1"),
    *("--retrain_epochs=1", "--recipe=published", "--valid_size=1100"),
]


@pytest.mark.slow  # three processes that compile 48 blocks
def test_search(tmp_path, experiment):
    first = experiment("supernet_search", tmp_path, *SMALL)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"test_evolution", "test_random", "test_FLOPs-max"} <= set(summary)
    assert "seed 0, order 0: step" in first.stdout
    again = experiment("supernet_search", tmp_path, *SMALL)
    assert again.returncode == 0, again.stderr
    assert "order 0: step" not in again.stdout
    repeated = json.loads((tmp_path / "summary.json").read_text())
    assert {name: summary[name] for name in summary if name.startswith("test_")} == {
        name: repeated[name] for name in summary if name.startswith("test_")
    }
    failed = experiment("supernet_search", tmp_path, *SMALL, "--flops_cap=0.001")
    assert failed.returncode == 1
    assert "No legal architecture" in failed.stderr
