"""Trainings of wirings are remembered: a run that is stopped repeats nothing and ends the same."""

import chex
import numpy as np
import pytest

from experiments import descent_runs
from experiments.descent_runs import Descent, Problem
from jaxnas import wiring
from jaxnas.connectivity import input_gram, linearized_loss, unit_rows
from jaxnas.connectivity.recursion import over_wirings
from jaxnas.spaces import dag_mlp
from jaxnas.spaces.dag_mlp_space import DagMLP

WIRINGS = np.stack([wiring.from_code(code) for code in ("2", "1")])


def _descent(path, width=4):
    rows = unit_rows(np.random.default_rng(0).normal(size=(4, 5)))
    targets = np.eye(4)[:, :2] - 0.5
    problem = Problem(rows * 5**0.5, targets, input_gram(rows))
    space = dag_mlp(DagMLP(width=width, classes=2), nodes=2, features=5)
    return Descent(space, problem, 30, (0, 1), path / "speeds.sqlite", {"width": width})


RATES = {"slow": np.array([0.01, 0.01]), "fast": np.array([0.05, 0.04])}


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    whole = descent_runs.speeds(_descent(tmp_path / "whole"), WIRINGS, RATES)
    assert whole["slow"].shape == (2, 2)
    assert (whole["fast"] > whole["slow"]).all()
    trained = []

    def stopping(space, found, *rest):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(found)
        return speed(space, found, *rest)

    speed = descent_runs._speed
    monkeypatch.setattr(descent_runs, "_speed", stopping)
    with pytest.raises(KeyboardInterrupt):
        descent_runs.speeds(_descent(tmp_path / "stopped"), WIRINGS, RATES)
    monkeypatch.setattr(descent_runs, "_speed", speed)
    again = descent_runs.speeds(_descent(tmp_path / "stopped"), WIRINGS, RATES)
    chex.assert_trees_all_equal(again, whole)
    monkeypatch.setattr(descent_runs, "_speed", stopping)  # nothing is left to do
    chex.assert_trees_all_equal(
        descent_runs.speeds(_descent(tmp_path / "stopped"), WIRINGS, RATES), whole
    )


def test_a_wide_network_is_as_fast_as_predicted(tmp_path):
    descent = _descent(tmp_path, width=512)
    ntk = over_wirings(lambda both: both.ntk, WIRINGS, descent.problem.gram)
    found = descent_runs.speeds(descent, WIRINGS, RATES)["slow"].mean(0)
    first = (descent.problem.targets**2).sum() / 2
    for result, speed in zip(ntk, found, strict=True):
        predicted = -np.log(linearized_loss(result, descent.problem.targets, 0.01, 30) / first)
        assert speed == pytest.approx(float(predicted), rel=0.1)


def test_divergence_is_the_slowest(tmp_path):
    rates = {"wild": np.full(2, 1e6)}
    assert (descent_runs.speeds(_descent(tmp_path), WIRINGS, rates)["wild"] == -np.inf).all()
