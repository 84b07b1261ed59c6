"""What all tests share: arrays of different ranks never mix silently, and one tiny network.

Compilation, not arithmetic, is what a test of a network costs. All tests that run NAS-Bench-201 use
the same space and the same shape of a batch, so that they share the compiled operations.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, SearchSpace, nasbench201

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def small_space() -> SearchSpace:
    """NAS-Bench-201 at two channels and one cell a stage, each example on its own."""
    return nasbench201(channels=2, cells=1, norm="instance")


@pytest.fixture(scope="session")
def draw_batch():
    """`draw_batch(seed)`: six labelled images of noise, `[6, 8, 8, 3]`, of ten classes.

    Six, because halves of three are not a power of two: their means are rounded.
    """

    def draw(seed: int, shape: tuple[int, ...] = (6, 8, 8, 3), classes: int = 10) -> Batch:
        rng = np.random.default_rng(seed)
        return Batch(
            jnp.asarray(rng.normal(size=shape), float),
            jnp.asarray(rng.integers(classes, size=shape[0])),
        )

    return draw
