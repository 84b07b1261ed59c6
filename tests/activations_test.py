import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import activations, gradients
from jaxnas.types import Statistic

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


def _passes(network, params, inputs, **options):
    """What each stage gave, first to last."""
    passes, given = [], (inputs,)
    for stage in activations.stages(network, params, inputs, **options):
        passes.append(stage(given))
        given = passes[-1].outputs
    return passes


def test_the_activations_of_a_plain_network(plain):
    network, params, inputs = plain
    passes = _passes(network, params, inputs)
    shown = [each for passed in passes for each in passed.shown if each.kind == "preactivation"]
    first = inputs @ params["Dense_0"]["kernel"]
    np.testing.assert_allclose(passes[-1].outputs[0], network(params, inputs), rtol=1e-6)
    # ReLU, a maximum with zero, ReLU6 and tanh; neither the variance nor the maximum with `x`.
    assert [each.value.shape for each in shown] == [(4, 5), (4, 6), (4, 6), (4, 6)]
    np.testing.assert_allclose(shown[0].value, first, rtol=1e-5)
    assert all(each.alive for each in shown)
    (variance,) = (each for passed in passes for each in passed.shown if each.kind == "variance")
    rectified = np.maximum(first, 0)
    np.testing.assert_allclose(variance.value.ravel(), rectified.var(0) + 1e-5, rtol=1e-4)


def test_the_pullback_of_a_plain_network(plain):
    network, params, inputs = plain
    passes = _passes(network, params, inputs)
    assert [passed.outputs[0].shape for passed in passes] == [(4, 5), (4, 6), (4, 3)]
    cotangent = jax.random.normal(jax.random.key(2), (4, 3))
    of_params, of_inputs = jax.vjp(network, params, inputs)[1](cotangent)
    pulled, found = (cotangent,), []
    for passed in reversed(passes):
        pulled, kept = passed.pullback(pulled, (gradients.GRADIENT,))
        found = [each[0] for each in kept] + found
    np.testing.assert_allclose(pulled[0], of_inputs, rtol=1e-4, atol=1e-6)
    expected = [params[name] for name in ("BatchNorm_0", "Dense_0", "Dense_1", "Dense_2")]
    assert len(found) == len(jax.tree.leaves(expected))
    total = sum(float(jnp.square(each).sum()) for each in found)
    by_jax = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(of_params))
    np.testing.assert_allclose(total, by_jax, rtol=1e-4)
    with pytest.raises(ValueError, match="has sums only"):
        passes[-1].pullback((cotangent,), (Statistic(lambda tensor, leaf: leaf),))


@pytest.fixture(scope="module", params=ARCHS)
def bound(request, small_space, draw_batch):
    with jax.enable_x64(True):
        batch = draw_batch(0)
        params = small_space.init(jax.random.key(0), batch.inputs)
        yield *small_space.bind(np.array(ARCHS[request.param]), params), batch


def _square(tensor, gradient):
    return jnp.square(gradient).sum()


def test_the_stages_of_a_space_are_its_network(bound):
    network, params, batch = bound
    square = Statistic(_square, per_example=False)
    passes, given = [], (batch.inputs,)
    for stage in activations.stages(network, params, batch.inputs, (square,)):
        passes.append(stage(given))
        given = passes[-1].outputs
    (x,) = given
    np.testing.assert_allclose(x, network(params, batch.inputs).logits, rtol=1e-12)
    cotangent = (gradients.loss_cotangent(x, batch.labels),)
    squares = 0.0
    for passed in reversed(passes):
        cotangent, kept = passed.pullback(cotangent, (square,))
        squares += sum(jax.tree.leaves(kept))
    expected = jax.tree.leaves(gradients.loss_gradient(network, params, batch))
    total = sum(np.square(each).sum() for each in expected) * batch.labels.size**2
    np.testing.assert_allclose(squares, total, rtol=1e-10)


def test_the_relus_of_a_space_are_those_in_its_program(bound):
    network, params, batch = bound
    shown, given = [], (batch.inputs,)
    for stage in activations.stages(network, params, batch.inputs):
        passed = stage(given)
        given = passed.outputs
        shown += [each.value for each in passed.shown if each.kind == "preactivation"]
    hidden = functools.partial(lambda *given: network(*given))  # a function shows no stages
    (stage,) = activations.stages(hidden, params, batch.inputs)
    found = stage((batch.inputs,)).shown
    # A convolution in front of another of one node rectifies the same input again.
    assert len(shown) == len(found)
    expected = _in_order([each.value for each in found])
    for result, other in zip(_in_order(shown), expected, strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-9, atol=1e-12)


def _in_order(arrays):
    return sorted(arrays, key=lambda leaf: (leaf.shape, round(float(jnp.abs(leaf).sum()), 9)))


def test_without_normalization(bound):
    network, params, batch = bound
    given = (batch.inputs,)
    for stage in activations.stages(network, params, batch.inputs, normalized=False):
        passed = stage(given)
        assert all(shown.kind != "variance" for shown in passed.shown)
        given = passed.outputs
    assert not np.allclose(given[0], network(params, batch.inputs).logits)
