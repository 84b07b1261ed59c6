"""The encoder against the reference implementation, and its wirings against plain loops."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, Scorer, gradients, pretrained
from jaxnas.kernels import empirical
from jaxnas.network.operations import Context, Weights
from jaxnas.spaces.encoder_space import EncoderNetwork, Options, encoder, layers
from jaxnas.types import Statistic

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIG = pretrained.EncoderConfig(
    *("bert", 24, 8, 3, 2, 12), positions=12, segments=2, initializer_range=0.3
)
# The decisions of three layers: 1>3, -1, -2, -3, and an activation.
PRETRAINED = np.zeros(5, np.int32)
SKIP = np.array([1, 0, 0, 0, 0], np.int32)


@pytest.fixture(scope="module")
def batch():
    """Four examples of 9, 5, 2 and 1 tokens, padded to 9."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 24, (4, 2, 9)).astype(np.int32)
    for row, length in zip(tokens, (9, 5, 2, 1), strict=True):
        row[1] = np.where(np.arange(9) < length, np.arange(9) > length // 2, -1)
    return Batch(jnp.asarray(tokens), jnp.array([0, 1, 2, 0]))


@pytest.fixture(scope="module")
def params():
    return network().draw(jax.random.key(0), {})


def network(**options):
    return EncoderNetwork(config=CONFIG, options=Options(classes=3, **options))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_hidden_states_are_those_of_transformers(family):
    pytest.importorskip("safetensors", reason="the extra `text` is not installed")
    source = pretrained.load(GOLDEN / f"tiny_{family}")
    with np.load(GOLDEN / f"tiny_{family}" / "states.npz") as golden:
        tokens, expected = golden["tokens"], golden["states"]
        pooled = golden["pooled"] if family == "bert" else None
    found = EncoderNetwork(config=source.config)
    weights = found.draw(jax.random.key(0), source.weights)
    states = np.stack(found.hidden_states(PRETRAINED, weights, jnp.asarray(tokens)))
    present = np.broadcast_to(tokens[None, :, 1] >= 0, states.shape[:-1])
    np.testing.assert_allclose(states[present], expected[present], atol=2e-6)
    if pooled is not None:
        features = found.bound(PRETRAINED)(weights, jnp.asarray(tokens)).features
        np.testing.assert_allclose(features, pooled, atol=2e-6)


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)


def _dense(weights, x):
    return x @ weights["kernel"] + weights["bias"]


def _norm(weights, x):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + CONFIG.epsilon)
    return x * weights["scale"] + weights["bias"]


def _plain_layer(weights, x, present, activate):
    """A layer as the papers have it; tokens `[B, T, C]`."""
    attention, forward = weights["attention"], weights["forward"]
    parts = [
        _dense(attention[name], x).reshape(*x.shape[:2], CONFIG.heads, -1)
        for name in ("query", "key", "value")
    ]
    query, key, value = parts
    logits = jnp.einsum("bthc,bshc->bhts", query, key) / query.shape[-1] ** 0.5
    shares = jax.nn.softmax(jnp.where(present[:, None, None], logits, -jnp.inf))
    mixed = jnp.einsum("bhts,bshc->bthc", shares, value).reshape(x.shape)
    x = _norm(attention["norm"], x + _dense(attention["mix"], mixed))
    wide = activate(_dense(forward["widen"], x))
    return _norm(forward["norm"], x + _dense(forward["narrow"], wide))


def _plain_logits(params, tokens, arch, join):
    """The logits of a wiring of three layers with mean pooling, layer by layer."""
    tables, present = params["embeddings"], tokens[:, 1] >= 0
    segments = tables["segments"][jnp.maximum(tokens[:, 1], 0)]
    x = tables["words"][tokens[:, 0]] + segments + tables["places"][: tokens.shape[-1]]
    states = [_norm(tables["norm"], x)]
    activate = [_gelu, jax.nn.relu, jax.nn.silu][arch[4]]
    for layer in range(3):
        x = states[-1]
        if layer == 2 and arch[0]:
            gated = "join_02" in params["layers"]
            weight = params["layers"]["join_02"]["gate"][0] / 0.5 if gated else 1
            x = JOINED[join](x, weight * states[1])
        if not arch[1 + layer]:
            x = _plain_layer(params["layers"][f"layer_{layer:02}"], x, present, activate)
        states.append(x)
    pooled = (states[-1] * present[..., None]).sum(1) / present.sum(1)[:, None]
    return _dense(params["head"]["classifier"], jnp.tanh(_dense(params["head"]["pooler"], pooled)))


