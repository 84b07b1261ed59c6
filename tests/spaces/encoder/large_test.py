"""An encoder of the size of RoBERTa-large: what a score of it needs of memory."""

import subprocess
import sys

import pytest

SCORE = """
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import Batch, Scorer, pretrained
from jaxnas.spaces.encoder_space import encoder

config = pretrained.EncoderConfig(
    "roberta", 50265, 1024, 24, 16, 4096, positions=512, segments=1, epsilon=1e-5
)
space = encoder(config)
rng = np.random.default_rng(0)
inputs = np.stack([rng.integers(4, config.vocabulary, (8, 128)), np.zeros((8, 128))], 1)
batch = Batch(jnp.asarray(inputs, jnp.int32), jnp.arange(8) % 2)
arch = space.from_string("3>9 20>24")
scored = Scorer(space, batch, sys.argv[1].split(","))(arch[None])
assert space.num_params(arch) > 354e6
assert all(np.isfinite(own).all() for own in scored.scores.values()), scored.status
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(f"{scored.scores} {scored.cpu_seconds:.0f} CPU seconds", file=sys.stderr)
print(peak / 1e9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("names", ["mgm", "mgm,gradient_values,gradient_correlation"])
def test_a_batch_of_eight_fits_into_20_gigabytes(names):
    pytest.importorskip("resource", reason="the peak of memory is that of Unix")
    run = subprocess.run(
        [sys.executable, "-c", SCORE, names], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert 1.4 < float(run.stdout) < 20
    print(run.stderr, run.stdout)
