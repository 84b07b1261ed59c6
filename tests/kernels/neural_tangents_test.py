"""The door to neural-tangents: no trace, and one sentence where it is missing or broken."""

import jax
import pytest

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


def test_the_door_leaves_no_trace(analytic, run_program):
    program = """
from jaxnas.kernels import analytic
assert traces() == before, traces()
assert "tensorflow" not in sys.modules
assert analytic.fully_connected(1)(jax.numpy.ones((2, 3)), None, "ntk").shape == (2, 2)
"""
    finished = run_program(TRACES + program)
    assert finished.returncode == 0, finished.stderr


def test_the_package_itself_needs_no_neural_tangents(run_program):
    program = "import sys, jaxnas; assert not {'neural_tangents', 'tensorflow'} & {*sys.modules}"
    finished = run_program(program)
    assert finished.returncode == 0, finished.stderr


def test_without_it_one_sentence_says_how_to_get_it(run_program):
    program = """
import sys
sys.modules["neural_tangents"] = None  # as if it were not installed
try:
    import jaxnas.kernels.analytic
except ModuleNotFoundError as error:
    print(error)
"""
    finished = run_program(program)
    assert finished.stdout == (
        'Analytic kernels need neural-tangents: pip install "jaxnas[analytic]".\n'
    ), finished.stderr


@pytest.mark.parametrize(
    "breakage",
    ["import jax\njax.core.NoSuchName", "from jax.core import NoSuchName"],
    ids=["a name that is gone", "an import that is gone"],
)
def test_a_breakage_names_both_versions(run_program, tmp_path, breakage):
    broken, facts = tmp_path / "neural_tangents", tmp_path / "neural_tangents-9.8.7.dist-info"
    broken.mkdir()
    (broken / "__init__.py").write_text(breakage)
    facts.mkdir()
    (facts / "METADATA").write_text("Name: neural-tangents\nVersion: 9.8.7\n")
    program = """
try:
    import jaxnas.kernels.analytic
except ImportError as error:
    print(error)
assert traces() == before, traces()
"""
    finished = run_program(TRACES + program, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert f"neural-tangents 9.8.7 does not import on JAX {jax.__version__}" in finished.stdout
    assert "NoSuchName" in finished.stdout
    assert finished.stdout.count("\n") == 1
