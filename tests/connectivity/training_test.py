"""What the theory says of training, at its full size: only the slow run does these."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxnas import wiring
from jaxnas.spaces import dag_mlp
from jaxnas.spaces.dag_mlp_space import RELEASED

ROOT = Path(__file__).parents[2]
NAMED = ("DAG#1 sequential", "DAG#2 parallel", "DAG#3 mixed")
CODES = ("2_02_002", "1_01_222", "2_21_112")


@pytest.mark.slow
def test_predicted_and_measured_speed_of_48_wirings(tmp_path):
    """The experiment on digits with one seed: about five CPU minutes."""
    command = [sys.executable, "-m", "experiments.connectivity_dags", "--dataset=digits"]
    command += ["--num_seeds=1", f"--output_dir={tmp_path}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    _check_speeds(json.loads((tmp_path / "summary.json").read_text()))


def _check_speeds(found):
    """Check the correlations, and of the named wirings the order and what is promised."""
    rho = {
        regime: {name: found[f"spearman_{name}_{regime}"] for name in ("equation 12", "paths")}
        | {"linearized": found[f"spearman_linearized NTK_{regime}"]}
        for regime in ("fixed", "tuned")
    }
    assert rho["fixed"]["linearized"] > 0.93
    assert rho["fixed"]["paths"] == pytest.approx(0.9, abs=0.1)
    assert rho["fixed"]["equation 12"] == pytest.approx(0.8, abs=0.1)
    assert rho["tuned"]["linearized"] > 0.85
    assert rho["tuned"]["equation 12"] == pytest.approx(-0.8, abs=0.1)
    assert found["spearman_smallest eigenvalue, NNGP_fixed"] == pytest.approx(0.95, abs=0.1)
    fixed, tuned = (
        [found[f"{name}, {regime}: speed"] for name in NAMED] for regime in ("fixed", "tuned")
    )
    assert fixed == sorted(fixed)  # as published
    assert tuned == sorted(tuned, reverse=True)
    for name, speed in zip(NAMED, fixed, strict=True):
        promised = found[f"{name}, fixed: promised"]
        assert 0.96 < np.exp(-promised) < 0.995  # it holds,
        assert np.exp(-speed) < 0.03  # and says nothing


@pytest.mark.slow
def test_accuracy_tells_less_than_loss():
    """Released form at width 512 on digits, by SGD on the cross-entropy, 30 epochs, three seeds.

    By the last loss the wirings come in the published order. By the mean training accuracy the
    mixed one is first, .70, and the others are within a standard deviation of .02: .65 and .66
    here, .81 and .80, the other way round, with standardised images.
    """
    digits = load_digits()
    images = jnp.asarray(digits.data[:1437] / 16, jnp.float32)
    labels = jnp.asarray(digits.target[:1437])
    space = dag_mlp(RELEASED.clone(width=512), features=64)
    accuracy, loss = {}, {}

    def train(bound, key):
        network, params = bound
        return jax.jit(functools.partial(_train, network))(params, images, labels, key)

    for code in CODES:
        edges = wiring.from_code(code)
        runs = [
            train(space.bind(edges, space.init(jax.random.key(seed), images)), jax.random.key(seed))
            for seed in range(3)
        ]
        accuracy[code] = np.mean([hits.mean() for hits, _ in runs])
        loss[code] = np.mean([losses[-1] for _, losses in runs])
    sequential, parallel, mixed = (accuracy[code] for code in CODES)
    assert mixed > max(sequential, parallel) + 0.02
    assert abs(sequential - parallel) < 0.03
    assert loss[CODES[2]] < loss[CODES[1]] < loss[CODES[0]]


def _train(network, params, images, labels, key, epochs=30, batch=128, rate=1e-3):
    """Return accuracy and mean loss on all images after each epoch, `[epochs]` each."""

    def loss(params, rows, targets):
        log = jax.nn.log_softmax(network(params, rows).logits)
        return -jnp.take_along_axis(log, targets[:, None], 1).mean()

    def step(params, chosen):
        slopes = jax.grad(loss)(params, images[chosen], labels[chosen])
        return jax.tree.map(lambda leaf, slope: leaf - rate * slope, params, slopes), None

    def epoch(params, key):
        order = jax.random.permutation(key, len(images))
        batches = order[: len(order) // batch * batch].reshape(-1, batch)
        params, _ = jax.lax.scan(step, params, batches)
        hits = (network(params, images).logits.argmax(1) == labels).mean()
        return params, (hits, loss(params, images, labels))

    return jax.lax.scan(epoch, params, jax.random.split(key, epochs))[1]
