"""The experiment on filters with small flags: its files, what TE-NAS looks at, and a second run."""

import json

import pytest

SMALL = [
    *("--channels=2", "--cells=1", "--batch_size=4", "--image_size=8", "--num_seeds=1"),
    *("--norm=batch", "--num_archs=30", "--num_searches=4", "--sample=12", "--k=2"),
    *("--num_prunings=1", "--prune_repeats=1"),
]


@pytest.mark.slow
def test_filters(tmp_path, experiment):
    first = experiment("connectivity_filter", tmp_path, *SMALL)
    assert first.returncode == 0, first.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["NASWOT_no filter_saved"] == summary["KNAS_no filter_gain"] == 0
    assert 0 < summary["NASWOT_published code_saved"] < 100
    assert summary["TE-NAS_no filter_evaluations"] == 6 * 9
    assert summary["TE-NAS_published reservation_evaluations"] == 6 * 6
    looks = (tmp_path / "prunings.json").read_bytes()
    assert len(json.loads(looks)["looks"]) <= 54 + 36
    again = experiment("connectivity_filter", tmp_path, *SMALL)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "prunings.json").read_bytes() == looks
    other = experiment("connectivity_filter", tmp_path, *SMALL, "--prune_repeats=2")
    assert other.returncode == 1
    assert "holds looks of another setting" in other.stderr
