import importlib.metadata
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxnas
from jaxnas.kernels import analytic

WEIGHT, BIAS = 2**0.5, 0.3


def _relu(covariance):
    """`E relu(u) relu(v)` and `E relu'(u) relu'(v)` for Gaussians of `covariance` `[B, B]`.

    With `t` the angle between two inputs, u = s z1 and v = s' (z1 cos t + z2 sin t). Both are
    positive on a wedge of the plane of angle pi - t, whose share is (pi - t) / 2 pi; and the
    integral of z1 (z1 cos t + z2 sin t) over it is (sin t + (pi - t) cos t) / 2 pi: the arc-cosine
    kernels of order 0 and 1 (Cho and Saul, NIPS 2009), by half.
    """
    scale = np.sqrt(np.diag(covariance))
    angle = np.arccos(np.clip(covariance / np.outer(scale, scale), -1, 1))
    first = np.outer(scale, scale) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    return first / (2 * np.pi), (np.pi - angle) / (2 * np.pi)


def _by_hand(inputs, depth, weight, bias):
    nngp = ntk = weight**2 * inputs @ inputs.T / inputs.shape[1] + bias**2
    for _ in range(depth):
        activations, derivatives = _relu(nngp)
        nngp = weight**2 * activations + bias**2
        ntk = nngp + weight**2 * derivatives * ntk  # its own weights, and those of the layers below
    return nngp, ntk


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(size=(5, 7))


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
@pytest.mark.parametrize(("weight", "bias"), [(WEIGHT, 0.0), (1.3, BIAS)])
def test_kernels_are_the_arc_cosine_formulas(inputs, depth, weight, bias):
    with jax.enable_x64(True):
        kernel_fn = analytic.fully_connected(depth, weight_std=weight, bias_std=bias)
        own = analytic.kernels(kernel_fn, jax.numpy.asarray(inputs))
        nngp, ntk = _by_hand(inputs, depth, weight, bias)
        np.testing.assert_allclose(own.nngp, nngp, rtol=1e-6)
        np.testing.assert_allclose(own.ntk, ntk, rtol=1e-6)


def test_orthogonal_inputs_by_hand():
    # Angle pi / 2, covariance diag(1, 1): E relu relu = 1/2 and 1 / 2 pi, E relu' relu' = 1/2, 1/4.
    # NNGP 2 x that = 1 and 1 / pi; NTK = NNGP + 2 x (1/2, 1/4) x (1, 0) = 2 and 1 / pi.
    own = analytic.kernels(analytic.fully_connected(1), np.eye(2, dtype=np.float32))
    np.testing.assert_allclose(own.nngp, [[1, 1 / np.pi], [1 / np.pi, 1]], rtol=1e-5)
    np.testing.assert_allclose(own.ntk, [[2, 1 / np.pi], [1 / np.pi, 2]], rtol=1e-5)


def test_kernels_against_other_inputs(inputs):
    with jax.enable_x64(True):
        kernel_fn = analytic.fully_connected(2)
        whole = analytic.kernels(kernel_fn, jax.numpy.asarray(inputs))
        part = analytic.kernels(kernel_fn, inputs[:2], inputs[2:])
        np.testing.assert_allclose(part.nngp, whole.nngp[:2, 2:], rtol=1e-6)
        np.testing.assert_allclose(part.ntk, whole.ntk[:2, 2:], rtol=1e-6)


def test_layers_of_ones_own(inputs):
    stax = analytic.stax
    kernel_fn = stax.serial(stax.Dense(9, WEIGHT, 0.0), stax.Relu(), stax.Dense(1, WEIGHT, 0.0))[2]
    own = analytic.kernels(kernel_fn, inputs)
    ours = analytic.kernels(analytic.fully_connected(1), inputs)
    np.testing.assert_allclose(own.ntk, ours.ntk, rtol=1e-6)


@pytest.mark.parametrize("depth", [-1, -7])
def test_a_negative_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"^depth must not be negative: got {depth}; .*$"):
        analytic.fully_connected(depth)


def _run(program, *first):
    """Run a program in a Python of its own that looks for modules in `first` first."""
    path = [*map(str, first), str(pathlib.Path(jaxnas.__file__).parents[1])]
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


TRACES = """
import sys, warnings
import jax, jax.interpreters.ad, jax.extend, jaxnas

def traces():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = ["Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive"]
        return {
            "core": {name: getattr(jax.core, name, None) for name in names} | vars(jax.core),
            "util": getattr(jax, "util", None),
            "zeros": getattr(jax.interpreters.ad, "zeros_like_p", None),
            "modules": [sys.modules.get(n) for n in ["jax.util", "neural_tangents.experimental"]],
        }

before = traces()
"""


def test_the_door_leaves_no_trace():
    program = """
from jaxnas.kernels import analytic
assert traces() == before, traces()
assert "tensorflow" not in sys.modules
assert analytic.fully_connected(1)(jax.numpy.ones((2, 3)), None, "ntk").shape == (2, 2)
"""
    finished = _run(TRACES + program)
    assert finished.returncode == 0, finished.stderr


def test_the_package_itself_needs_no_neural_tangents():
    program = "import sys, jaxnas; assert not {'neural_tangents', 'tensorflow'} & {*sys.modules}"
    finished = _run(program)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "breakage",
    ["import jax\njax.core.NoSuchName", "from jax.core import NoSuchName"],
    ids=["a name that is gone", "an import that is gone"],
)
def test_a_breakage_names_both_versions(tmp_path, breakage):
    broken = tmp_path / "neural_tangents"
    broken.mkdir()
    (broken / "__init__.py").write_text(breakage)
    program = """
try:
    import jaxnas.kernels.analytic
except ImportError as error:
    print(error)
assert traces() == before, traces()
"""
    finished = _run(TRACES + program, tmp_path)
    assert finished.returncode == 0, finished.stderr
    version = importlib.metadata.version("neural-tangents")
    assert f"neural-tangents {version} does not import on JAX {jax.__version__}" in finished.stdout
    assert "NoSuchName" in finished.stdout
    assert finished.stdout.count("\n") == 1