JOINED = {
    "sum": lambda usual, earlier: usual + earlier,
    "mean": lambda usual, earlier: (usual + earlier) / 2,
    "norm": lambda usual, earlier: (
        usual.mean(-1, keepdims=True)
        + usual.std(-1, keepdims=True)
        * (usual + earlier - (usual + earlier).mean(-1, keepdims=True))
        / (usual + earlier).std(-1, keepdims=True)
    ),
    "gate": lambda usual, earlier: usual + 0.5 * earlier,
}


@pytest.fixture(scope="module")
def plain(params, batch):
    """The hidden states of the pre-trained network."""
    return network().hidden_states(PRETRAINED, params, batch.inputs)


@pytest.mark.parametrize("join", layers.JOINS)
def test_a_skip_enters_its_layer_and_nothing_else(join, params, batch, plain):
    encoder = network(join=join, gate=0.5)
    if join == "gate":
        gated = {**params["layers"], "join_02": {"gate": jnp.full(1, 0.5)}}
        params = {**params, "layers": gated}
    zeros = encoder.hidden_states(PRETRAINED, params, batch.inputs)
    states = encoder.hidden_states(SKIP, params, batch.inputs)
    np.testing.assert_array_equal(zeros, plain)
    np.testing.assert_array_equal(states[:3], plain[:3])
    joined = JOINED[join](plain[2], plain[1])
    weights, present = params["layers"]["layer_02"], batch.inputs[:, 1] >= 0
    with jax.numpy_rank_promotion("allow"):
        expected = _plain_layer(weights, joined, present, _gelu)
    np.testing.assert_allclose(states[3], expected, atol=2e-5)
    assert np.abs(states[3] - plain[3]).max() > 0.01


def test_a_gate_of_zero_changes_nothing(params, batch, plain):
    encoder = network(join="gate")
    drawn = encoder.draw(jax.random.key(0), {})
    np.testing.assert_array_equal(drawn["layers"]["join_02"]["gate"], [0.0])
    gated = {**params["layers"], "join_02": {"gate": jnp.zeros(1)}}
    states = encoder.hidden_states(SKIP, {**params, "layers": gated}, batch.inputs)
    np.testing.assert_array_equal(states, plain)


def test_a_dropped_layer_passes_its_input_on(params, batch):
    states = network().hidden_states(np.array([0, 0, 1, 0, 0]), params, batch.inputs)
    np.testing.assert_array_equal(states[1], states[2])
    states = network().hidden_states(np.array([0, 1, 1, 1, 0]), params, batch.inputs)
    np.testing.assert_array_equal(states[0], states[3])


def test_an_activation_is_that_of_a_network_that_has_it(params, batch):
    choices = ("tanh", "gelu_new")
    encoder = network(activations=choices)
    for number, name in enumerate(choices, start=1):
        config = CONFIG._replace(activation=name)
        other = EncoderNetwork(config=config, options=Options(3, activations=()))
        expected = other.bound(PRETRAINED)(params, batch.inputs).logits
        logits = encoder.bound(np.array([0, 0, 0, 0, number]))(params, batch.inputs).logits
        np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_mean_pooling_ignores_padding(params, batch):
    encoder = network(pooling="mean")
    last = encoder.hidden_states(PRETRAINED, params, batch.inputs)[-1]
    pooler = params["head"]["pooler"]
    expected = jnp.tanh(last[1, :5].mean(0) @ pooler["kernel"] + pooler["bias"])
    features = encoder.bound(PRETRAINED)(params, batch.inputs).features
    np.testing.assert_allclose(features[1], expected, atol=1e-6)


@pytest.mark.parametrize("pooling", layers.POOLINGS)
def test_padding_never_changes_a_result(pooling, params, batch):
    bound = network(pooling=pooling).bound(SKIP)
    together = bound(params, batch.inputs).logits
    alone = bound(params, batch.inputs[1:2, :, :5]).logits
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    # What stands under the padding does not matter either.
    np.testing.assert_array_equal(together, bound(params, _other_padding(batch)).logits)


def _other_padding(batch):
    numbers = jnp.where(batch.inputs[:, 1] >= 0, batch.inputs[:, 0], 7)
    return batch.inputs.at[:, 0].set(numbers)


def test_dropout_needs_a_key(params, batch):
    encoder = network(dropout=0.5)
    embeddings, above = params["embeddings"], {name: params[name] for name in ("layers", "head")}
    traces = []

    @jax.jit
    def logits(arch, key):
        traces.append(arch)
        return encoder.above_embeddings((arch, embeddings), above, batch.inputs, key).logits

    plain = encoder.bound(PRETRAINED)(params, batch.inputs).logits
    np.testing.assert_allclose(logits(PRETRAINED, None), plain, atol=1e-6)
    first, second, again = (logits(PRETRAINED, jax.random.key(seed)) for seed in (0, 1, 0))
    assert (first != plain).any()
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)
    assert (logits(SKIP, jax.random.key(0)) != first).any()
    assert len(traces) == 2  # with a key and without: one program for all wirings


