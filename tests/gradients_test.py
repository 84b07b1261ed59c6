import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxnas import Batch, Outputs, gradients
from jaxnas.types import Statistic

COUNT, FEATURES, CLASSES = 4, 5, 3


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(COUNT, FEATURES)), float)
    return Batch(inputs, jnp.array([0, 2, 1, 2]))


def _plain_params():
    rng = np.random.default_rng(1)
    return {
        "first": jnp.asarray(rng.normal(size=(FEATURES, 6)), float),
        "second": jnp.asarray(rng.normal(size=(6, CLASSES)), float),
        "shift": jnp.asarray(rng.normal(size=CLASSES), float),
    }


def _plain(params, inputs):
    return jnp.tanh(inputs @ params["first"]) @ params["second"] + params["shift"][None]


class _Linen(nn.Module):
    widths: list[int]

    @nn.compact
    def __call__(self, inputs):
        for width in self.widths:
            inputs = nn.tanh(nn.Dense(width)(inputs))
        return nn.Dense(CLASSES)(inputs)


class _NNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(FEATURES, 6, rngs=rngs)
        self.classifier = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, inputs):
        return self.classifier(nnx.tanh(self.hidden(inputs)))


def _linen():
    model = _Linen([4])
    return model.apply, model.init(jax.random.key(0), jnp.ones((1, FEATURES)))


def _linen_in_a_lambda():
    model = _Linen([6])
    params = model.init(jax.random.key(0), jnp.ones((1, FEATURES)))["params"]
    return lambda params, inputs: model.apply({"params": params}, inputs), params


def _nnx():
    graph, params = nnx.split(_NNX(nnx.Rngs(0)))
    return lambda params, inputs: nnx.merge(graph, params)(inputs), params


def _equinox():
    model = eqx.nn.MLP(FEATURES, CLASSES, 6, 1, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_array)
    return lambda params, inputs: jax.vmap(eqx.combine(params, rest))(inputs), params


def _plain_jax():
    return _plain, _plain_params()


NETWORKS = [_linen, _linen_in_a_lambda, _nnx, _equinox, _plain_jax]


def _loss(apply_fn, params, batch):
    """The summed cross-entropy, from its definition."""
    logits = apply_fn(params, batch.inputs)
    chosen = logits[jnp.arange(batch.labels.size), batch.labels]
    return (jax.scipy.special.logsumexp(logits, axis=1) - chosen).sum()


def _looped(apply_fn, params, batch):
    """The gradient of each example, one after the other."""
    grad = jax.jit(jax.grad(functools.partial(_loss, apply_fn)))
    single = [
        grad(params, Batch(batch.inputs[i : i + 1], batch.labels[i : i + 1]))
        for i in range(batch.labels.size)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *single)


def _assert_trees_close(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, **tolerance)


def _keep(tensor, per_example):
    return per_example


def _read_sizes(tensor, per_example):
    return {"norms": jnp.square(per_example).sum(tuple(range(1, per_example.ndim)))}


KEEP, SIZES = Statistic(_keep), Statistic(_read_sizes)


def test_cross_entropy_by_hand():
    # softmax(0, ln 3) = (1/4, 3/4).
    logits, labels = jnp.log(jnp.array([[1.0, 3], [1, 3]])), jnp.array([1, 0])
    losses = gradients.cross_entropy(logits, labels)
    np.testing.assert_allclose(losses, [np.log(4 / 3), np.log(4)], rtol=1e-6)
    cotangent = gradients.loss_cotangent(logits, labels)
    np.testing.assert_allclose(cotangent, [[0.25, -0.25], [-0.75, 0.75]], rtol=1e-6)


def test_cross_entropy_of_large_logits():
    logits = jnp.array([[1e4, 0.0]])
    np.testing.assert_allclose(gradients.cross_entropy(logits, jnp.array([1])), [1e4])


def test_outputs_of_bare_logits_and_of_more(batch):
    params = _plain_params()
    bare = gradients.outputs(_plain, params, batch.inputs)
    assert bare.features is None
    more = gradients.outputs(lambda p, x: Outputs(_plain(p, x), x), params, batch.inputs)
    np.testing.assert_array_equal(more.logits, bare.logits)
    np.testing.assert_array_equal(more.features, batch.inputs)


@pytest.mark.parametrize("network", NETWORKS)
def test_per_example_gradients_are_those_of_a_loop(network, batch):
    apply_fn, params = network()
    expected = _looped(apply_fn, params, batch)
    vmapped = jax.jit(functools.partial(gradients.per_example_gradients, apply_fn))(params, batch)
    _assert_trees_close(vmapped, expected, rtol=1e-4, atol=1e-6)
    out, pullback = gradients.per_example_vjp(apply_fn, params, batch.inputs, (KEEP,))
    np.testing.assert_allclose(out.logits, apply_fn(params, batch.inputs), rtol=1e-4, atol=1e-6)
    cotangent = gradients.loss_cotangent(out.logits, batch.labels)
    _assert_trees_close(pullback(cotangent, (KEEP,))[0], expected, rtol=1e-4, atol=1e-6)
    mean = jax.jit(functools.partial(gradients.loss_gradient, apply_fn))(params, batch)
    means = jax.tree.map(lambda leaf: leaf.mean(0), expected)
    _assert_trees_close(mean, means, rtol=1e-4, atol=1e-6)


