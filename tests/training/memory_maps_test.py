"""Networks that were trained or scored leave neither programs nor memory behind.

Linux allows 65,530 memory maps.
"""

import functools
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, score
from jaxnas.training import TrainingOptions, accuracy, train

MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell its maps")
OPTIONS = TrainingOptions(epochs=1, batch_size=4, crop_padding=0, flip=False)


def _network(depth, params, inputs):
    for _ in range(depth):
        inputs = jnp.tanh(inputs @ params["inner"])
        inputs = jax.nn.softmax(jnp.sort(inputs) - inputs.mean(0, keepdims=True))
    return inputs @ params["outer"]


def _usage():
    """Return how many memory maps there are, and the resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return MAPS.read_bytes().count(b"\n"), pages * resource.getpagesize() / 1e6


def _train(count):
    """Train networks one after the other; return `_usage` after each, `[count, 2]`."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(3, size=8)
    params = {"inner": np.eye(6, dtype=np.float32), "outer": np.ones((6, 3), np.float32)}
    used = []
    for _ in range(count):
        network = functools.partial(_network, 3)  # each is a network of its own to JAX

        def evaluate(params, statistics, inputs, network=network):
            return network(params, inputs)

        sets = (inputs, labels, inputs, labels)
        result = train(network, evaluate, params, *sets, OPTIONS)
        accuracy(evaluate, result.params, result.statistics, inputs, labels, 4)
        used.append(_usage())
    return np.array(used)


def _score(count):
    """Score networks that hold a table of 4 MB each; return `_usage` after each, `[count, 2]`."""
    batch = Batch(jnp.ones((4, 6), jnp.float32), jnp.arange(4, dtype=jnp.int32) % 3)
    params = {"inner": jnp.eye(6), "outer": jnp.ones((6, 3))}
    used = []
    for at in range(count):
        table = jnp.full((1000, 1000), at, jnp.float32)

        def network(params, inputs, table=table):
            return jax.nn.relu(inputs @ params["inner"] + table[:1, :6]) @ params["outer"]

        score(network, params, batch, ["grad_norm"])
        used.append(_usage())
    return np.array(used)


def test_maps_stay_as_they_are():
    maps = _train(12)[:, 0]
    assert maps[8:].max() - maps[3:7].max() < 20


@pytest.mark.slow
@pytest.mark.parametrize("repeat", [_train, _score])
def test_three_hundred_networks(repeat):
    maps, resident = repeat(300).T
    assert maps[200:].max() - maps[3:100].max() < 20
    assert resident[200:].max() - resident[50:100].max() < 50
