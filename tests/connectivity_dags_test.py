import sys

import numpy as np
import pytest

from experiments import connectivity_dags
from experiments.descent_runs import Problem
from jaxnas import connectivity, kernels
from jaxnas.runs import Table, Text


@pytest.fixture
def problem():
    rows = connectivity.unit_rows(np.random.default_rng(0).normal(size=(5, 7)))
    return Problem(rows * 7**0.5, np.zeros((5, 2)), connectivity.input_gram(rows))


def test_exact_kernels_are_those_of_neural_tangents(analytic, problem):
    table = connectivity_dags._beside_neural_tangents(problem)
    assert isinstance(table, Table)
    assert list(table.frame.columns) == ["wiring", "code", "NNGP", "NTK"]
    assert len(table.frame) == 3
    assert (table.frame[["NNGP", "NTK"]].astype(float) < 1e-6).all(axis=None)


def test_without_neural_tangents_a_sentence_takes_the_place(monkeypatch, problem):
    monkeypatch.setitem(sys.modules, "neural_tangents", None)
    for name in ("analytic", "_neural_tangents", "_signals"):
        monkeypatch.delitem(sys.modules, f"jaxnas.kernels.{name}", raising=False)
        monkeypatch.delattr(kernels, name, raising=False)
    part = connectivity_dags._beside_neural_tangents(problem)
    assert isinstance(part, Text)
    assert part.text.startswith("Left out. Analytic kernels need neural-tangents")
