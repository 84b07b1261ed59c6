"""A network that is small enough to be scored by hand."""

import jax
import jax.numpy as jnp
import pytest


def _perceptron(params, inputs):
    return jax.nn.relu(inputs @ params["first"] + params["shift"][None]) @ params["second"]


@pytest.fixture
def perceptron():
    """A perceptron of two hidden units, and its parameters: `(apply_fn, params)`."""
    params = {
        "first": jnp.array([[1.0, -2.0], [3.0, 4.0]]),
        "second": jnp.array([[-1.0], [5.0]]),
        "shift": jnp.array([-1.0, 0.0]),
    }
    return _perceptron, params
