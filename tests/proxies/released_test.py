"""Scores beside the code that their authors released, on one network of fixed weights.

The values of `RELEASED` are what that code printed in float64, on PyTorch 2.13, for the network
below: two convolutions and a matrix, without biases, eight images. The code of zero-cost-nas
(a43bfbc), nas-without-training (b3a82a6), ZiCo (b0fec65), TE-NAS (9df78ff), SWAP (f6049f7), MeCo
(0d830dd) and AZ-NAS (5e6683a, also for GradSign) ran as it is, but for what newer versions of
PyTorch refuse. EPE-NAS' is its function of the score of a class, on the same network.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies, score
from jaxnas.proxies import az_nas
from jaxnas.types import Shown

RELEASED = {
    # zero-cost-nas, summed over what it gives; grasp is signed, and synflow no logarithm.
    "grad_norm": 1.865699740635061,
    "snip": 4.501259332963801,
    "plain": 0.6287817111752962,
    "grasp_signed": -5.866544776671018,
    "synflow": 1215.753434497538,
    "l2_norm": 9.306541692880318,
    "fisher": 0.5781643736867277,
    "jacob_cov": -11.027656786766304,
    # Each of its own repository.
    "epe_nas": 11.745927660999358,
    "zico": 16.156066390889226,
    "gradsign": 2.2343234323432344,
    "naswot": 46.49741861169362,
    "linear_regions": 8.0,
    "ntk_condition_sum_exact_weights": 231.1260787326926,
    "swap": 212.0,
    "meco": 0.7530570801630572,
    "expressivity": 2.3381737629197175,
    "progressivity": -0.019410011083873524,
}


def _waves(phase, *shape):
    return np.sin(phase + 0.7 * np.arange(np.prod(shape)) ** 1.3).reshape(shape)


class Network:
    """Two convolutions with a ReLU each, a mean over pixels, and a matrix."""

    def __call__(self, params, images):
        return self._layers(params, images)[-1].mean((1, 2)) @ params["matrix"]

    def maps(self, params, images):
        return [Shown("map", (), own) for own in self._layers(params, images)]

    def _layers(self, params, images):
        maps = [images]
        for name in ("first", "second"):
            maps.append(
                jax.lax.conv_general_dilated(
                    maps[-1],
                    params[name],
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            )
            maps.append(jax.nn.relu(maps[-1]))
        return maps[1:]


@pytest.fixture(scope="module")
def problem():
    """The network, its weights and its batch, in float64."""
    with jax.enable_x64(True):
        params = {
            "first": jnp.asarray(0.4 * _waves(1, 3, 3, 3, 4)),
            "second": jnp.asarray(0.4 * _waves(2, 3, 3, 4, 5)),
            "matrix": jnp.asarray(_waves(3, 5, 3)),
        }
        batch = Batch(jnp.asarray(1.5 * _waves(4, 8, 8, 8, 3)), jnp.arange(8) % 3)
        yield Network(), params, batch


# What ours is, given what the released code gives.
RELATIONS = {
    "synflow": np.log,  # of the paper
    "gradsign": lambda mean: 303 * mean,  # a mean over all weights there, a sum here
    "ntk_condition_sum_exact_weights": lambda condition: -condition,  # larger is better
}


@pytest.mark.parametrize("name", sorted(RELEASED.keys() - {"expressivity", "progressivity"}))
def test_a_score_is_that_of_the_released_code(problem, name):
    expected = RELATIONS.get(name, float)(RELEASED[name])
    with jax.enable_x64(True):
        network, params, batch = problem
        found = proxies.BY_NAME[name](network, params, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["expressivity", "progressivity"])
def test_entropies_are_those_of_the_released_code(problem, name):
    # It adds 1e-8 inside the logarithm. Both draw the images anew, so these are of given maps.
    with jax.enable_x64(True):
        network, params, batch = problem
        maps = [shown.value for shown in network.maps(params, batch.inputs)[1::2]]
        found = proxies.BY_NAME[name].reduce(jnp.stack([az_nas._entropy(own) for own in maps]))
    np.testing.assert_allclose(found, RELEASED[name], rtol=0, atol=1e-6)


def test_a_bias_is_a_parameter_of_grad_norm(problem):
    # The released code reads weights alone; the gradient of a last bias is that of the logits.
    with jax.enable_x64(True):
        network, params, batch = problem
        logits = network(params, batch.inputs)
        of_logits = jax.nn.softmax(logits) - jax.nn.one_hot(batch.labels, 3)
        own = proxies.BY_NAME["grad_norm"](
            lambda params, images: network(params, images) + params["bias"][None],
            params | {"bias": jnp.zeros(3)},
            batch,
        )
        expected = RELEASED["grad_norm"] + jnp.linalg.norm(of_logits.mean(0))
    np.testing.assert_allclose(own, expected, rtol=1e-8)


@pytest.mark.parametrize("name", sorted(RELEASED.keys() - {"expressivity", "progressivity"}))
def test_a_network_in_half_precision_has_about_the_score(problem, name):
    # Statistics are taken in float32, whatever the network computes in.
    with jax.enable_x64(True):
        network, params, batch = problem
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        images = batch.inputs.astype(jnp.bfloat16)
        found = score(network, half, Batch(images, batch.labels), [name])[name]
    expected = RELATIONS.get(name, float)(RELEASED[name])
    np.testing.assert_allclose(found, expected, rtol=0.3)
