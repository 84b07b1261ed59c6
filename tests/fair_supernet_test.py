"""The experiment on supernets with small flags: its files, and a second run that trains nothing."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--channels=2", "--image_size=8", "--train_batch=16", "--epochs=1", "--valid_size=800"),
    *("--num_inherited=12", "--num_seeds=1", "--num_orders=2", "--recipe=published"),
    *("--proxies=naswot", "--batch_size=8", "--generations=1"),
]


def run(folder, *arguments):
    return subprocess.run(
        [
            *(sys.executable, "-m", "experiments.fair_supernet", f"--output_dir={folder}"),
            *(f"--compilation_cache={folder / 'xla'}", *SMALL, *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_supernet(tmp_path):
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"spearman_FLOPs", "spearman_indicators, skip *", "percentile_FLOPs-max"} <= set(summary)
    assert "seed 0, order 1: step 12" in first.stdout
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "order 1: step" not in again.stdout
    repeated = json.loads((tmp_path / "summary.json").read_text())
    assert {name: summary[name] for name in summary if "spearman" in name} == {
        name: repeated[name] for name in summary if "spearman" in name
    }
    failed = run(tmp_path / "other", "--learning_rate=1e30", "--trained=all")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