def test_a_gradient_by_hand():
    # Linear, logits (0, 0): the gradient of example x is x (softmax - one-hot).
    params = {"w": jnp.zeros((2, 2))}
    batch = Batch(jnp.array([[1.0, 2], [4, 0]]), jnp.array([0, 1]))
    expected = [[[-0.5, 0.5], [-1, 1]], [[2, -2], [0, 0]]]
    found = gradients.per_example_gradients(_linear, params, batch)
    np.testing.assert_allclose(found["w"], expected, rtol=1e-6)
    mean = gradients.loss_gradient(_linear, params, batch)
    np.testing.assert_allclose(mean["w"], [[0.75, -0.75], [-0.5, 0.5]], rtol=1e-6)


def _linear(params, inputs):
    return inputs @ params["w"]


def test_a_jacobian_by_hand():
    # d (x w)_k / d w_ij = x_i if j = k.
    params = {"w": jnp.ones((2, 2))}
    jacobian = gradients.jacobian(_linear, params, jnp.array([[3.0, 5]]))
    np.testing.assert_array_equal(jacobian["w"], [[[[3, 0], [5, 0]], [[0, 3], [0, 5]]]])


def test_the_jacobian_is_that_of_forward_differentiation(batch):
    with jax.enable_x64(True):
        params = _plain_params()
        found = jax.jit(functools.partial(gradients.jacobian, _plain))(params, batch.inputs)
        forward = jax.jit(jax.jacfwd(_plain))(params, batch.inputs)
        _assert_trees_close(found, forward, rtol=1e-10, atol=1e-12)


def test_the_jacobian_is_that_of_finite_differences(batch):
    with jax.enable_x64(True):
        params, step = _plain_params(), 1e-5
        network = functools.partial(gradients.jacobian, lambda p, x: Outputs(_plain(p, x)))
        found = jax.jit(network)(params, batch.inputs)
        for name, position in {"first": (2, 3), "second": (1, 0), "shift": (2,)}.items():
            moved = [
                _plain(params | {name: params[name].at[position].add(own_step)}, batch.inputs)
                for own_step in (step, -step)
            ]
            difference = (moved[0] - moved[1]) / (2 * step)
            np.testing.assert_allclose(found[name][:, :, *position], difference, atol=1e-8)


