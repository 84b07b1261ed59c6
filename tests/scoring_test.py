import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxnas
from jaxnas import Batch, Proxy, proxies
from jaxnas.proxies import measures
from jaxnas.scoring import validate_batch

DRAW = Proxy("draw", lambda apply_fn, params, batch, key: jax.random.normal(key), jnp.asarray)


# One network of your own.


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(3)(nn.relu(nn.Dense(8)(inputs)))


class _NNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, 8, rngs=rngs)
        self.classifier = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, inputs):
        return self.classifier(nnx.relu(self.hidden(inputs)))


def _linen():
    model = _Linen()
    return model.apply, model.init(jax.random.key(0), jnp.ones((1, 6)))


def _nnx():
    graph, params = nnx.split(_NNX(nnx.Rngs(0)))
    return lambda params, inputs: nnx.merge(graph, params)(inputs), params


def _equinox():
    params, rest = eqx.partition(eqx.nn.MLP(6, 3, 8, 1, key=jax.random.key(0)), eqx.is_array)
    return lambda params, inputs: jax.vmap(eqx.combine(params, rest))(inputs), params


@pytest.mark.parametrize("network", [_linen, _nnx, _equinox])
def test_a_network_of_ones_own(draw_batch, network):
    batch = draw_batch(0, (5, 6), 3)
    apply_fn, params = network()
    scores = jaxnas.score(apply_fn, params, batch, ["mgm", "params", "layer_balance"])
    assert list(scores) == ["mgm", "params", "layer_balance"]
    assert scores["params"] == 6 * 8 + 8 + 8 * 3 + 3

    @jax.jit
    @jax.grad
    def gradient(params):
        logits = apply_fn(params, batch.inputs)
        chosen = logits[jnp.arange(5), batch.labels]
        return (jax.scipy.special.logsumexp(logits, axis=1) - chosen).mean()

    squares = [np.square(leaf).sum() for leaf in jax.tree.leaves(gradient(params))]
    np.testing.assert_allclose(scores["mgm"], sum(squares), rtol=1e-5)
    # Two layers: the entropy of two shares.
    assert 0 < scores["layer_balance"] < np.log(2)


def _linear(params, inputs):
    return inputs @ params["w"]


@pytest.fixture
def linear():
    """A linear network, and a batch: `(apply_fn, params, batch)`."""
    weights = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), float)}
    inputs = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    return _linear, weights, (inputs, np.array([0, 2, 1, 1, 2]))


def test_scores_are_those_of_the_proxies(linear):
    apply_fn, params, (inputs, labels) = linear
    names = ["gradient_values", "mgm"]
    scores = jaxnas.score(apply_fn, params, (inputs, labels), names)
    for name in names:
        proxy = proxies.BY_NAME[name]
        found = proxy(apply_fn, params, Batch(jnp.asarray(inputs), jnp.asarray(labels)))
        np.testing.assert_allclose(scores[name], found, rtol=1e-5)
        assert isinstance(scores[name], float)


def test_one_name_is_enough(linear):
    assert list(jaxnas.score(*linear, "mgm")) == ["mgm"]


def test_a_proxy_of_ones_own_and_a_key(linear):
    scores = jaxnas.score(*linear, [DRAW, "mgm"], key=jax.random.key(3))
    np.testing.assert_allclose(scores["draw"], jax.random.normal(jax.random.key(3)), rtol=1e-6)
    assert scores["draw"] != jaxnas.score(*linear, [DRAW], key=jax.random.key(4))["draw"]
    assert jaxnas.score(*linear, [DRAW]) == jaxnas.score(*linear, [DRAW])


def test_a_shared_measure_is_run_once(linear):
    runs = []

    def measure(apply_fn, params, batch, key):
        runs.append(None)
        return jnp.float32(2)

    chosen = [Proxy("once", measure, jnp.asarray), Proxy("minus", measure, jnp.negative)]
    assert jaxnas.score(*linear, chosen) == {"once": 2, "minus": -2}
    assert len(runs) == 1


def test_differences_are_taken_in_float64(linear):
    def measure(apply_fn, params, batch, key):
        return jnp.array([2.0**24, 1, -(2.0**24)])  # the one is lost in float32

    chosen = Proxy("sum", measure, lambda parts: (parts[0] + parts[1]) + parts[2])
    assert jaxnas.score(*linear, [chosen]) == {"sum": 1}