def test_dropout_keeps_the_mean():
    weights = Weights(Context(), {}, key=jax.random.key(0))
    dropped = weights.dropout(jnp.ones(10_000), 0.25)
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert abs(dropped.mean() - 1) < 0.02


@pytest.fixture(scope="module")
def space():
    return encoder(CONFIG, Options(3, join="gate", gate=0.5, activations=("relu", "tanh")))


def test_one_program_runs_all_wirings_concrete_or_traced(space, batch):
    params = space.init(jax.random.key(0), batch.inputs)
    traces = []

    @jax.jit
    def traced(arch, params, inputs):
        traces.append(arch)
        bound, read = space.bind(arch, params)
        return bound(read, inputs).logits

    for notation in ("pretrained", "1>3 tanh", "-2", "1>3 -1 -3 relu"):
        arch = space.from_string(notation)
        assert space.to_string(arch) == notation
        bound, read = space.bind(arch, params)
        expected = bound(read, batch.inputs).logits
        np.testing.assert_allclose(traced(arch, params, batch.inputs), expected, atol=1e-6)
    assert len(traces) == 1


def test_gradients_of_examples_are_those_of_each_alone(space, batch):
    params = space.init(jax.random.key(0), batch.inputs)
    bound, found = space.bind(space.from_string("1>3 -2 tanh"), params)
    of = gradients.loss_cotangent
    read = gradients.read(bound, found, batch, {of: (empirical.GRAM, gradients.GRADIENT)})
    grams, sums = read[of]
    each = gradients.per_example_gradients(lambda p, x: bound(p, x), found, batch)
    assert jax.tree.structure(found) == jax.tree.structure(sums)
    jax.tree.map(
        lambda total, rows: np.testing.assert_allclose(total, rows.sum(0), atol=1e-5),
        *(sums, each),
    )
    diagonal = [np.diagonal(leaf[0]) for leaf in jax.tree.leaves(grams, is_leaf=_is_grams)]
    squares = [np.square(rows).reshape(4, -1).sum(1) for rows in jax.tree.leaves(each)]
    np.testing.assert_allclose(diagonal, squares, rtol=1e-3, atol=1e-6)
    assert all((rows == 0).all() for rows in jax.tree.leaves(each["layers"]["layer_01"]))
    assert (each["layers"]["join_02"]["gate"] != 0).all()


def test_it_is_a_flax_module_that_takes_the_wiring(batch):
    module = network()
    variables = module.init(jax.random.key(0), batch.inputs, SKIP)
    expected = module.bound(SKIP)(variables["params"], batch.inputs).logits
    np.testing.assert_array_equal(module.apply(variables, batch.inputs, SKIP).logits, expected)


EACH = Statistic(lambda tensor, gradient: gradient)


@pytest.mark.parametrize(
    ("join", "notation"),
    [
        *((join, "1>3 -2 relu") for join in layers.JOINS),
        ("sum", "1>3"),
        ("norm", "pretrained"),
        ("gate", "-1 -3 silu"),
    ],
)
def test_both_plans_are_the_plain_encoder_and_its_gradients(join, notation, batch):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        networks = encoder(CONFIG, Options(3, "mean", join, gate=0.5))
        arch = networks.from_string(notation)
        params = networks.init(jax.random.key(0), batch.inputs)
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), params)
        frozen, above = {"embeddings": params.pop("embeddings")}, params

        def loss(above, tokens, label):
            logits = _plain_logits(frozen | above, tokens[None], arch, join)
            return -jax.nn.log_softmax(logits[0])[label]

        examples = zip(batch.inputs, batch.labels, strict=True)
        each = [jax.grad(loss)(above, *example) for example in examples]
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

        def found(arch):
            bound, read = networks.bind(arch, frozen | above)
            wanted = {gradients.loss_cotangent: (EACH,)}
            return bound(read, batch.inputs).logits, gradients.read(bound, read, batch, wanted)

        logits = _plain_logits(frozen | above, batch.inputs, arch, join)
        for plan in (found, jax.jit(found)):
            outputs, of_tensors = plan(arch)
            (of_tensors,) = of_tensors[gradients.loss_cotangent]
            # JAX has the softmax of an attention in float32.
            close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
            jax.tree.map(close, (outputs, of_tensors), (logits, expected))


