import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxnas
from jaxnas.network import linen
from jaxnas.spaces import family

IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 2))
BATCH = jaxnas.Batch(IMAGES, jnp.arange(4) % 3)
SCORES = ["layer_balance", "expressivity", "channel_independence", "swap", "mgm", "trainability"]


class CNN(nn.Module):
    depth: int
    width: int
    act: str = "relu"
    classes: int = 3

    @nn.compact
    def __call__(self, x):
        act = getattr(nn, self.act)
        x = act(nn.Conv(self.width, (3, 3))(x))
        for _ in range(self.depth):
            init = nn.initializers.he_normal()  # a function of each layer's own
            conv = nn.Conv(self.width, (3, 3), use_bias=False, kernel_init=init)
            x = x + act(nn.BatchNorm(use_running_average=False)(conv(x)))
        return nn.Dense(self.classes)(nn.Dropout(0.5, deterministic=False)(x.mean((1, 2))))


CHOICES = {"depth": (1, 2, 3), "width": (4, 6), "act": ("relu", "gelu")}


@pytest.fixture(scope="module")
def space():
    return family(CNN, **CHOICES)


class NnxMLP(nnx.Module):
    def __init__(self, width, key):
        rngs = nnx.Rngs(key)
        self.first = nnx.Linear(128, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x.reshape(len(x), -1)))))


def perceptron(width, key):
    first, last = jax.random.normal(key, (128, width)), jnp.ones((width, 3)) / width

    def apply(params, x):
        return jnp.tanh(x.reshape(len(x), -1) @ params["first"]) @ params["last"]

    return apply, {"first": first, "last": last}


def scorer_of(space, by="layer_balance", **options):
    return jaxnas.Scorer(space, BATCH, by=by, progress=False, **options)


def test_architectures_are_written_by_their_choices(space):
    assert space.to_string([2, 0, 1]) == "depth=3,width=4,act=gelu"
    for arch in jaxnas.encoding.enumerate_archs(space.num_choices):
        np.testing.assert_array_equal(space.from_string(space.to_string(arch)), arch)
    with pytest.raises(ValueError, match=r"is written depth=1\|2\|3,.*got 'depth=4"):
        space.from_string("depth=4,width=4,act=relu")


@pytest.mark.parametrize("choices", [{}, {"depth": ()}, {"depth": (1, "1")}, {"depth": 3}])
def test_choices_that_cannot_be_written_are_refused(choices):
    with pytest.raises(ValueError, match="choices"):
        family(CNN, **choices)


def test_equal_modules_are_one_function():
    def build(depth, width, unused):
        return CNN(depth, width if depth > 1 else 4)

    space = family(build, depth=(1, 2), width=(4, 6), unused=("a", "b"))
    archs = jaxnas.encoding.enumerate_archs(space.num_choices)
    stands = {tuple(space.representative(arch).tolist()) for arch in archs}
    assert stands == {(0, 0, 0), (1, 0, 0), (1, 1, 0)}


@pytest.mark.parametrize("arch", [(0, 0, 0), (1, 1, 1)])
def test_run_eagerly_a_network_has_the_scores_of_one_program(space, arch):
    scorer = scorer_of(space, SCORES)
    found = scorer([arch])
    assert {status for of in found.status.values() for status in of.ravel()} == {"ok"}

    # The same module and key, compiled whole; only trainability draws random numbers.
    module = CNN(*(values[at] for values, at in zip(CHOICES.values(), arch, strict=True)))
    key = jax.random.fold_in(jax.random.key(0), 0)
    network, params = jaxnas.as_network(module, linen.initial(module, key, IMAGES))
    whole = jaxnas.score(network, params, BATCH, SCORES)
    for name in ["layer_balance", "channel_independence", "swap", "mgm"]:
        np.testing.assert_allclose(found.scores[name][0, 0], whole[name], rtol=1e-5)
    assert space.num_params is not scorer.space.num_params
    assert scorer.space.num_params(arch) == sum(leaf.size for leaf in jax.tree.leaves(params))


def equinox_mlp(width, key):
    eqx = pytest.importorskip("equinox")
    return eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), eqx.nn.MLP(128, 3, width, 2, key=key)])


def haiku_mlp(width):
    hk = pytest.importorskip("haiku")
    layers = [width, width, 3]
    return hk.transform(lambda x: hk.nets.MLP(layers, activation=jnp.tanh)(x.reshape(len(x), -1)))


@pytest.mark.parametrize("build", [NnxMLP, equinox_mlp, haiku_mlp, perceptron])
def test_any_library_is_run_eagerly(build):
    space, key = family(build, width=(2, 7)), jax.random.key(3)
    eager, tensors = space.bind([1], space.init(key, IMAGES))
    model = (build(7), build(7).init(key, IMAGES)) if build is haiku_mlp else build(7, key)
    whole, of_whole = jaxnas.as_network(*(model if type(model) is tuple else (model,)))
    assert eager.eager
    assert not whole.eager
    names = ["layer_balance", "mgm", "expressivity", "swap"]
    found = jaxnas.score(eager, tensors, BATCH, names)
    expected = jaxnas.score(whole, of_whole, BATCH, names)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    panel = scorer_of(space, "panel")([[0], [1]])
    assert not panel.unscored("panel")
    assert panel.measured["channel_independence"][0, 0] > 0


