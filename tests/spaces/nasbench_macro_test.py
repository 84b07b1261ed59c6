import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.benchmarks.macro import nasbench_macro as benchmark
from jaxnas.spaces.mobilenetv2_space import layers
from jaxnas.spaces.nasbench_macro_space import cost_table, layout, nasbench_macro, representative

TABLE = benchmark()
KEY = jax.random.key(0)


@functools.cache
def _setting():
    space = nasbench_macro(channels=2, head=5)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 8, 8, 3)), jnp.float32)
    shapes = jax.eval_shape(space.init, KEY, images)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.3, 0.5, leaf.shape), jnp.float32), shapes
    )
    return space, params, images


def test_params_and_flops_are_those_of_the_table_for_all_networks():
    costs = cost_table()
    np.testing.assert_array_equal(costs.num_params(TABLE.archs), TABLE.params)
    np.testing.assert_array_equal(costs.num_macs(TABLE.archs), TABLE.columns["flops"])


@pytest.mark.parametrize("arch", ["00000000", "22222222", "02012100"])
def test_the_space_counts_what_it_binds(arch):
    space = nasbench_macro()
    decisions = space.from_string(arch)
    shapes = jax.eval_shape(space.init, KEY, jnp.zeros((1, 32, 32, 3)))
    network, read = space.bind(decisions, shapes)
    count = sum(tensor.size for tensor in jax.tree.leaves(read))
    assert count == space.num_params(decisions) == TABLE.params[TABLE.index(arch)]
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert network.num_macs(read, images) == TABLE.columns["flops"][TABLE.index(arch)]
    assert jax.eval_shape(network, read, images).logits.shape == (1, 10)


def test_what_the_layers_are():
    found = layers(layout())
    assert [layer.inputs for layer in found] == [32, 64, 64, 128, 128, 128, 256, 256]
    assert [layer.image_size for layer in found] == [32, 16, 16, 8, 8, 8, 4, 4]
    assert [layer.is_plain for layer in found] == [
        *(False, True, False, True, True, False, True, True),
    ]


def test_identities_in_a_stage_commute():
    space, params, images = _setting()
    # Layers 3 and 4, and 6 and 7, are those that keep the shape in stages 2 and 3.
    first, second = space.from_string("01101001"), space.from_string("01110010")
    names = sorted(params)[1:-2]
    swapped = dict(params)
    for a, b in ((3, 4), (6, 7)):
        swapped[names[a]], swapped[names[b]] = params[names[b]], params[names[a]]
    assert space.to_string(space.representative(first)) == space.to_string(second)
    network, read = space.bind(first, params)
    other, theirs = space.bind(second, swapped)
    np.testing.assert_allclose(
        network(read, images).logits, other(theirs, images).logits, rtol=1e-5
    )


def test_representatives_have_the_same_cost_and_nearly_the_same_accuracy():
    found = np.array([representative(arch) for arch in TABLE.archs])
    # 9 pairs in the first stage's (3 x 3), 7 of 9 pairs in the others, times 3 for their first.
    assert len(np.unique(found, axis=0)) == 9 * 21 * 21
    np.testing.assert_array_equal(TABLE.params[TABLE.index(found)], TABLE.params)
    np.testing.assert_array_equal(
        TABLE.columns["flops"][TABLE.index(found)], TABLE.columns["flops"]
    )
    moved = (found != TABLE.archs).any(axis=1)
    difference = TABLE.accuracy(found[moved]) - TABLE.accuracy(TABLE.archs[moved])
    assert np.abs(difference).mean() < 0.3 < 2.6 < TABLE.columns["accuracy"].std()
    again = np.array([representative(arch) for arch in found[::50]])
    np.testing.assert_array_equal(again, found[::50])


def test_facts_of_the_space():
    space = nasbench_macro()
    assert space.num_choices == (3,) * 8
    assert space.name == "nasbench_macro"
    assert space.to_string(space.from_string("02101212")) == "02101212"
    assert space.is_connected([0] * 8)
    assert space.options["activation"] == "relu"


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: nasbench_macro(channels=0), "channels must be an integer from 1 .*: got 0"),
        (lambda: nasbench_macro(classes=1), "classes must be an integer from 2"),
        (lambda: nasbench_macro().from_string("0123"), "8 digits"),
        (lambda: representative([0] * 7), "8 decisions"),
        (lambda: _setting()[0].init(KEY, jnp.ones((1, 4, 4, 3))), "Stage 3 cannot halve"),
    ],
)
def test_bad_requests_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()
