import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import encoding, wiring
from jaxnas.connectivity import recursion
from jaxnas.spaces import dag_mlp
from jaxnas.spaces.dag_mlp_space import RELEASED, DagMLP
from jaxnas.types import Statistic

FEATURES = 5
MIXED = wiring.from_code("2_21_112")


@pytest.fixture(scope="module")
def inputs():
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, FEATURES)), jnp.float32)


def _space(**options):
    return dag_mlp(DagMLP(**{"width": 6, "classes": 3} | options), features=FEATURES)


def _outputs(space, params, arch, inputs):
    network, read = space.bind(arch, params)
    return network(read, inputs)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_cell_by_hand(inputs, order):
    space = _space(order=order)
    params = space.init(jax.random.key(0), inputs)

    def layer(edge, signal):
        weights = params[edge]["kernel"]
        scale = (2 / len(weights)) ** 0.5
        if order == "post":
            return np.maximum(scale * signal @ weights, 0)
        return scale * np.maximum(signal, 0) @ weights

    zero = inputs @ params["stem"]["kernel"] / FEATURES**0.5
    one = layer("edge_000_001", zero)
    two = layer("edge_000_002", zero) + one
    three = zero + one + layer("edge_002_003", two)
    found = _outputs(space, params, MIXED, inputs)
    np.testing.assert_allclose(found.features, three, rtol=1e-5)
    expected = three @ params["readout"]["kernel"] / 6**0.5
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)


def test_parameterizations_are_the_same_function_at_first(inputs):
    options = {"stem": "relu", "readout_gain": 2**0.5, "biases": True}
    standard, scaled = (_space(parameterization=p, **options) for p in ("standard", "ntk"))
    params = [space.init(jax.random.key(0), inputs) for space in (standard, scaled)]
    logits = [
        _outputs(space, tensor, MIXED, inputs).logits
        for space, tensor in zip((standard, scaled), params, strict=True)
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)
    # A layer's kernels differ by its scale: sqrt(2 / 6) on an edge.
    np.testing.assert_allclose(
        params[0]["edge_000_001"]["kernel"],
        params[1]["edge_000_001"]["kernel"] * (2 / 6) ** 0.5,
        rtol=1e-6,
    )
    assert not params[0]["readout"]["bias"].any()


@pytest.mark.parametrize(("order", "biases"), [("post", False), ("pre", True)])
def test_a_traced_wiring_is_the_concrete_one(inputs, order, biases):
    space = _space(order=order, biases=biases)
    params = jax.tree.map(lambda leaf: leaf + 0.1, space.init(jax.random.key(0), inputs))
    chex.clear_trace_counter()

    @jax.jit
    @functools.partial(chex.assert_max_traces, n=1)
    def traced(arch, params):
        return _outputs(space, params, arch, inputs).logits

    # With dead edges, an edge from an unfed node, and no path at all.
    for code in ("2_21_112", "2_20_210", "0_20_222", "2_00_020", "0_00_000"):
        one_wiring = wiring.from_code(code)
        np.testing.assert_allclose(
            traced(one_wiring, params),
            _outputs(space, params, one_wiring, inputs).logits,
            rtol=1e-4,
            atol=1e-5,
        )


def test_a_concrete_wiring_reads_its_own_parameters(inputs):
    space = _space()
    params = space.init(jax.random.key(0), inputs)
    assert len(params) == 8
    _, read = space.bind(wiring.from_code("2_20_012"), params)
    assert set(read) == {"stem", "readout", "edge_000_001", "edge_000_002", "edge_002_003"}
    _, read = space.bind(wiring.from_code("2_20_010"), params)  # 0 -> 2 is dead
    assert set(read) == {"stem", "readout", "edge_000_001"}


@pytest.mark.parametrize("biases", [False, True])
def test_the_number_of_parameters(inputs, biases):
    space = _space(biases=biases)
    params = space.init(jax.random.key(0), inputs)
    for code in ("2_21_112", "2_20_010", "1_01_111"):
        read = space.bind(wiring.from_code(code), params)[1]
        expected = sum(leaf.size for leaf in jax.tree.leaves(read))
        assert space.num_params(wiring.from_code(code)) == expected


def _keep(tensor, per_example):
    return per_example