def test_a_network_in_bfloat16(linear):
    apply_fn, params, (inputs, labels) = linear
    half = jax.tree.map(lambda tensor: tensor.astype(jnp.bfloat16), params)
    batch = (inputs.astype(jnp.bfloat16), labels)
    found = jaxnas.score(apply_fn, half, batch, ["gradient_diversity"])
    whole = jaxnas.score(apply_fn, params, (inputs, labels), ["gradient_diversity"])
    np.testing.assert_allclose(found["gradient_diversity"], whole["gradient_diversity"], rtol=0.1)


class _InHalfPrecision(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        options = {"dtype": self.dtype, "param_dtype": self.dtype}
        for _ in range(2):
            x = nn.relu(nn.Conv(8, (3, 3), **options)(x))
        return nn.Dense(10, **options)(x.mean((1, 2)))


def test_scores_of_activations_and_gradients_in_half_precision():
    """Nothing is summed, and no eigenvalue taken, in the precision of the network."""
    images, labels = jax.random.normal(jax.random.key(0), (8, 6, 6, 3)), jnp.arange(8)
    variables = _InHalfPrecision(jnp.float32).init(jax.random.key(1), images)
    names = ["expressivity", "progressivity", "trainability", "channel_independence", "naswot"]
    names += ["swap", "grad_norm", "mgm", "layer_balance", "ntk_condition", "snip"]
    found = []
    for dtype in (jnp.bfloat16, jnp.float32):
        drawn = jax.tree.map(lambda tensor, dtype=dtype: tensor.astype(dtype), variables)
        network, params = jaxnas.as_network(_InHalfPrecision(dtype), drawn)
        found.append(jaxnas.score(network, params, (images, labels), names))
    for name in names:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=0.1, err_msg=name)


# Bad input.


def _spoilt(value):
    inputs = np.ones((5, 4), np.float32)
    inputs[3, 2] = value
    return inputs


LABELS = np.array([0, 2, 1, 1, 2])
BAD_BATCHES = {
    "nan images": (_spoilt(np.nan), LABELS, r"must be finite: got nan or inf"),
    "infinite images": (_spoilt(-np.inf), LABELS, r"must be finite: got nan or inf"),
    "no image": (np.ones((0, 4)), LABELS[:0], r"got inputs \(0, 4\)"),
    "one image without a batch": (np.ones(4), LABELS, r"got inputs \(4,\)"),
    "a label too few": (np.ones((5, 4)), LABELS[:4], r"integers \[5\], .* got int\d+\[4\]"),
    "a label": (np.ones((5, 4)), np.array(1), r"integers \[5\], .* got int\d+\[\]"),
    "real labels": (np.ones((5, 4)), LABELS + 0.5, r"got float\d+\[5\]"),
    "truths for labels": (np.ones((5, 4)), LABELS > 1, r"got bool\[5\]"),
    "one-hot labels": (np.ones((5, 4)), np.eye(3, dtype=int)[LABELS], r"got int\d+\[5, 3\]"),
    "negative labels": (np.ones((5, 4)), LABELS - 1, r"count from 0: got -1"),
    "labels beyond the classes": (np.ones((5, 4)), LABELS + 1, r"below the 3 logits: got 3"),
    "labels beyond 32 bits": (np.ones((5, 4)), LABELS + 2**32, r"got 429496729\d"),
}


def _assert_one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert message.count(". ") == 0


@pytest.mark.parametrize("kind", BAD_BATCHES)
def test_bad_batches(linear, kind):
    inputs, labels, got = BAD_BATCHES[kind]
    with pytest.raises(ValueError, match=got) as error:
        jaxnas.score(*linear[:2], Batch(inputs, labels), ["mgm"])
    _assert_one_sentence(error)


def test_a_good_batch_is_taken_as_it_is():
    batch = validate_batch((np.ones((5, 4), np.float32), LABELS.astype(np.uint8)))
    assert batch.inputs.dtype == jnp.float32
    np.testing.assert_array_equal(batch.labels, LABELS)


BAD_NETWORKS = {
    "one logit an example": (lambda params, x: (x @ params["w"])[:, 0], r"\[5, K\] .*: got \[5\]"),
    "logits of pixels": (lambda params, x: (x @ params["w"])[:, None], r"got \[5, 1, 3\]"),
    "the mean of a batch": (
        lambda params, x: (x @ params["w"]).mean(0, keepdims=True),
        r"got \[1, 3\]",
    ),
    "a fixed number of examples": (
        lambda params, x: jnp.resize(x, (5, 4)) @ params["w"],
        r"\[1, K\] for 1 examples: got \[5, 3\]",
    ),
    "nothing": (lambda params, x: None, r"got NoneType"),
}


