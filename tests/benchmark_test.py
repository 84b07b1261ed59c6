"""The benchmark's arithmetic, its turns with workers of any kind, and PyTorch where it is there."""

import gc
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import benchmark, benchmark_report, workers
from jaxnas import engine, proxies
from jaxnas.spaces import nasbench201
from jaxnas.spaces.nasbench201 import cell
from jaxnas.types import Batch

ROOT = Path(__file__).parents[1]
TINY = ("--channels=2", "--cells=1", "--settings=4@8", "--num_networks=3", "--proxies=mgm")

# A cell's score is its first decision, and says that it took FACTOR times one more second.
FAKE = """
import json, sys
for line in sys.stdin:
    call, arguments = json.loads(line)
    values = [float(arch[0]) for arch in arguments.get("archs", [])]
    replies = {
        "open": {"scores": ["mgm"]},
        "score": {"values": values, "cpu": FACTOR * (1 + sum(values)), "wall": 1.0},
        "multiply": {"cpu": 0.5},
    }
    print(json.dumps(replies[call]), flush=True)
"""


@pytest.fixture
def parse():
    """`parse(*arguments)`: parses flags for this test."""
    with flagsaver.flagsaver():
        yield lambda *arguments: flags.FLAGS(["benchmark", *arguments])


def _side(code, name="fake"):
    return workers.Side(name, (sys.executable, "-c", code), {}, [[3, 0, 0, 1, 0, 0]])


def _run(output_dir, *arguments):
    command = [sys.executable, "-m", "experiments.benchmark", *TINY, f"--output_dir={output_dir}"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_run_without_torch(tmp_path):
    run = _run(tmp_path, "--notorch", "--nogrowth")
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    for title in ("CPU seconds on one core", "all cores", "peak", "memory", "Compilation"):
        assert title in run.stdout
    assert "same scores" not in run.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cpu_ms_jaxnas_mgm_4@8"] > 0
    assert summary["wall_ms_jaxnas_mgm_4@8"] > 0
    assert summary["peak_gflops_jaxnas"] > 0
    assert summary["compilation_seconds_4@8_one"] > summary["compilation_seconds_4@8_all"]
    assert summary["turns_that_compiled"] == 0
    assert "option_norm" not in summary
    assert len(pd.read_csv(tmp_path / "turns.csv")) == 3 + 1
    assert "<html" in (tmp_path / "report.html").read_text()


def test_turns_rotate(parse, tmp_path):
    parse(*TINY, "--repeats=2")
    archs = benchmark.draw_archs(3)
    bench = benchmark.Bench(tmp_path, archs)
    sides = [_side(FAKE.replace("FACTOR", factor), factor) for factor in ("1", "2")]
    bench.measure(sides, benchmark.Setting(4, 8), "one")
    turns = pd.DataFrame(bench.turns)
    assert [row["side"] for row in bench.turns] == ["1", "2", "2", "1"] * 3
    assert turns["turn"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert turns["arch"].tolist() == np.repeat([cell.to_string(a) for a in archs], 2).tolist() * 2
    assert turns["value"].tolist() == np.repeat(archs[:, 0], 2).tolist() * 2
    assert not turns["compiled"].any()
    assert [row["first"] for row in bench.workers] == [1.0, 1.0]
    assert bench.workers[0]["gflops"] == pytest.approx(2 * 1024**3 / 0.5 / 1e9)
    if Path("/proc/self/status").exists():
        assert 1 < bench.workers[0]["megabytes"] < 1000
    table = benchmark_report.ratios(turns.replace({"1": "jaxnas"}), "one", "cpu")
    assert table["x jaxnas"].iloc[1] == pytest.approx(2)


def test_on_all_cores_a_turn_is_eight_cells(parse, tmp_path):
    parse(*TINY)
    bench = benchmark.Bench(tmp_path, benchmark.draw_archs(10))
    bench.measure([_side(FAKE.replace("FACTOR", "1"))], benchmark.Setting(4, 8), "all")
    assert [row["cells"] for row in bench.turns] == [8, 2]


def test_growth(parse, tmp_path):
    parse(*TINY)
    bench = benchmark.Bench(tmp_path, benchmark.draw_archs(3))
    table = bench.growth(_side(FAKE.replace("FACTOR", "0.5")), benchmark.Setting(4, 8))
    own = dict(list(table.groupby("what grows")["to"].apply(list).items()))
    assert own == {
        "images": [4, 8, 16],
        "pixels": [8, 16],
        "cells a stage": [1, 3],
        "architectures": [1, 8, 64],
    }
    assert table["CPU s"].iloc[-1] == pytest.approx(
        0.5 * (1 + benchmark.draw_archs(64)[:, 0]).sum()
    )
    assert table["ms each"].iloc[-1] == pytest.approx(1e3 * table["CPU s"].iloc[-1] / 64)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit", "could not open: it ended"),
        ('print(\'{"error": "E: no"}\', flush=True); input()', "fake could not open: E: no"),
    ],
)
def test_a_worker_that_fails(code, message, parse, tmp_path):
    parse(*TINY)
    bench = benchmark.Bench(tmp_path, benchmark.draw_archs(1))
    with pytest.raises(ChildProcessError, match=message):
        bench.measure([_side(code)], benchmark.Setting(4, 8), "one")


