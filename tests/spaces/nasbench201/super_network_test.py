"""Super-networks: edges that add up several operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas import gradients
from jaxnas.spaces import operations, plans
from jaxnas.spaces.nasbench201 import cell


def mask(arch):
    return np.eye(len(cell.OPERATIONS), dtype=bool)[list(arch)]


@pytest.mark.parametrize("arch", [(3, 2, 4, 1, 0, 3), (0, 0, 3, 1, 4, 2), (0, 1, 0, 0, 3, 0)])
def test_with_one_operation_an_edge_it_is_the_cell(arch, small_space, draw_batch):
    batch = draw_batch(0)
    params = small_space.init(jax.random.key(0), batch.inputs)
    names = ["mgm", "naswot", "gradient_values"]
    expected, found = (
        jaxnas.score(*small_space.bind(own, params), batch, names) for own in (arch, mask(arch))
    )
    assert found == expected


def test_an_edge_is_the_sum_of_its_operations():
    by_name = {"skip": operations.skip_connect(), "conv": operations.convolution_norm("batch")}
    block = plans.mixture(by_name, (0, 1))
    rng = np.random.default_rng(0)
    inputs, cotangent = jnp.asarray(rng.normal(size=(2, 2, 4, 4, 3)))
    weights = {
        "conv": {
            "kernel": jnp.asarray(rng.normal(size=(3, 3, 3, 3))),
            "scale": jnp.ones(3),
            "bias": jnp.zeros(3),
        }
    }
    parts = {name: plans.block(own) for name, own in by_name.items()}
    outputs, saved = block.forward(weights, inputs, None)
    gradient, kept = block.backward(saved, cotangent, (gradients.GRADIENT,))
    each = {name: own.forward(weights.get(name, {}), inputs, None) for name, own in parts.items()}
    np.testing.assert_allclose(outputs, sum(own[0] for own in each.values()), rtol=1e-6)
    back = {
        name: parts[name].backward(own[1], cotangent, (gradients.GRADIENT,))
        for name, own in each.items()
    }
    np.testing.assert_allclose(gradient, sum(own[0] for own in back.values()), rtol=1e-6)
    assert set(kept) == {"conv"}
    jax.tree.map(np.testing.assert_array_equal, kept["conv"], back["conv"][1])
    assert len(block.see(saved)) == 2


def test_its_gradients_are_its_slopes(small_space, draw_batch):
    batch = draw_batch(0)
    alive = np.ones((6, 5), bool)
    alive[2, 1:] = False  # only none
    network, params = small_space.bind(alive, small_space.init(jax.random.key(0), batch.inputs))
    assert "edge_2" not in params["01_cell"]
    assert set(params["01_cell"]["edge_0"]) == {"nor_conv_1x1", "nor_conv_3x3"}

    def loss(step):
        moved = jax.tree.map(lambda leaf, slope: leaf + step * slope, params, slopes)
        return float(jnp.square(network(moved, batch.inputs).logits).sum())

    with jax.enable_x64(True):
        batch = batch._replace(inputs=jnp.asarray(batch.inputs, jnp.float64))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        slopes = jax.grad(lambda own: jnp.square(network(own, batch.inputs).logits).sum())(params)
        squares = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(slopes))
        step = 1e-6 / np.sqrt(squares)
        numeric = (loss(step) - loss(-step)) / (2 * step)
    np.testing.assert_allclose(numeric, squares, rtol=1e-4)


@pytest.mark.parametrize(
    "alive", [np.ones((6, 4), bool), np.zeros((6, 5), bool), np.ones((5, 5), bool)]
)
def test_refuses_other_masks(alive, small_space, draw_batch):
    params = small_space.init(jax.random.key(0), draw_batch(0).inputs)
    with pytest.raises(ValueError, match=r"A super-network is bool\[6, 5\]"):
        small_space.bind(alive, params)


def test_it_has_no_decisions(small_space, draw_batch):
    batch = draw_batch(0)
    params = small_space.init(jax.random.key(0), batch.inputs)
    network, own = small_space.bind(np.ones((6, 5), bool), params)
    with pytest.raises(ValueError, match="A super-network has no decisions"):
        jaxnas.score(network, own, batch, ["flops"])
