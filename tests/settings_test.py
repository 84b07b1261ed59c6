"""Scores under the settings of JAX that users turn on: the same, and none fails."""

import functools
import json
import os
import subprocess
import sys

import pytest

SETTINGS = {
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEBUG_NANS": "1",
}

CODE = """
import json
import jax, jax.numpy as jnp
from flax import linen as nn
import jaxnas

# A time is never the same; only networks of spaces show what each of their layers gives.
BY = [name for name in jaxnas.proxies.BY_NAME if name != "latency"]
OF_ANY = [name for name in BY if name != "meco"]

class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        return nn.Dense(3)(x.mean((1, 2)))

# Drawn in float32 whatever the setting.
keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 2)
images = jax.random.normal(keys[0], (8, 8, 8, 3), jnp.float32)
labels = jnp.arange(8, dtype=jnp.int32) % 3
network, params = jaxnas.as_network(Small(), Small().init(keys[1], images))
scores = {"linen": jaxnas.score(network, params, (images, labels), OF_ANY)}

space = jaxnas.spaces.nasbench201(channels=2, cells=1, classes=3)
scorer = jaxnas.Scorer(space, (images, labels), by=BY, progress=False)
found = scorer([[3, 1, 2, 3, 4, 3]])
scores["cell"] = {name: float(found.scores[name][0, 0]) for name in BY}
status = {name: str(found.status[name][0, 0]) for name in BY}
print(json.dumps([scores, status]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(NAME=value)`: the scores under a setting; all share what is compiled."""
    folder = tmp_path_factory.mktemp("xla")
    cheap = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return functools.partial(_run, **cheap)


def _run(**setting: str) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    finished = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, **setting},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    scores, status = json.loads(finished.stdout.splitlines()[-1])
    return scores, status


@pytest.fixture(scope="module")
def plain(run):
    return run()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_scores_are_the_same_under_a_setting_of_jax(plain, run, name):
    scores, status = run(**{name: SETTINGS[name]})
    assert set(plain[1].values()) == {"ok"}
    assert status == plain[1]
    for network, expected in plain[0].items():
        assert scores[network] == pytest.approx(expected, rel=1e-4), network