@pytest.mark.parametrize(
    ("max_bytes", "groups", "statistic"),
    [
        (1, 3, KEEP),  # each of the three tensors alone
        (COUNT * 8 * 36, 2, KEEP),  # 30 coordinates; then 18 + 3: float64, of each example
        (COUNT * 8 * 50, 2, SIZES),
        (COUNT * 8 * 51, 1, SIZES),
        (gradients.MAX_BYTES, 1, KEEP),
    ],
)
def test_bounded_memory_changes_no_number(batch, max_bytes, groups, statistic):
    traced = []

    def counted(params, inputs):
        traced.append(None)
        return _plain(params, inputs)

    with jax.enable_x64(True):
        params = _plain_params()
        out, pullback = gradients.per_example_vjp(
            counted, params, batch.inputs, (statistic,), max_bytes=max_bytes
        )
        cotangent = gradients.loss_cotangent(out.logits, batch.labels)
        (kept,) = pullback(cotangent, (statistic,))
        # The logits one by one, to see that no example sees another those of the batch, a group.
        assert len(traced) == 2 + groups
        looped = _looped(_plain, params, batch)
        expected = jax.tree.map(statistic.keep, params, looped)
        _assert_trees_close(kept, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("max_bytes", [1, gradients.MAX_BYTES])
def test_the_sum_is_the_ordinary_gradient(batch, max_bytes):
    with jax.enable_x64(True):
        params = _plain_params()
        cotangent = jnp.asarray(np.random.default_rng(2).normal(size=(COUNT, CLASSES)))
        only = (gradients.GRADIENT,)
        pullback = gradients.per_example_vjp(
            _plain, params, batch.inputs, only, max_bytes=max_bytes
        )[1]
        expected = jax.grad(lambda params: (_plain(params, batch.inputs) * cotangent).sum())(params)
        _assert_trees_close(pullback(cotangent, only)[0], expected, rtol=1e-12, atol=1e-14)


@dataclasses.dataclass
class _Unhashable:
    factor: float

    def __call__(self, params, inputs):
        return self.factor * _plain(params, inputs)


def test_a_network_that_cannot_be_hashed(batch):
    network, params = _Unhashable(2.0), _plain_params()
    with pytest.raises(TypeError):
        hash(network)
    out, pullback = gradients.per_example_vjp(network, params, batch.inputs, (KEEP,))
    np.testing.assert_allclose(out.logits, 2 * _plain(params, batch.inputs), rtol=1e-5)
    network.factor = 3.0  # must not be mistaken for what it was
    again = gradients.per_example_vjp(network, params, batch.inputs, (KEEP,))[0]
    np.testing.assert_allclose(again.logits, 3 * _plain(params, batch.inputs), rtol=1e-5)
    (kept,) = pullback(jnp.ones((COUNT, CLASSES)), (KEEP,))
    np.testing.assert_allclose(kept["shift"], np.full((COUNT, CLASSES), 3), rtol=1e-6)


class _OwnPass:
    """A network that brings a backward pass: 7 times a cotangent, to be recognized."""

    def __call__(self, params, inputs):
        return _plain(params, inputs)

    def per_example_vjp(self, params, inputs, statistics):
        def pullback(cotangent, chosen):
            assert chosen == statistics
            return (
                jax.tree.map(lambda tensor: jnp.full_like(tensor, 7 * cotangent[0, 0]), params),
            )

        return Outputs(_plain(params, inputs)), pullback


def test_a_backward_pass_of_ones_own_is_used(batch):
    params = _plain_params()
    out, pullback = gradients.per_example_vjp(_OwnPass(), params, batch.inputs, (KEEP,))
    cotangent = gradients.loss_cotangent(out.logits, batch.labels)
    expected = np.full_like(params["first"], 7 * cotangent[0, 0])
    np.testing.assert_array_equal(pullback(cotangent, (KEEP,))[0]["first"], expected)
    found = gradients.loss_gradient(_OwnPass(), params, batch)
    np.testing.assert_allclose(found["first"], expected / COUNT, rtol=1e-6)


@pytest.mark.parametrize("max_bytes", [0, -5])
def test_no_memory_is_refused(batch, max_bytes):
    with pytest.raises(
        ValueError, match=rf"^max_bytes must be an integer from 1 .*: got {max_bytes}; .*\.$"
    ):
        gradients.per_example_vjp(
            _plain, _plain_params(), batch.inputs, (KEEP,), max_bytes=max_bytes
        )


def test_everything_works_inside_jit(batch):
    params = _plain_params()

    @jax.jit
    def norms(params, batch):
        out, pullback = gradients.per_example_vjp(_plain, params, batch.inputs, (SIZES,))
        cotangent = gradients.loss_cotangent(out.logits, batch.labels)
        return pullback(cotangent, (SIZES,))[0]

    expected = jax.tree.map(SIZES.keep, params, _looped(_plain, params, batch))
    _assert_trees_close(norms(params, batch), expected, rtol=1e-4)


def _weighted(tensor, gradient):
    return (tensor * gradient).sum()


class _Counted:
    """A network that counts its traces, with or without a coupling of the examples."""

    def __init__(self, coupled=False):
        self.coupled, self.traces = coupled, 0

    def __call__(self, params, inputs):
        self.traces += 1
        shift = inputs.mean(0, keepdims=True) if self.coupled else 0
        return _plain(params, inputs - shift)


def test_statistics_of_one_request_share_a_pass(batch):
    with jax.enable_x64(True):
        params, network = _plain_params(), _Counted()
        of = gradients.loss_cotangent
        wanted = {of: (KEEP, Statistic(_weighted, per_example=False), SIZES, gradients.GRADIENT)}
        kept, weighted, sizes, gradient = gradients.read(network, params, batch, wanted)[of]
        # The sums, the examples alone (their logits and gradients), and that none sees another.
        assert network.traces == 4
        looped = _looped(_plain, params, batch)
        total = jax.tree.map(lambda leaf: leaf.sum(0), looped)
        _assert_trees_close(kept, looped, rtol=1e-10, atol=1e-12)
        _assert_trees_close(sizes, jax.tree.map(SIZES.keep, params, looped), rtol=1e-10)
        _assert_trees_close(gradient, total, rtol=1e-10, atol=1e-12)
        _assert_trees_close(weighted, jax.tree.map(_weighted, params, total), rtol=1e-10)


def test_sums_couple_the_examples_that_the_network_couples(batch):
    with jax.enable_x64(True):
        params, network = _plain_params(), _Counted(coupled=True)

        def loss(params):
            logits = network(params, batch.inputs)
            return gradients.cross_entropy(logits, batch.labels).mean()

        expected = jax.grad(loss)(params)
        found = gradients.loss_gradient(network, params, batch)
        _assert_trees_close(found, expected, rtol=1e-10, atol=1e-12)
