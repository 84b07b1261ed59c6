"""Every experiment runs with small flags, leaves its files, resumes, and fails in one line."""

import functools
import json
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from jaxnas.runs import ScoreStore

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--channels=2", "--cells=1", "--batch_size=4", "--image_size=8"),
    "--proxies=mgm,gradient_values,layer_balance",
]
SIZES = {"knas_nasbench201": ["--num_candidates=6", "--k=2"], "correlations": ["--num_archs=6"]}


def _table(folder):
    with ScoreStore(folder / "scores.sqlite") as store:
        return store.frame()


@pytest.mark.parametrize("name", SIZES)
def test_experiment(name, tmp_path, experiment):
    first = experiment(name, tmp_path, *SMALL, *SIZES[name], "--num_seeds=2")
    assert first.returncode == 0, first.stderr
    assert "#params" in first.stdout
    assert "random" in first.stdout
    assert "<html" in (tmp_path / "report.html").read_text()
    assert list(tmp_path.glob("*.png"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not any(isinstance(value, dict | list) for value in summary.values())
    assert summary["option_num_seeds"] == 2
    assert {"version_jax", "cpu_seconds", "peak_memory_bytes", "energy_kwh"} <= summary.keys()
    table = _table(tmp_path)
    assert len(table) == 6 * 2 * 3

    again = experiment(name, tmp_path, *SMALL, *SIZES[name], "--num_seeds=2")
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(_table(tmp_path), table, check_exact=True)
    figures = {key: value for key, value in summary.items() if key.startswith("spearman")}
    assert figures
    assert figures.items() <= json.loads((tmp_path / "summary.json").read_text()).items()


TINY = ["--channels=2", "--cells=1", "--batch_size=4", "--image_size=8", "--num_seeds=2"]
SLOW = ("metric_relations", "regression")
OTHERS = {
    "hnas_nasbench201": (
        [
            *TINY,
            *("--num_candidates=30", "--metrics=grad_norm", "--aggregates=az_nas"),
            *("--num_searches=2", "--num_evaluations=4", "--budget=1000"),
        ],
        ("HNAS grad_norm", "HNAS published grad_norm", "tuned az_nas", "top az_nas", "evolution"),
    ),
    "metric_relations": (
        [*TINY, "--num_archs=20"],
        ("ntk_trace, grad_norm", "M / kappa", "tuned"),
    ),
    "other_spaces": (
        [
            *TINY,
            "--channels=4",
            "--space=nasbench101",
            "--num_archs=5",
            "--proxies=layer_balance,swap",
        ],
        ("layer_balance", "#params", "flops", "validation accuracy after 108 epochs"),
    ),
    "transformers": (
        ["--space=bert", "--num_archs=4", "--batch_size=4", "--proxies=mgm", "--num_seeds=1"],
        ("mgm", "#params", "depth", "width", "flops", "glue"),
    ),
    "connectivity_ranking": (
        ["--num_archs=20", "--batch_size=6", "--image_size=4", "--num_seeds=1"],
        ("stacked: -log condition", "convolutional: -left-out loss", "equation 12", "random"),
    ),
    "regression": (
        [
            *("--channels=2", "--cells=1", "--batch_size=4", "--side=8", "--num_seeds=1"),
            *("--num_archs=4", "--num_media=100", "--epochs=1", "--proxies=mgm", "--norm=batch"),
        ],
        ("mgm", "mgm on CIFAR-10", "#params", "Two trainings agree", "explained %, training 2"),
    ),
    "connectivity_dags": (
        ["--num_wirings=5", "--samples=8", "--width=8", "--steps=5", "--image_size=8"],
        ("linearized", "The named wirings"),
    ),
}


@pytest.fixture(scope="module")
def other(experiment, tmp_path_factory):
    """`other(name)`: one of the other experiments, run once, and its folder."""

    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp(name)
        return experiment(name, folder, *OTHERS[name][0]), folder

    return run


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in OTHERS],
)
def test_other_experiments(name, other):
    run, folder = other(name)
    assert run.returncode == 0, run.stderr
    for word in OTHERS[name][1]:
        assert word in run.stdout
    assert "<html" in (folder / "report.html").read_text()
    assert list(folder.glob("*.png"))
    assert "cpu_seconds" in json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_training_as_the_fine_step(tmp_path, experiment):
    sizes = ["--num_candidates=3", "--k=1", "--fine_step=train", "--epochs=1"]
    run = experiment("knas_nasbench201", tmp_path, *SMALL, *sizes)
    assert run.returncode == 0, run.stderr
    assert list((tmp_path / "training").iterdir())


