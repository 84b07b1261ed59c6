"""The comparison with PyTorch: its arithmetic, its turns, and PyTorch's scores if installed."""

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
from flax import traverse_util

from benchmarks import pytorch
from jaxnas import engine, proxies
from jaxnas.spaces import nasbench201
from jaxnas.spaces.nasbench201_space import cell
from jaxnas.types import Batch

ROOT = Path(__file__).parents[1]


def _run(*arguments):
    command = [sys.executable, "benchmarks/pytorch.py", "--settings=4@8", "--channels=2"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_run_without_torch():
    run = _run("--depth=1", "--cells=2", "--proxies=mgm", "--jaxnas_alone")
    assert run.returncode == 0, run.stderr
    setting, score, side, ms, ratio = run.stdout.splitlines()[-1].split()[:5]
    assert (setting, score, side, float(ratio)) == ("4@8", "mgm", "jaxnas", 1)
    assert float(ms) > 0


def test_zero_cost_nas_has_five_cells():
    run = _run("--depth=1", "--zero_cost_nas=/nowhere")
    assert run.returncode != 0
    assert "got --depth=1; use 5" in run.stderr


class _Worker:
    """A side whose score of a cell is its first decision, which takes as long."""

    def __init__(self, side, problem, checkout):
        self.side, self.scores = side, ["mgm"] if side == "jaxnas" else ["mgm", "snip"]

    def ask(self, name, arch):
        return {"value": float(arch[0]), "cpu": float(arch[0])}

    def close(self):
        """Have nothing to end."""


def test_turns_rotate(monkeypatch):
    monkeypatch.setattr(pytorch, "Worker", _Worker)
    archs = pytorch.draw_archs(3)
    turns = pytorch.measure(["jaxnas", "lean_torch"], "", None, ["mgm"], archs)
    assert turns["side"].tolist() == [
        *("jaxnas", "lean_torch", "lean_torch", "jaxnas", "jaxnas", "lean_torch")
    ]
    assert turns["turn"].tolist() == [0, 0, 1, 1, 2, 2]
    assert turns["value"].tolist() == np.repeat(archs[:, 0], 2).tolist()


def test_connected_cells():
    archs = pytorch.draw_archs(500)
    assert archs.shape == (500, 6)
    assert len(np.unique(archs, axis=0)) == 500
    assert all(cell.is_connected(arch) for arch in archs)


def test_ratios():
    times = {"lean_torch": [3.0, 4.0, 4.0], "jaxnas": [1.0, 2.0, 4.0]}
    values = {"lean_torch": [2.0, 4.4, 1.0005], "jaxnas": [2.0, 4.0, 1.0]}
    rows = [
        {"score": "mgm", "side": side, "turn": turn, "cpu": cpu, "value": values[side][turn]}
        for side in times
        for turn, cpu in enumerate(times[side])
    ]
    first, second = pytorch.ratios(pd.DataFrame(rows)).to_dict("records")
    assert (first["side"], first["ms"], first["x jaxnas"], first["apart"]) == ("jaxnas", 2000, 1, 0)
    assert (second["side"], second["ms"]) == ("lean_torch", 4000)
    assert [second[name] for name in ("25 %", "x jaxnas", "75 %")] == [1.5, 2, 2.5]  # of 3, 2, 1
    assert second["apart"] == pytest.approx(0.0005)


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
    flat = traverse_util.flatten_dict(params, sep="/")
    options = json.dumps(dict(space.options))
    np.savez(path, options=options, images=images, labels=labels, **flat)
    return space, params, Batch(images, labels), str(path)


@pytest.fixture
def lean_torch():
    """The lean program; PyTorch is no dependency of the tests."""
    pytest.importorskip("torch")
    from benchmarks import lean_torch

    return lean_torch


def test_lean_torch_agrees(lean_torch, problem):
    space, params, batch, path = problem
    scores = lean_torch.lean(lean_torch.load(path))
    names = ["grad_norm", "snip", "mgm", "gradient_values"]
    assert list(scores) == names
    chosen = proxies.resolve(names)
    with jax.enable_x64(True):
        arrays = jax.tree.map(jax.numpy.asarray, (params, batch))
        draw = engine.Draw(space, *arrays, jax.random.key(0))
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
    weights = {name: weight.detach().float() for name, weight in problem.weights.items()}
    weights = {name: weight.requires_grad_() for name, weight in weights.items()}
    return lean_torch.lean(problem._replace(images=problem.images.float(), weights=weights))


def test_lean_torch_leaves_no_circles_behind(lean_torch, problem):
    loaded = lean_torch.load(problem[3])

    def count():
        return sum(type(kept).__name__ == "Tensor" for kept in gc.get_objects())

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