def test_scores_of_activations_in_both_plans(space, batch):
    archs = np.stack([space.from_string(each) for each in ("pretrained", "1>3 tanh", "-2 relu")])
    names = ["naswot", "expressivity", "channel_independence", "synflow", "flops"]
    eager, compiled = (
        Scorer(space, batch, names, plan=plan)(archs) for plan in ("eager", "compiled")
    )
    for name in names:
        assert np.isfinite(eager.mean(name)).all(), name
        np.testing.assert_allclose(
            eager.mean(name), compiled.mean(name), rtol=1e-3, atol=1e-5, err_msg=name
        )


def _is_grams(leaf):
    return not isinstance(leaf, dict)


def test_scores(space, batch):
    notations = ["pretrained", "1>3", "-2", "1>3 relu"]
    archs = np.stack([space.from_string(notation) for notation in notations])
    proxies = ["mgm", "params"]
    eager = Scorer(space, batch, proxies)(archs)
    assert len(set(eager.mean("mgm"))) == 4
    params = space.init(jax.random.key(0), batch.inputs)
    everything = sum(leaf.size for leaf in jax.tree.leaves(params))
    layer = sum(leaf.size for leaf in jax.tree.leaves(params["layers"]["layer_01"]))
    # The only gate is there where 1>3 is.
    assert eager.mean("params").tolist() == [
        *(everything - 1, everything, everything - 1 - layer, everything)
    ]
    # What stands under the padding does not matter.
    hidden = batch._replace(inputs=_other_padding(batch))
    same = Scorer(space, hidden, proxies)(archs[1:2])
    assert same.mean("mgm") == eager.mean("mgm")[1]


@pytest.mark.slow
def test_scores_are_the_same_compiled_or_padded(space, batch):
    archs = np.stack([space.from_string(each) for each in ("pretrained", "1>3", "-2", "1>3 relu")])
    proxies = ["mgm", "gradient_values", "ntk_trace"]
    eager, compiled = (
        Scorer(space, batch, proxies, plan=plan)(archs) for plan in ("eager", "compiled")
    )
    wider = jnp.pad(batch.inputs, ((0, 0), (0, 0), (0, 3)), constant_values=-1)
    padded = Scorer(space, batch._replace(inputs=wider.at[:, 0, 9:].set(3)), proxies)(archs)
    for name in proxies:
        np.testing.assert_allclose(eager.mean(name), compiled.mean(name), rtol=1e-4)
        np.testing.assert_allclose(eager.mean(name), padded.mean(name), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(join="product"), "join must be one of sum, mean, norm, gate: got 'product'"),
        (Options(pooling="max"), "pooling must be one of cls, mean: got 'max'"),
        (Options(activations=("gelu",)), "Activations are different ones"),
        (Options(activations=("swish",)), "Activations are different ones"),
        (Options(classes=1), "classes must be an integer from 2"),
        (Options(dropout=1.0), "a dropout from 0 to below 1"),
        (Options(gate=float("nan")), "gate must be a number: got nan"),
    ],
)
def test_refuses_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        encoder(CONFIG, options)


@pytest.mark.parametrize(
    "inputs",
    [jnp.zeros((2, 9), jnp.int32), jnp.zeros((2, 3, 9), jnp.int32), jnp.zeros((2, 2, 9))],
)
def test_refuses_what_are_no_tokens(space, inputs):
    with pytest.raises(ValueError, match=r"reads tokens int32\[B, 2, T\]"):
        space.init(jax.random.key(0), inputs)


def test_options_tell_spaces_apart(space):
    bias = {"head/pooler/bias": np.ones(8, np.float32)}
    spaces = [encoder(pretrained.Pretrained(CONFIG, each)) for each in ({}, bias, bias)]
    spaces.append(encoder(pretrained.Pretrained(CONFIG, {"head/pooler/bias": np.zeros(8)})))
    told = [each.options for each in spaces]
    assert told[1] == told[2]
    assert len({each["weights"] for each in told}) == 3
    assert space.options != told[0]  # it has gates
    assert told[0]["weights"] == "none"


def test_refuses_too_many_tokens_and_other_wirings(space, batch):
    with pytest.raises(ValueError, match="reads 1 to 12 tokens an example: got 13"):
        space.init(jax.random.key(0), jnp.zeros((1, 2, 13), jnp.int32))
    with pytest.raises(ValueError, match=r"has 5 decisions"):
        space.bind(np.zeros(4, np.int32), {})
    with pytest.raises(ValueError, match=r"is int32\[5\]: got int32\[2, 5\]"):
        jax.eval_shape(lambda arch: space.bind(arch, {})[0], jnp.zeros((2, 5), jnp.int32))
    with pytest.raises(ValueError, match="Weights must fit the network: got head"):
        network().draw(jax.random.key(0), {"head/pooler/bias": np.zeros(3, np.float32)})
