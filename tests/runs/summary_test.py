"""The meter against work of a known cost, energy without network, and the summary file."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.runs.summary import Meter, Usage, write_summary

USAGE = Usage(wall_seconds=2.5, cpu_seconds=1.25, peak_memory_bytes=1 << 30, energy_kwh=None)


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_meter_counts_wall_and_cpu_apart():
    with Meter() as meter:
        spin(0.1)
        time.sleep(0.2)
    assert meter.usage.wall_seconds > 0.29
    assert 0.09 < meter.usage.cpu_seconds < meter.usage.wall_seconds - 0.15
    assert meter.usage.energy_kwh is None


def test_meter_counts_children():
    work = "import time\nwhile time.process_time() < 0.2: pass"
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", work], check=True)
    assert meter.usage.cpu_seconds > 0.19


def test_peak_memory_is_in_bytes():
    with Meter() as meter:
        block = np.ones(1 << 24)  # 128 MiB
    assert block.nbytes < meter.usage.peak_memory_bytes < 1 << 37
    if Path("/proc/self/status").exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        assert meter.usage.peak_memory_bytes >= 0.9 * 1024 * peak


def test_meter_measures_a_block_that_fails():
    meter = Meter()
    with pytest.raises(KeyError), meter:
        raise KeyError
    assert meter.usage.wall_seconds >= 0.0


def test_usage_before_the_end():
    with pytest.raises(RuntimeError, match="read it after the `with` block"):
        _ = Meter().usage
    with Meter() as meter, pytest.raises(RuntimeError, match="has ended"):
        _ = meter.usage


def test_energy_needs_neither_network_nor_files(tmp_path, monkeypatch, capfd):
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    # A user's own settings that would send results and fetch carbon intensities.
    monkeypatch.setenv("CODECARBON_EMISSIONS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("CODECARBON_OUTPUT_METHODS", "csv,api")
    monkeypatch.setenv("CODECARBON_ELECTRICITYMAPS_API_TOKEN", "token")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    monkeypatch.setenv("CODECARBON_ALLOW_MULTIPLE_RUNS", "false")
    attempts = []

    def refuse(*arguments, **options):
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with Meter(track_energy=True) as meter:
        spin(0.3)
    assert 0.0 < meter.usage.energy_kwh < 0.1
    assert attempts == []
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_energy_without_codecarbon_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with Meter(track_energy=True) as meter:
        pass
    assert meter.usage.energy_kwh is None


def test_summary_is_one_flat_sorted_object(tmp_path):
    figures = {
        "spearman": np.float32(0.5),
        "kendall": jnp.float32(0.25),
        "partial": math.nan,
        "worst": -math.inf,
        "best_cell": "|skip~0|",
        "found": np.bool_(True),
    }
    options = {"seeds": [0, 1], "out": tmp_path, "rate": 0.1, "fast": False, "limit": None}
    path = write_summary(tmp_path / "new", figures, options, USAGE)
    assert path == tmp_path / "new" / "summary.json"
    text = path.read_text()
    summary = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(summary) == sorted(summary)
    assert not any(isinstance(value, (dict, list)) for value in summary.values())
    assert {key: summary[key] for key in figures} == {
        "spearman": 0.5,
        "kendall": 0.25,
        "partial": None,
        "worst": None,
        "best_cell": "|skip~0|",
        "found": True,
    }
    assert {key: value for key, value in summary.items() if key.startswith("option_")} == {
        "option_seeds": "0,1",
        "option_out": str(tmp_path),
        "option_rate": 0.1,
        "option_fast": False,
        "option_limit": None,
    }
    assert summary["cpu_seconds"] == 1.25
    assert summary["wall_seconds"] == 2.5
    assert summary["peak_memory_bytes"] == 1 << 30
    assert summary["energy_kwh"] is None
    assert summary["backend"] in ("cpu", "gpu", "tpu")
    assert summary["version_jax"].count(".") >= 1
    assert summary["version_python"].startswith("3.")
    assert "device_kind" in summary
    assert write_summary(tmp_path / "new", figures, options, USAGE).read_text() == text
    assert os.listdir(tmp_path / "new") == ["summary.json"]


@pytest.mark.parametrize(
    ("figures", "options", "message"),
    [
        ({"curve": [1.0, 2.0]}, {}, "got list for 'curve'"),
        ({"curve": np.zeros(2)}, {}, "got ndarray for 'curve'"),
        ({"z": 1j}, {}, "got complex for 'z'"),
        ({}, {"nested": {"a": 1}}, "got dict for 'nested'"),
        ({"backend": "gpu"}, {}, "got 'backend'; rename it"),
        ({"option_a": 1}, {"a": 2}, "got 'option_a'; rename it"),
    ],
)
def test_bad_summaries(tmp_path, figures, options, message):
    with pytest.raises(ValueError, match=message):
        write_summary(tmp_path, figures, options, USAGE)
    assert os.listdir(tmp_path) == []