def test_aggregates_are_scores_wherever_a_score_is_named(tmp_path, experiment):
    named = ["--proxies=pair,swap_regularized", "--num_seeds=1", "--num_archs=6"]
    run = experiment("correlations", tmp_path, *SMALL, *named)
    assert run.returncode == 0, run.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"spearman_pair_cifar10", "spearman_swap_regularized_cifar100"} <= summary.keys()
    measured = {"layer_balance", "channel_independence", "swap", "params"}
    assert set(_table(tmp_path)["proxy"]) == measured
    race = ["--proxy=pair", "--num_archs=6", "--rungs=2@8:50%", *SMALL[:4]]
    run = experiment("halving", tmp_path / "race", *race, "--num_seeds=1")
    assert run.returncode == 0, run.stderr
    assert "pair" in run.stdout


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_killed(times, tmp_path, experiment, experiment_command):
    arguments = [*SMALL, "--num_archs=60", "--num_seeds=3"]
    undisturbed = experiment("correlations", tmp_path / "undisturbed", *arguments)
    assert undisturbed.returncode == 0, undisturbed.stderr
    whole = _table(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    killed = 0
    for _ in range(times):
        before = len(_table(folder)) if (folder / "scores.sqlite").exists() else 0
        process = subprocess.Popen(
            experiment_command("correlations", folder, *arguments),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_progress(process, folder, before)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL and len(_table(folder)) < len(whole)
    assert killed
    last = experiment("correlations", folder, *arguments)
    assert last.returncode == 0, last.stderr
    pd.testing.assert_frame_equal(_table(folder), whole, check_exact=True)


def _wait_for_progress(process, folder, before):
    """Wait until there are more rows than `before`, or until the process ends by itself."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "scores.sqlite").exists() and len(_table(folder)) > before:
            return
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("knas_nasbench201", ["--num_candidates=3", "--k=4"], "got k=4 with 3 candidates"),
        ("knas_nasbench201", ["--proxies=nothing"], "Unknown proxy 'nothing'"),
        ("correlations", ["--dataset=cifar10:/nowhere"], "/nowhere"),
        ("correlations", ["--dataset=cinic"], "data set must be one of"),
        ("correlations", ["--batch_size=100000"], "100000"),
        ("correlations", ["--image_size=10"], "divisible by 4"),
        ("correlations", ["--output_dir=/proc/nowhere"], "/proc/nowhere"),
        ("correlations", ["--norm=layer"], "--norm"),
        ("correlations", ["--num_archs=20000"], "num_archs"),
        ("correlations", ["stray"], "stray"),
        ("hnas_nasbench201", [*TINY, "--aggregates=nothing"], "Unknown aggregate 'nothing'"),
        ("hnas_nasbench201", [*TINY, "--metrics=nothing"], "Unknown proxy 'nothing'"),
        ("isometry_spectrum", ["--norm=batch"], "does not read --norm"),
        ("supernet_search", ["--num_seeds=3"], "does not read --num_seeds"),
        ("connectivity_dags", ["--noclass_balanced"], "does not read --class_balanced"),
        ("fair_supernet", ["--coordinator=127.0.0.1:1"], "does not read --coordinator"),
        ("other_spaces", ["--space=nasbench_macro", "--cells=2"], "does not read --cells"),
        ("knas_nasbench201", ["--epochs=3"], "does not read --epochs, because it belongs to"),
    ],
)
def test_wrong_input(name, arguments, message, tmp_path, experiment):
    common = [*SMALL, *SIZES[name]] if name in SIZES else []
    run = experiment(name, tmp_path, *common, *arguments)
    assert run.returncode != 0
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_every_experiment_says_which_shared_flags_it_reads():
    experiments = [
        path.read_text()
        for path in (ROOT / "experiments").glob("*.py")
        if "launch(main)" in path.read_text()
    ]
    assert len(experiments) == 17
    for text in experiments:
        assert text.count("\ncommon.reads(") == 1
        assert "adopt_module_key_flags(common)" not in text


def test_the_summary_and_the_help_tell_what_is_read(tmp_path, other, experiment):
    _, folder = other("connectivity_dags")
    summary = json.loads((folder / "summary.json").read_text())
    options = {name.removeprefix("option_") for name in summary if name.startswith("option_")}
    always = {"seed", "output_dir", "track_energy", "compilation_cache"}
    shared = {"num_seeds", "dataset", "image_size"}
    assert options == always | shared | {"num_wirings", "samples", "width", "steps", "order"}
    shown = experiment("connectivity_dags", tmp_path, "--help").stdout
    assert "--num_seeds" in shown
    assert "--norm" not in shown


def test_corrupt_store(tmp_path, experiment):
    (tmp_path / "scores.sqlite").write_bytes(b"not a database" * 100)
    run = experiment("correlations", tmp_path, *SMALL, *SIZES["correlations"])
    assert run.returncode != 0
    assert run.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run.stderr