def test_initial_values_are_those_of_the_module_itself():
    module = CNN(2, 4)
    rngs = {"params": jax.random.key(5), "dropout": jax.random.key(6)}
    found, expected = linen.initial(module, rngs["params"], IMAGES), module.init(rngs, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def logged_compiles():
    jax.config.update("jax_log_compiles", True)  # of all threads
    yield
    jax.config.update("jax_log_compiles", False)


@pytest.mark.usefixtures("logged_compiles")
def test_a_candidate_of_known_layers_compiles_no_layer(caplog):
    space = family(CNN, depth=(1, 2, 3), width=(3, 5), act=("relu", "gelu"))
    scorer = scorer_of(space)

    def compiled(archs):
        caplog.clear()
        scores = scorer(archs)
        assert set(scores.status["layer_balance"][0]) == {"ok"}
        messages = [record.getMessage() for record in caplog.records]
        return [message for message in messages if message.startswith("Compiling jit(apply)")]

    assert len(compiled([[1, 0, 0], [0, 1, 0]])) > 8
    assert not compiled([[2, 0, 1], [2, 1, 0]])


def test_what_cannot_be_scored_is_a_row_with_its_reason():
    def build(depth):
        if depth == 0:
            raise RuntimeError("no depth")
        return CNN(depth, 4, classes=3 if depth == 1 else 2)

    scores = scorer_of(family(build, depth=(0, 1, 2)))([[0], [1], [2]])
    failed, ok, too_few = scores.status["layer_balance"][0]
    assert ok == "ok"
    assert failed == "failed: RuntimeError: no depth"
    assert "Labels must be below the 2 logits" in too_few
    assert np.isnan(scores.to_frame()["#params"].tolist()).tolist() == [True, False, False]


def test_a_family_is_no_one_program(space):
    assert scorer_of(space)._plan == "eager"
    with pytest.raises(ValueError, match=r"different shapes.*use auto or eager"):
        scorer_of(space, plan="compiled")
    with pytest.raises(ValueError, match="networks of one shape"):
        scorer_of(space).traceable()
    with pytest.raises(ValueError, match="got a traced architecture"):
        jax.jit(lambda arch: space.bind(arch, ())[1])(jnp.zeros(3, jnp.int32))


def test_a_search_keeps_to_its_caps(space):
    scorer = scorer_of(space)
    found = jaxnas.find(scorer, "exhaustive", caps={"params": 500})
    assert found.num_refused > 0
    assert (found.costs["params"] <= 500).all()
    with pytest.raises(ValueError, match="got no inputs"):
        space.num_params([0, 0, 0])


def test_a_seed_decides_the_scores_and_a_store_knows_them(space, tmp_path):
    stored = {"seeds": (0, 1), "store": tmp_path / "scores.db"}
    one, again = (scorer_of(space, seeds=(0, 1))([[0, 0, 0]]) for _ in range(2))
    for known in (False, True):
        with scorer_of(space, **stored) as scorer:
            found = scorer([[0, 0, 0]])
        assert np.isnan(found.seconds).all() == known
        np.testing.assert_array_equal(found.scores["layer_balance"], one.scores["layer_balance"])
        assert found.to_frame()["#params"][0] == scorer.space.num_params([0, 0, 0])
    scores = one.scores["layer_balance"]
    np.testing.assert_array_equal(scores, again.scores["layer_balance"])
    assert scores[0, 0] != scores[1, 0]


def test_models_are_ranked_by_name():
    models = {"small": CNN(1, 4), "broken": nn.Dense(3), "large": CNN(2, 6)}
    scores = jaxnas.rank(models, BATCH, progress=False)
    ranked = scores.ranked()
    assert sorted(ranked["arch"][:2]) == ["large", "small"]
    assert ranked["arch"][2] == "broken"
    assert "apply_fn must give logits" in ranked["missing"][2]
    np.testing.assert_array_equal(scores.space.from_string("large"), [2])
    with pytest.raises(ValueError, match="got no models"):
        jaxnas.rank([], BATCH)


def test_ready_models_keep_their_weights():
    module = CNN(1, 4)
    variables = module.init({"params": jax.random.key(7), "dropout": jax.random.key(8)}, IMAGES)
    network, params = jaxnas.as_network(module, variables)
    models = [(module, variables), (network, params), NnxMLP(4, jax.random.key(0)), module]
    found = jaxnas.rank(models, BATCH, by="mgm", progress=False).scores["mgm"][0]
    expected = jaxnas.score(network, params, BATCH, "mgm")["mgm"]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-5)
    assert len(set(found.round(4))) == 3
