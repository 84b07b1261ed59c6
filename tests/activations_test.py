import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import activations, gradients
from jaxnas.types import Reading

ARCHS = {"every operation": (2, 3, 1, 4, 0, 3), "dead edges": (3, 1, 0, 2, 0, 4)}


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(5)(x))
        x = nn.BatchNorm(use_running_average=False)(x)  # keeps a variance above zero
        x = jnp.maximum(nn.Dense(6)(x), 0)
        x = jax.checkpoint(jax.nn.relu6)(x - 1)
        return nn.Dense(3)(jnp.maximum(jnp.tanh(x), x))


@pytest.fixture
def plain():
    inputs = jax.random.normal(jax.random.key(1), (4, 7))
    variables = Plain().init(jax.random.key(0), inputs)

    def network(params, inputs):
        return Plain().apply({**variables, "params": params}, inputs, mutable=["batch_stats"])[0]

    return network, variables["params"], inputs


def test_the_relus_of_a_plain_network(plain):
    network, params, inputs = plain
    (stage,) = activations.stages(network, params)
    passed = stage(inputs)
    first = inputs @ params["Dense_0"]["kernel"]
    np.testing.assert_allclose(passed.outputs, network(params, inputs), rtol=1e-6)
    assert [site.preactivation.shape for site in passed.sites] == [(4, 5), (4, 6), (4, 6)]
    np.testing.assert_allclose(passed.sites[0].preactivation, first, rtol=1e-5)
    assert all(site.alive and site.variance is None for site in passed.sites)


def test_the_pullback_of_a_plain_network(plain):
    network, params, inputs = plain
    passed = activations.stages(network, params)[0](inputs)
    cotangent = jax.random.normal(jax.random.key(2), (4, 3))
    expected = jax.vjp(network, params, inputs)[1](cotangent)
    of_inputs, kept = passed.pullback(cotangent, (gradients.GRADIENT,))
    np.testing.assert_allclose(of_inputs, expected[1], rtol=1e-5, atol=1e-7)
    jax.tree.map(
        lambda own, other: np.testing.assert_allclose(own[0], other, rtol=1e-5, atol=1e-6),
        kept,
        expected[0],
        is_leaf=lambda node: isinstance(node, tuple),
    )
    with pytest.raises(ValueError, match="has sums only"):
        passed.pullback(cotangent, (Reading(lambda tensor, own: own),))


def test_relus_in_loops_are_refused(plain):
    _, params, inputs = plain

    def network(params, inputs):
        return jax.lax.scan(lambda x, _: (jax.nn.relu(x - 1), None), inputs, None, length=2)[0]

    with pytest.raises(ValueError, match="got one inside scan"):
        activations.stages(network, params)[0](inputs)
    # A loop without is none of its business.
    harmless = activations.stages(lambda params, x: jax.lax.map(jnp.tanh, jax.nn.relu(x)), params)
    assert len(harmless[0](inputs).sites) == 1


@pytest.fixture(scope="module", params=ARCHS)
def walked(request, small_space, draw_batch):
    with jax.enable_x64(True):
        batch = draw_batch(0)
        params = small_space.init(jax.random.key(0), batch.inputs)
        yield *small_space.bind(np.array(ARCHS[request.param]), params), batch


def test_the_stages_of_a_space_are_its_network(walked):
    network, params, batch = walked
    passes, x = [], batch.inputs
    for stage in activations.stages(network, params):
        passes.append(stage(x))
        x = passes[-1].outputs
    np.testing.assert_allclose(x, network(params, batch.inputs).logits, rtol=1e-12)
    cotangent = gradients.cross_entropy_cotangent(x, batch.labels)
    squares = 0.0
    square = Reading(lambda tensor, own: jnp.square(own).sum(), per_example=False)
    for passed in reversed(passes):
        cotangent, kept = passed.pullback(cotangent, (square,))
        squares += sum(jax.tree.leaves(kept))
    expected = jax.tree.leaves(gradients.loss_gradient(network, params, batch))
    total = sum(np.square(own).sum() for own in expected) * batch.labels.size**2
    np.testing.assert_allclose(squares, total, rtol=1e-10)


def test_the_relus_of_a_space_are_those_in_its_program(walked):
    network, params, batch = walked
    shown, x = [], batch.inputs
    for stage in activations.stages(network, params):
        passed = stage(x)
        x = passed.outputs
        shown += [own.preactivation for own in passed.sites if own.preactivation is not None]
    hidden = functools.partial(lambda *given: network(*given))  # a function shows no stages
    found = activations.stages(hidden, params)[0](batch.inputs).sites
    # A convolution in front of another of one node rectifies the same input again.
    assert len(shown) == len(found)
    for own, site in zip(
        _in_order(shown), _in_order([s.preactivation for s in found]), strict=True
    ):
        np.testing.assert_allclose(own, site, rtol=1e-9, atol=1e-12)


def _in_order(arrays):
    return sorted(arrays, key=lambda own: (own.shape, round(float(jnp.abs(own).sum()), 9)))


def test_without_normalisation(walked):
    network, params, batch = walked
    x = batch.inputs
    for stage in activations.stages(network, params, normalized=False):
        passed = stage(x)
        assert all(site.variance is None for site in passed.sites)
        x = passed.outputs
    assert not np.allclose(x, network(params, batch.inputs).logits)
