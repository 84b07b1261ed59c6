"""Inputs and wirings that the tests of the theory share."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxnas import encoding, wiring
from jaxnas.connectivity import inputs


@pytest.fixture(scope="session")
def digits_gram():
    """`digits_gram(N)`: cosines of `N` digits, centered by the mean of all, in a fixed order."""
    data = load_digits().data
    order = np.random.default_rng(0).permutation(len(data))

    def gram(count: int) -> np.ndarray:
        return inputs.input_gram(inputs.unit_rows(data[order[:count]], data.mean(0)))

    return gram


@pytest.fixture(scope="session")
def live_wirings():
    """The 290 different wirings of four nodes without dead edges, with a path; `int32[290, 6]`."""
    pruned = np.asarray(jax.vmap(wiring.prune)(encoding.enumerate_archs((3,) * 6)))
    return np.unique(pruned[pruned.any(1)], axis=0)