@pytest.mark.parametrize("kind", BAD_NETWORKS)
def test_bad_networks(linear, kind):
    network, got = BAD_NETWORKS[kind]
    with pytest.raises(ValueError, match=got) as error:
        jaxnas.score(network, *linear[1:], ["mgm"])
    _assert_one_sentence(error)


@pytest.mark.parametrize(
    ("params", "got"),
    [
        ({"w": jnp.ones((4, 3)), "steps": jnp.zeros((), int)}, "float32, int32"),
        ({"params": {"w": jnp.ones((4, 3))}, "batch_stats": {"mean": jnp.zeros(3)}}, "batch_stats"),
    ],
    ids=["a counter", "batch statistics"],
)
def test_what_is_no_parameter(linear, params, got):
    with pytest.raises(ValueError, match=got) as error:
        jaxnas.score(linear[0], params, linear[2], ["mgm"])
    _assert_one_sentence(error)


def test_a_network_without_parameters(linear):
    with pytest.raises(ValueError, match="parameters") as error:
        jaxnas.score(lambda params, x: x[:, :3], {}, linear[2], ["mgm"])
    _assert_one_sentence(error)


BAD_CHOICES = {
    "no proxy": ([], r"at least one proxy, each once: got \[\]"),
    "one twice": (["mgm", "params", "mgm"], r"each once: got \['mgm', 'params', 'mgm'\]"),
    "an unknown one": (
        ["mgm", "naswott"],
        r"Unknown proxy 'naswott': use a jaxnas.Proxy or one of params, .*mgm",
    ),
    "an unknown name": ("naswott", r"Unknown proxy 'naswott'"),
    "a factory that was not called": (
        proxies.knas.mgm,
        r"Unknown proxy <function mgm .* \(did you mean mgm\(\)\?\): use a jaxnas.Proxy",
    ),
    "two of one name": ([DRAW, DRAW._replace(reduce=jnp.negative)], r"got \['draw', 'draw'\]"),
}


@pytest.mark.parametrize("kind", BAD_CHOICES)
def test_bad_choices_of_proxies(linear, kind):
    chosen, got = BAD_CHOICES[kind]
    with pytest.raises(ValueError, match=got) as error:
        jaxnas.score(*linear, chosen)
    _assert_one_sentence(error)


def test_a_model_in_the_place_of_a_network_is_told_how_to_become_one(linear):
    model = nn.Dense(3)
    params = model.init(jax.random.key(0), linear[2][0])
    with pytest.raises(Exception, match="unbound") as error:
        jaxnas.score(model, params, linear[2], "mgm")
    assert "Make a network of a model by jaxnas.as_network" in error.value.__notes__[-1]
    with pytest.raises(ValueError, match=r"pass jaxnas.datasets.load\('npz:mine.npz'\)"):
        jaxnas.score(*linear[:2], "npz:mine.npz", "mgm")


def test_measures_are_shared_by_what_they_are():
    # Seven scores of the Gram matrices are one backward pass.
    assert proxies.BY_NAME["layer_balance"].measure is measures.tensor_grams
    assert proxies.BY_NAME["offdiagonal"].measure is measures.tensor_grams


def test_a_proxy_that_reduces_to_a_list_is_refused(linear):
    proxy = Proxy("three", lambda *network: jnp.ones(3), lambda measured: measured)
    with pytest.raises(ValueError, match=r"^A Proxy must reduce to one number: got \[3\] of three"):
        jaxnas.score(*linear, proxy)


def test_complex_logits_are_refused(linear):
    _, params, batch = linear
    with pytest.raises(ValueError, match=r"^apply_fn must give real logits: got complex64; .*\.$"):
        jaxnas.score(lambda params, x: _linear(params, x) * (1 + 1j), params, batch, "grad_norm")


def test_logits_of_nan_behind_a_relu_are_not_finite(linear):
    _, params, batch = linear

    def network(params, x):
        return jax.nn.relu(_linear(params, x) * jnp.nan)

    assert np.isnan(list(jaxnas.score(network, params, batch, ["grad_norm", "mgm"]).values())).all()
