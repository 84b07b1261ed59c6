"""The search by a supernet with small flags: its report, a second run that trains nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--layout=digits", "--dataset=digits", "--train_batch=64", "--epochs=1", "--k=1"),
    *("--retrain_epochs=1", "--recipe=published", "--valid_size=1100"),
]


def run(folder, *arguments):
    return subprocess.run(
        [
            *(sys.executable, "-m", "experiments.supernet_search", f"--output_dir={folder}"),
            *(f"--compilation_cache={folder / 'xla'}", *SMALL, *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow  # three processes that compile 48 blocks
def test_search(tmp_path):
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"test_evolution", "test_random", "test_FLOPs-max"} <= set(summary)
    assert "seed 0, order 0: step" in first.stdout
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "order 0: step" not in again.stdout
    repeated = json.loads((tmp_path / "summary.json").read_text())
    assert {name: summary[name] for name in summary if name.startswith("test_")} == {
        name: repeated[name] for name in summary if name.startswith("test_")
    }
    failed = run(tmp_path, "--flops_cap=0.001")
    assert failed.returncode == 1
    assert "No legal architecture" in failed.stderr
