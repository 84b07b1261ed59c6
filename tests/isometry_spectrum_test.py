"""The experiment on spectra with small flags."""

import json

import pytest


@pytest.mark.slow
def test_spectra_are_measured(tmp_path, experiment):
    flags = ("--width=4", "--pixels=4", "--draws=3", "--depth=3", "--num_seeds=1")
    ran = experiment("isometry_spectrum", tmp_path, *flags)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["phi_mirror_plain"] == pytest.approx(1, abs=1e-3)
    assert summary["cv²_mirror_plain"] < 1e-6
    assert summary["cv²_qr_plain"] > 0.5
    assert (tmp_path / "singular_values_plain.png").is_file()
