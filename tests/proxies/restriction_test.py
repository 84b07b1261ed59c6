import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas import Batch, proxies

# Logits are 2 v x: of one example of class 0, x = 1, the gradients of the loss with respect to the
# logits are softmax - one-hot = (p - 1, 1 - p), p = 1/2 at v = 0, w = 2.
BATCH = Batch(jnp.ones((1, 1)), jnp.array([0]))
PARAMS = {"body": {"w": jnp.full((1, 1), 2.0)}, "head": {"v": jnp.zeros((1, 2))}}


def network(params, inputs):
    return inputs @ params["body"]["w"] @ params["head"]["v"]


def test_parts_by_hand():
    names = ["mgm", "mgm@head", "mgm@body/w$", "mgm@v|w", "gradient_values@head"]
    scores = jaxnas.score(network, PARAMS, BATCH, names)
    # d/dv = w (p - 1, 1 - p) = (-1, 1): squared norm 2. d/dw = v . (...) = 0: nothing to score.
    assert scores == {
        "mgm": 2.0,
        "mgm@head": 2.0,
        "mgm@body/w$": -np.inf,
        "mgm@v|w": 2.0,
        "gradient_values@head": 2.0,
    }


def test_equal_parts_are_one_measure():
    first, again = (proxies.resolve(["mgm@head", "mgm_mean@head"]) for _ in range(2))
    assert first == again
    assert first[0].measure == first[1].measure != proxies.BY_NAME["mgm"].measure


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mgm@(", "needs a regular expression"),
        ("params@head", "Only scores that read gradients"),
        ("mgm@middle", "No tensor has 'middle' in its path: got body/w, head/v"),
        ("most@head", "Unknown proxy 'most@head'"),
    ],
)
def test_refuses(name, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        jaxnas.score(network, PARAMS, BATCH, [name])
