import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies

NAMES = ["naswot", "linear_regions", "swap"]


def _relu(params, inputs):
    return jnp.maximum(inputs @ params["w"], 0)


def _score(name, inputs, factor=1.0):
    inputs = jnp.array(inputs, float)
    batch = Batch(inputs, jnp.zeros(len(inputs), int))
    return float(proxies.BY_NAME[name](_relu, {"w": factor * jnp.eye(inputs.shape[1])}, batch))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Codes 11, 10 and 01: K = [[2, 1, 1], [1, 2, 0], [1, 0, 2]], of determinant 4.
        ("naswot", math.log(4)),
        ("linear_regions", 3),
        ("swap", 2),  # over the examples: 110 and 101
    ],
)
def test_three_examples_by_hand(name, expected):
    assert _score(name, [[1, 2], [3, -1], [-1, 4]]) == pytest.approx(expected, rel=1e-6)


def test_equal_codes():
    inputs = [[1, 2, 3], [4, 5, 6], [-1, 1, 1]]  # 111 twice
    assert _score("naswot", inputs) == -np.inf
    assert _score("linear_regions", inputs) == 2
    assert _score("swap", inputs) == 2  # 110 and, twice, 111
    assert _score("linear_regions", [[1.0], [2.0]]) == -np.inf  # one region is nothing


def test_swap_is_a_mean_over_groups_of_sixteen():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(37, 9000))
    groups = [len(np.unique(inputs[i : i + 16] > 0, axis=1).T) for i in (0, 16)]
    assert groups[0] != groups[1]
    assert _score("swap", inputs) == np.mean(groups)


@pytest.mark.parametrize("name", NAMES)
def test_only_signs_count(name):
    inputs = np.random.default_rng(0).normal(size=(5, 9))
    assert _score(name, inputs) == _score(name, inputs, factor=7.0)
    assert np.isnan(_score(name, inputs, factor=np.nan))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_activations_is_refused(name):
    batch = Batch(jnp.ones((2, 3)), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="got a network without"):
        proxies.BY_NAME[name](lambda params, inputs: 2 * inputs, {}, batch)


def test_they_share_a_measure():
    assert proxies.BY_NAME["naswot"].measure is proxies.BY_NAME["linear_regions"].measure