@pytest.mark.parametrize(("order", "stem"), [("post", "relu"), ("pre", "linear")])
def test_per_example_gradients_are_those_of_a_loop(inputs, order, stem):
    space = _space(order=order, stem=stem, biases=True)
    params = jax.tree.map(lambda leaf: leaf + 0.1, space.init(jax.random.key(0), inputs))
    keep, cotangent = Statistic(_keep), jnp.cos(jnp.arange(12.0)).reshape(4, 3)

    def kept(arch):
        network, read = space.bind(arch, params)
        return network.per_example_vjp(read, inputs, (keep,))[1](cotangent, (keep,))[0]

    def looped(read, example, errors):
        network, _ = space.bind(MIXED, params)
        return jax.grad(lambda leaf: (network(leaf, example[None]).logits[0] * errors).sum())(read)

    _, read = space.bind(MIXED, params)
    pairs = zip(inputs, cotangent, strict=True)
    expected = jax.tree.map(lambda *each: jnp.stack(each), *(looped(read, *pair) for pair in pairs))
    eager, traced = kept(MIXED), jax.jit(kept)(MIXED)
    chex.assert_trees_all_close(eager, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close({name: traced[name] for name in eager}, eager, rtol=1e-4, atol=1e-5)
    assert all(
        not leaf.any() for name in set(traced) - set(eager) for leaf in traced[name].values()
    )


@pytest.mark.parametrize(("order", "stem"), [("post", "relu"), ("pre", "linear")])
def test_inputs_of_relus_are_shown(inputs, order, stem):
    space = _space(order=order, stem=stem)
    network, params = space.bind(MIXED, space.init(jax.random.key(0), inputs))
    values, shown = (inputs,), []
    for stage in network.stages(params, inputs, ()):
        passed = stage(values)
        values = passed.outputs
        shown += [each.value for each in passed.shown if each.kind == "preactivation"]
    stem_weights = params["stem"]["kernel"]
    first = inputs @ stem_weights * ((2 if stem == "relu" else 1) / FEATURES) ** 0.5
    assert len(shown) == (4 if stem == "relu" else 3)
    np.testing.assert_allclose(shown[0], first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values[0], network(params, inputs).logits, rtol=1e-5, atol=1e-6)


def test_a_concrete_wiring_inside_a_compiled_function(inputs):
    space = _space()
    params = space.init(jax.random.key(0), inputs)
    inside = jax.jit(lambda params: _outputs(space, params, MIXED, inputs).logits)(params)
    np.testing.assert_allclose(
        inside, _outputs(space, params, MIXED, inputs).logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("order", "stem"),
    [("post", "relu"), pytest.param("pre", "linear", marks=pytest.mark.slow)],
)
def test_wide_networks_have_the_kernels_of_the_recursion(inputs, order, stem):
    """The NTK of four networks of width 256 agrees with the closed form to 8 %."""
    space = dag_mlp(DagMLP(width=256, classes=1, order=order, stem=stem), features=FEATURES)
    network, _ = space.bind(MIXED, space.init(jax.random.key(0), inputs))

    def drawn(key):
        _, read = space.bind(MIXED, space.init(key, inputs))
        gradients = jax.vmap(
            lambda one: jax.grad(lambda p: network(p, one[None]).logits[0, 0])(read)
        )(inputs)
        return sum(jnp.einsum("i...,j...->ij", leaf, leaf) for leaf in jax.tree.leaves(gradients))

    found = jax.jit(lambda keys: jax.lax.map(drawn, keys).mean(0))(
        jax.random.split(jax.random.key(1), 8)
    )
    gram = np.asarray(inputs @ inputs.T) / FEATURES
    exact = recursion.over_wirings(lambda both: both.ntk, MIXED[None], gram, order=order, stem=stem)
    assert np.linalg.norm(found - exact[0]) < 0.08 * np.linalg.norm(exact[0])


def test_it_can_be_trained(inputs):
    space = _space(width=32)
    network, params = space.bind(MIXED, space.init(jax.random.key(0), inputs))
    labels = jnp.eye(3)[jnp.array([0, 1, 2, 0])]

    def loss(params):
        return ((network(params, inputs).logits - labels) ** 2).sum() / 2

    step = jax.jit(lambda p: jax.tree.map(lambda leaf, g: leaf - 0.05 * g, p, jax.grad(loss)(p)))
    before = loss(params)
    for _ in range(30):
        params = step(params)
    assert loss(params) < before / 3


def test_the_facts_of_the_space(inputs):
    space = _space()
    assert space.num_choices == (3,) * 6
    assert space.from_string("2_21_112").tolist() == MIXED.tolist()
    assert space.to_string(MIXED) == "2_21_112"
    assert space.to_string(space.representative(wiring.from_code("2_20_010"))) == "2_00_010"
    many = encoding.enumerate_archs(space.num_choices)
    assert jax.jit(jax.vmap(space.is_connected))(many).sum() == 662
    assert space.options["width"] == 6
    assert dag_mlp(RELEASED).options == {
        "nodes": 4,
        "features": 3072,
        "width": 1024,
        "classes": 10,
        "order": "post",
        "stem": "relu",
        "parameterization": "standard",
        "readout_gain": 2**0.5,
        "biases": True,
    }


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: _space(order="both"), "post, pre: got 'both'"),
        (lambda x: _space(stem="conv"), "linear, relu: got 'conv'"),
        (lambda x: _space(parameterization="mup"), "ntk, standard: got 'mup'"),
        (lambda x: _space(width=0), "width must be an integer from 1 .*: got 0"),
        (lambda x: _space(order="pre", stem="relu"), "got stem='relu'"),
        (lambda x: dag_mlp(nodes=1), "nodes must be an integer from 2 .*: got 1"),
        (lambda x: _space().from_string("2"), "4 nodes: got '2'"),
        (
            lambda x: _space().init(jax.random.key(0), x[:, :2]),
            r"of 5 features: got float32\[4, 2\]",
        ),
        (lambda x: _space().bind([[2] * 6], {}), r"got shape \[1, 6\]"),
        (lambda x: _space().bind([3] * 6, {}), "got kind 3"),
    ],
)
def test_bad_input(inputs, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(inputs)
    assert "\n" not in str(caught.value)