def test_connected_cells(parse):
    parse()
    archs = benchmark.draw_archs(500)
    assert archs.shape == (500, 6)
    assert len(np.unique(archs, axis=0)) == 500
    assert all(cell.is_connected(arch) for arch in archs)


# C = 1, N = 1, one color, 4x4 pixels, 2 classes: stem 9 x 16 = 144; a 3x3 convolution in each
# stage 9 x 16 + 36 x 4 + 144 x 1 = 432; reductions 4 (18 + 36 + 2) + (72 + 144 + 8) = 448;
# classifier 4 x 2 + 2 = 10: in all 1034 multiply-accumulates, or 6 x 1034 operations both ways.
@pytest.mark.parametrize(
    ("arch", "macs"),
    [
        ([0, 0, 0, 3, 0, 0], 1034),
        ([0, 0, 0, 1, 0, 0], 1034 - 432),
        ([3, 0, 0, 3, 0, 0], 1034),  # leads nowhere
        ([0, 0, 0, 3, 2, 0], 1034),  # comes from nowhere
        ([1, 0, 0, 3, 2, 0], 1034 + 432 // 9),
    ],
)
def test_operations(arch, macs):
    sizes = {"channels": 1, "cells": 1, "classes": 2, "colors": 1}
    gflop = benchmark.gflop_of(np.array(arch), benchmark.Setting(3, 4), **sizes)
    assert gflop == pytest.approx(3 * 6 * macs / 1e9)


def _turns(cpu_by_side, values_by_side, compiled=()):
    return pd.DataFrame(
        [
            {
                **{"threads": "one", "setting": "2@8", "score": "mgm", "turn": turn, "cells": 2},
                **{"side": side, "arch": str(turn), "gflop": 6.0},
                **{"cpu": cpu, "value": values_by_side[side][turn]},
                "compiled": (side, turn) in compiled,
            }
            for side, times in cpu_by_side.items()
            for turn, cpu in enumerate(times)
        ]
    )


def test_ratios():
    same = {"jaxnas": [1] * 3, "lean_torch": [1] * 3}
    turns = _turns({"jaxnas": [1.0, 2.0, 4.0], "lean_torch": [3.0, 4.0, 4.0]}, same)
    ours, theirs = benchmark_report.ratios(turns, "one", "cpu").to_dict("records")
    assert ours["ms"] == 1000
    assert theirs["ms"] == 2000
    assert theirs["x jaxnas"] == 2  # of 3, 2, 1
    assert (theirs["25 %"], theirs["75 %"]) == (1.5, 2.5)
    assert theirs["of sums"] == pytest.approx(11 / 7)
    assert benchmark_report.ratios(turns, "all", "cpu").empty
    compiled = _turns(
        {"jaxnas": [9.0, 2.0, 4.0], "lean_torch": [3.0, 4.0, 4.0]}, same, {("jaxnas", 0)}
    )
    ours, theirs = benchmark_report.ratios(compiled, "one", "cpu").to_dict("records")
    assert ours["ms"] == 1500
    assert theirs["x jaxnas"] == 1.5


def test_agreement():
    values = {"jaxnas": [2.0, 4.0, 1.0], "lean_torch": [2.0, 4.4, 1.0005]}
    turns = _turns({"jaxnas": [1] * 3, "lean_torch": [1] * 3}, values)
    (row,) = benchmark_report.agreement(turns).to_dict("records")
    assert row["median"] == pytest.approx(0.0005)
    assert row["worst"] == pytest.approx(0.1)
    assert row["cells within .001"] == "67%"
    assert benchmark_report.agreement(_turns({"jaxnas": [1] * 3}, values)).empty


def test_efficiency():
    same = {"jaxnas": [1] * 2, "lean_torch": [1] * 2}
    turns = _turns({"jaxnas": [1.0, 2.0], "lean_torch": [3.0, 9.0]}, same)
    workers = pd.DataFrame({"threads": ["one", "one", "all"], "gflops": [8.0, 40.0, 99.0]})
    ours, theirs = benchmark_report.efficiency(turns, workers).to_dict("records")
    assert (ours["GFLOP"], ours["GFLOP/s"], ours["% of peak"]) == (6, 4, 10)
    assert theirs["GFLOP/s"] == 1


@pytest.mark.parametrize("text", ["16", "16@", "@32", "0@8", "16@32@3", "a@b", "-4@8", ""])
def test_no_setting(text):
    with pytest.raises(ValueError, match="images@pixels"):
        benchmark.Setting.parse(text)


def test_setting():
    assert benchmark.Setting.parse(" 16@32") == (16, 32)
    assert str(benchmark.Setting(16, 32)) == "16@32"
    assert benchmark.Setting(16, 32).size() == 16 * 32 * 32


def test_machine():
    assert f"jax {jax.__version__}" in benchmark_report.machine()


@pytest.fixture
def checkout(tmp_path):
    """A checkout that calls itself zero-cost-nas and remembers what it is asked."""
    for path, code in {
        "models/nasbench2.py": """
            def get_model_from_arch_str(arch_str, num_classes, use_bn=True, init_channels=16):
                return arch_str, num_classes, init_channels
        """,
        "pruners/predictive.py": """
            asked = []

            def find_measures(net, loader, info, device, loss_fn=None, measure_names=None):
                print("what a measure prints")
                ((images, labels),) = loader
                asked.append((net, images.shape, labels.shape, info, str(device)))
                return {name: 100.0 + len(name) for name in measure_names}
        """,
    }.items():
        file = tmp_path / "checkout" / "foresight" / path
        file.parent.mkdir(parents=True)
        file.write_text(textwrap.dedent(code))
    return tmp_path / "checkout"


def test_sides(parse, checkout):
    parse()
    names = ["jaxnas", "lean_torch", "lean_torch_tuned", "zero_cost_nas"]
    assert [side.name for side in benchmark.available_sides(True, str(checkout))] == names
    assert [side.name for side in benchmark.available_sides(True, None)] == names[:3]
    assert [side.name for side in benchmark.available_sides(False, None)] == names[:1]
    with pytest.raises(ImportError, match="pip install"):
        benchmark.available_sides(False, str(checkout))
    with pytest.raises(FileNotFoundError, match=r"got /nowhere without foresight/models"):
        benchmark.available_sides(True, "/nowhere")
    (checkout / "foresight" / "pruners" / "predictive.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"without foresight/pruners/predictive.py"):
        benchmark.available_sides(True, str(checkout))


def test_zero_cost_nas_has_five_cells(parse, checkout):
    parse("--cells=3")
    with pytest.raises(ValueError, match="got --cells=3"):
        benchmark.available_sides(True, str(checkout))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--zero_cost_nas=/nowhere", "must be a checkout of zero-cost-nas"),
        ("--batch_size=64", "does not read --batch_size"),
    ],
)
def test_wrong_input(argument, message, tmp_path):
    run = _run(tmp_path, argument)
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr


# Convolutions that lead nowhere, that come from nowhere and behind such a one; pools; all sums.
ARCHS = [
    *([3, 2, 4, 1, 3, 2], [4, 1, 4, 1, 4, 1], [3, 0, 0, 1, 0, 0], [0, 1, 3, 1, 2, 1]),
    *([0, 0, 2, 3, 0, 4], [1, 4, 3, 0, 2, 3], [0, 0, 3, 1, 0, 2]),
]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A space at two channels, its images and weights in float64, and the file of all that."""
    rng = np.random.default_rng(0)
    space = nasbench201(channels=2, cells=1, norm="batch")
    images, labels = rng.normal(size=(6, 8, 8, 3)), rng.integers(10, size=6)
    with jax.enable_x64(True):
        shapes = jax.eval_shape(space.init, jax.random.key(0), images)

    def draw(shape):
        spread = 0.1 if len(shape.shape) == 1 else np.prod(shape.shape[:-1]) ** -0.5
        return rng.normal(float(len(shape.shape) == 1), spread, shape.shape)

    params = jax.tree.map(draw, shapes)
    path = tmp_path_factory.mktemp("problem") / "problem.npz"
    flat = benchmark.traverse_util.flatten_dict(params, sep="/")
    options = json.dumps(dict(space.options))
    np.savez(path, options=options, images=images, labels=labels, **flat)
    return space, params, Batch(images, labels), str(path)


@pytest.fixture
def lean_torch():
    """The lean program; PyTorch is no dependency of the tests."""
    pytest.importorskip("torch")
    from experiments import lean_torch

    return lean_torch


def test_lean_torch_agrees(lean_torch, problem):
    space, params, batch, path = problem
    scores = lean_torch.lean(lean_torch.load(path))
    names = ["grad_norm", "snip", "mgm", "gradient_values"]
    assert list(scores) == names
    chosen = proxies.resolve(names)
    with jax.enable_x64(True):
        own = jax.tree.map(jax.numpy.asarray, (params, batch))
        draw = engine.Draw(space, *own, jax.random.key(0))
        for position, values in engine.eager(draw, chosen, np.array(ARCHS)):
            arch = ARCHS[position]
            expected = [values[name].value for name in names]
            found = [scores[name](arch) for name in names]
            np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=str(arch))
            in_float32 = [_single(lean_torch, path)[name](arch) for name in names]
            np.testing.assert_allclose(in_float32, expected, rtol=1e-3, err_msg=str(arch))


def _single(lean_torch, path):
    """Return the scores of the same problem in float32."""
    problem = lean_torch.load(path)
    weights = {name: own.detach().float() for name, own in problem.weights.items()}
    weights = {name: own.requires_grad_() for name, own in weights.items()}
    return lean_torch.lean(problem._replace(images=problem.images.float(), weights=weights))


def test_lean_torch_is_channels_last(lean_torch, problem):
    import torch

    loaded = lean_torch.load(problem[3])
    assert loaded.images.is_contiguous(memory_format=torch.channels_last)
    kernel = loaded.weights["00_stem/kernel"]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert kernel.shape == (2, 3, 3, 3)
    assert loaded.blocks == sorted(problem[1])


def test_lean_torch_leaves_no_circles_behind(lean_torch, problem):
    loaded = lean_torch.load(problem[3])

    def count():
        return sum(type(own).__name__ == "Tensor" for own in gc.get_objects())

    gc.collect()
    gc.disable()  # or it would break the circles
    try:
        before = count()
        for score in lean_torch.lean(loaded).values():
            score(ARCHS[3])
        assert count() == before
    finally:
        gc.enable()


def test_lean_torch_knows_the_space(lean_torch):
    for arch in np.ndindex(*cell.NUM_CHOICES):
        if cell.is_connected(arch):
            assert lean_torch.live_edges(arch) == [*cell.live_edges(arch)]
    assert lean_torch._to_string([0, 1, 2, 3, 4, 1]) == cell.to_string(np.array([0, 1, 2, 3, 4, 1]))


def test_zero_cost_nas_is_called(lean_torch, problem, checkout, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    scores = lean_torch.zero_cost_nas(lean_torch.load(problem[3]), str(checkout))
    try:
        assert {name: score([3, 0, 1, 4, 2, 0]) for name, score in scores.items()} == {
            "grad_norm": 109,
            "snip": 104,
        }
        asked = sys.modules["foresight.pruners.predictive"].asked
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "foresight"]:
            del sys.modules[name]
    string = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
    assert asked == [((string, 10, 2), (6, 3, 8, 8), (6,), ("random", 1, 10), "cpu")] * 2


def test_torch_sides_take_their_turns(lean_torch, checkout, parse, tmp_path):
    parse("--channels=2", "--settings=4@8", "--num_networks=2", "--proxies=snip,gradient_values")
    sides = benchmark.available_sides(True, str(checkout))[1:]
    bench = benchmark.Bench(tmp_path, benchmark.draw_archs(2))
    for threads in ("one", "all"):
        bench.measure(sides, benchmark.Setting(4, 8), threads)
    turns = pd.DataFrame(bench.turns)
    counts = turns.groupby(["side", "score"]).size().to_dict()
    assert counts == {
        ("lean_torch", "snip"): 3,
        ("lean_torch", "gradient_values"): 3,
        ("lean_torch_tuned", "snip"): 3,
        ("lean_torch_tuned", "gradient_values"): 3,
        ("zero_cost_nas", "snip"): 3,
    }
    assert (turns["value"][turns["side"] == "zero_cost_nas"] == 104).all()
    values = turns.pivot_table("value", ["threads", "arch", "score"], "side")
    np.testing.assert_allclose(values["lean_torch"], values["lean_torch_tuned"], rtol=1e-4)
