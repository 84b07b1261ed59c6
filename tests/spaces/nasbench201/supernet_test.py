"""Supernets: edges that add up several operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas.network import Net, Value, eager
from jaxnas.network.graph import Graph
from jaxnas.network.operations import Context
from jaxnas.spaces.nasbench201_space import cell, network


def mask(arch):
    return np.eye(len(cell.OPERATIONS), dtype=bool)[list(arch)]


@pytest.mark.parametrize("arch", [(3, 2, 4, 1, 0, 3), (0, 0, 3, 1, 4, 2), (0, 1, 0, 0, 3, 0)])
def test_with_one_operation_an_edge_it_is_the_cell(arch, small_space, draw_batch):
    batch = draw_batch(0)
    params = small_space.init(jax.random.key(0), batch.inputs)
    names = ["mgm", "naswot", "gradient_values"]
    expected, found = (
        jaxnas.score(*small_space.bind(each, params), batch, names) for each in (arch, mask(arch))
    )
    assert found == expected


def test_an_edge_is_the_sum_of_its_operations(small_space, draw_batch):
    """Of both convolutions on one edge, all others cut: a cell is the sum of their cells."""
    batch = draw_batch(0)
    params = small_space.init(jax.random.key(0), batch.inputs)
    alive = mask((0, 0, 0, 2, 0, 0))
    alive[3, 3] = True
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 2)), jnp.float32)
    weights = {"cell": params["01_cell"]}

    def run(decisions):
        net = Net("batch")
        given = Value(x.shape, x.dtype)
        with net.scope("cell"):
            output = network.cell(decisions, net, given)
        steps = Graph((given,), (output,), tuple(net.steps), "batch")
        return eager.run(steps, Context("batch"), weights, (x,))[0][0]

    each = [run((0, 0, 0, conv, 0, 0)) for conv in (2, 3)]
    both = run(((0,), (0,), (0,), (2, 3), (0,), (0,)))
    np.testing.assert_allclose(both, sum(each), rtol=1e-5, atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-3


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
        slopes = jax.grad(lambda each: jnp.square(network(each, batch.inputs).logits).sum())(params)
        squares = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(slopes))
        step = 1e-6 / np.sqrt(squares)
        numeric = (loss(step) - loss(-step)) / (2 * step)
    np.testing.assert_allclose(numeric, squares, rtol=1e-4)


@pytest.mark.parametrize(
    "alive", [np.ones((6, 4), bool), np.zeros((6, 5), bool), np.ones((5, 5), bool)]
)
def test_refuses_other_masks(alive, small_space, draw_batch):
    params = small_space.init(jax.random.key(0), draw_batch(0).inputs)
    with pytest.raises(ValueError, match=r"A supernet is bool\[6, 5\]"):
        small_space.bind(alive, params)


def test_it_costs_what_its_operations_cost(small_space, draw_batch):
    batch = draw_batch(0)
    params = small_space.init(jax.random.key(0), batch.inputs)
    alive = np.ones((6, 5), bool)
    found = jaxnas.score(*small_space.bind(alive, params), batch, ["flops"])["flops"]
    chosen = [
        jaxnas.score(*small_space.bind((conv,) * 6, params), batch, ["flops"])["flops"]
        for conv in (0, 2, 3)
    ]
    assert found == chosen[1] + chosen[2] - chosen[0]
