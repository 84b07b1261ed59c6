"""Networks that were trained leave no programs behind; Linux allows 65,530 memory maps."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.training import TrainingOptions, accuracy, train

MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell its maps")
OPTIONS = TrainingOptions(epochs=1, batch_size=4, crop_padding=0, flip=False)


def _network(depth, params, inputs):
    for _ in range(depth):
        inputs = jnp.tanh(inputs @ params["inner"])
        inputs = jax.nn.softmax(jnp.sort(inputs) - inputs.mean(0, keepdims=True))
    return inputs @ params["outer"]


def _train(count):
    """Train networks one after the other; return how many memory maps there are after each."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(3, size=8)
    params = {"inner": np.eye(6, dtype=np.float32), "outer": np.ones((6, 3), np.float32)}
    counts = []
    for _ in range(count):
        network = functools.partial(_network, 3)  # each is a network of its own to JAX

        def evaluate(params, statistics, inputs, network=network):
            return network(params, inputs)

        sets = (inputs, labels, inputs, labels)
        result = train(network, evaluate, params, *sets, OPTIONS)
        accuracy(evaluate, result.params, result.statistics, inputs, labels, 4)
        counts.append(MAPS.read_bytes().count(b"\n"))
    return np.array(counts)


def test_maps_stay_as_they_are():
    counts = _train(12)
    assert counts[8:].max() - counts[3:7].max() < 20


@pytest.mark.slow
def test_three_hundred_networks():
    counts = _train(300)
    assert counts[200:].max() - counts[3:100].max() < 20
