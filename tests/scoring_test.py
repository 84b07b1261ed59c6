import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxnas
from jaxnas import Batch, Proxy, SearchSpace, proxies
from jaxnas.proxies import measures
from jaxnas.scoring import validate_batch

# The battery of the proxies has them all.
COUNTED = ("params", "flops")
SOME = [
    *COUNTED,
    *("grad_norm", "snip", "zico", "mgm", "gradient_values", "offdiagonal", "split_half"),
    *("gradient_diversity", "layer_balance", "ntk_trace", "naswot", "jacob_cov"),
]
PLANS = ["eager", "compiled"]
DISCONNECTED = (0, 0, 0, 0, 0, 0)
# Of as many convolutions: what collects their statistics is compiled for a number of tensors.
CELLS = np.array([(2, 3, 1, 4, 0, 3), (3, 2, 4, 1, 0, 2), DISCONNECTED, (1, 2, 3, 4, 2, 1)])
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

    squares = [np.square(own).sum() for own in jax.tree.leaves(gradient(params))]
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
        own = proxy(apply_fn, params, Batch(jnp.asarray(inputs), jnp.asarray(labels)))
        np.testing.assert_allclose(scores[name], own, rtol=1e-5)
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
    half = jax.tree.map(lambda own: own.astype(jnp.bfloat16), params)
    batch = (inputs.astype(jnp.bfloat16), labels)
    own = jaxnas.score(apply_fn, half, batch, ["gradient_diversity"])
    whole = jaxnas.score(apply_fn, params, (inputs, labels), ["gradient_diversity"])
    np.testing.assert_allclose(own["gradient_diversity"], whole["gradient_diversity"], rtol=0.1)


# A space.


def _scores(space, cells, batch, chosen=SOME, **options):
    """What `score_space` yields, by position and seed, without the time."""
    found = {}
    for scored in jaxnas.score_space(space, cells, batch, chosen, **options):
        assert scored.seconds >= 0
        assert set(scored.scores) == set(scored.status)
        found[scored.position, scored.seed] = (scored.scores, scored.status)
    return found


@pytest.fixture
def double():
    """Float64, as in all tests of the space: they share what is compiled."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def scored(small_space, draw_batch):
    """All proxies over `CELLS` with two seeds, by plan."""
    with jax.enable_x64(True):
        return {
            plan: _scores(small_space, CELLS, draw_batch(0), seeds=(0, 7), plan=plan)
            for plan in PLANS
        }


def test_everything_is_yielded_seed_by_seed(scored):
    expected = [(position, seed) for seed in (0, 7) for position in range(4)]
    for plan in PLANS:
        assert list(scored[plan]) == expected
        assert all(set(scores) == set(SOME) for scores, _ in scored[plan].values())


@pytest.mark.parametrize("plan", PLANS)
def test_a_disconnected_cell_is_not_run_but_counted(scored, small_space, plan):
    scores, status = scored[plan][2, 7]
    # Everything but the cells: stem, two reductions, norm and classifier.
    assert scores["params"] == small_space.num_params(DISCONNECTED)
    assert [status[name] for name in COUNTED] == ["ok", "ok"]
    for name in set(SOME) - set(COUNTED):
        assert (scores[name], status[name]) == (-np.inf, "disconnected")


def test_params_are_those_of_the_cell_alone(scored, small_space):
    for plan in PLANS:
        counts = [scored[plan][position, 0][0]["params"] for position in range(4)]
        assert counts == [small_space.num_params(cell) for cell in CELLS]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plan", PLANS)
def test_nothing_but_disconnected_cells(small_space, draw_batch, plan):
    found = _scores(small_space, [DISCONNECTED] * 2, draw_batch(0), ["mgm"], plan=plan)
    assert found == {(i, 0): ({"mgm": -np.inf}, {"mgm": "disconnected"}) for i in range(2)}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plan", PLANS)
def test_going_on_changes_nothing(scored, small_space, draw_batch, plan):
    known = {(1, 0), (2, 0), (0, 7), (3, 7)}
    rest = _scores(
        small_space,
        CELLS,
        draw_batch(0),
        seeds=(0, 7),
        plan=plan,
        skip=lambda position, seed: (position, seed) in known,
    )
    assert rest == {at: own for at, own in scored[plan].items() if at not in known}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plan", PLANS)
def test_nothing_left_to_do(small_space, draw_batch, plan):
    options = {"plan": plan, "skip": lambda position, seed: True}
    assert not _scores(small_space, CELLS, draw_batch(0), **options)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plan", PLANS)
def test_the_order_of_the_cells_does_not_matter(scored, small_space, draw_batch, plan):
    turned = _scores(small_space, CELLS[::-1], draw_batch(0), seeds=(7,), plan=plan)
    assert turned == {(3 - at, 7): scored[plan][at, 7] for at in range(4)}


def test_seeds_are_draws_of_the_weights(scored):
    for plan in PLANS:
        first, second = scored[plan][0, 0][0], scored[plan][0, 7][0]
        differ = [name for name in SOME if first[name] != second[name]]
        assert set(differ) == set(SOME) - set(COUNTED)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_for_each_seed(scored, small_space, draw_batch, plan):
    asked = []

    def draw(seed):
        asked.append(seed)
        return draw_batch(0 if seed == 7 else 5)

    found = _scores(small_space, CELLS[:1], draw, seeds=(7, 0), plan=plan)
    assert asked == [7, 0]
    assert found[0, 7] == scored[plan][0, 7]
    assert found[0, 0] != scored[plan][0, 0]


def _compiled(run):
    """How many programs are compiled while `run` runs."""
    events = []

    def listen(event, duration, **context):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    run()
    count = len(events)
    events.append(None)
    jax.monitoring.unregister_event_duration_listener(listen)
    return count


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("plan", "chosen"),
    [*((plan, ["mgm", "layer_balance"]) for plan in PLANS), ("eager", ["synflow"])],
)
def test_many_cells_compile_no_more_than_few(small_space, draw_batch, plan, chosen):
    batch = draw_batch(0)
    # Every number of convolutions and of edges that meet; without a say; without an input.
    few = [(3,) * count + (4,) * (6 - count) for count in range(7)]
    few += [(2,) * 6, (1,) * 6, (3, 2, 0, 4, 0, 0), (0, 0, 0, 1, 2, 3)]
    many = np.random.default_rng(1).integers(5, size=(40, 6))

    def run(cells):
        return _compiled(lambda: _scores(small_space, cells, batch, chosen, plan=plan))

    run(few)
    assert run(many) == 0
    assert _compiled(lambda: jax.jit(lambda x: x + len(many))(jnp.ones(3))) > 0


# A space of one decision about the network, and one about its scale.


def _toy_network(arch, params, inputs):
    kind = jnp.array([1, 0, jnp.nan, 1e25, 1])[arch[0]]
    hidden = inputs.reshape(inputs.shape[0], -1) @ params["first"]
    return jax.nn.relu(hidden) @ params["second"] * kind * (1 + arch[1])


def _toy_init(key, inputs):
    sizes = {"first": (inputs[0].size, 9), "second": (9, 3)}
    keys = jax.random.split(key)
    return {
        name: jax.random.normal(own, sizes[name]) for name, own in zip(sizes, keys, strict=True)
    }


FINE, IDLE, NAN, HUGE, CUT = range(5)
TOY = SearchSpace(
    name="toy",
    num_choices=(5, 3),
    init=_toy_init,
    bind=lambda arch, params: (functools.partial(_toy_network, arch), params),
    to_string=str,
    from_string=int,
    is_connected=lambda arch: arch[0] != CUT,
    representative=np.asarray,
    num_params=lambda arch: 100 + int(arch[1]),
    options={},
)


@pytest.fixture
def toy_batch(draw_batch):
    return draw_batch(0, (6, 8), 3)


# Differences of larger numbers are exact to the digits of these; that of rounding to no digit.
DIFFERENCE_OF = {
    "offdiagonal": "gradient_values",
    "split_half": "gradient_values",
}


def test_both_plans_agree_in_float32(toy_batch):
    # The battery of the proxies compares them on the real space, in float64.
    cells = [[FINE, 1], [IDLE, 1]]
    eager, traced = (_scores(TOY, cells, toy_batch, plan=plan) for plan in PLANS)
    assert list(eager) == list(traced)
    for at, (scores, status) in eager.items():
        assert traced[at][1] == status
        for name in SOME:
            if status[name] == "ok":
                scale = abs(scores[DIFFERENCE_OF.get(name, name)])
                assert abs(traced[at][0][name] - scores[name]) <= 1e-5 * scale, name


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        (FINE, "mgm", "ok"),
        (FINE, "layer_balance", "ok"),
        (CUT, "mgm", "disconnected"),
        (IDLE, "mgm", "no gradient"),
        (IDLE, "layer_balance", "no gradient"),
        (NAN, "mgm", "not finite"),
        (NAN, "layer_balance", "not finite"),
        (HUGE, "grad_norm", "not finite"),
        (HUGE, "mgm", "not finite"),
    ],
)
def test_what_is_wrong_with_a_network_is_said(toy_batch, plan, kind, name, status):
    ((scores, states),) = _scores(TOY, [[kind, 1]], toy_batch, [name], plan=plan).values()
    assert states == {name: status}
    assert (scores[name] == -np.inf) == (status != "ok")


def test_one_network_that_is_not_finite(toy_batch):
    network, params = TOY.bind(np.array([NAN, 0]), TOY.init(jax.random.key(0), toy_batch.inputs))
    assert np.isnan(jaxnas.score(network, params, toy_batch, ["mgm"])["mgm"])
    idle = TOY.bind(np.array([IDLE, 0]), params)
    assert jaxnas.score(*idle, toy_batch, ["mgm"]) == {"mgm": -np.inf}


def _fragile(error, calls):
    """A measure that fails the second time."""

    def measure(apply_fn, params, batch, key):
        calls.append(None)
        if len(calls) == 2:
            raise error
        return jnp.float32(5)

    return measure


@pytest.mark.parametrize(
    "error",
    [
        FloatingPointError("nan in a sum\nof many lines"),
        MemoryError("no memory"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    ],
)
def test_one_failure_is_one_failure(toy_batch, error):
    chosen = [Proxy("fragile", _fragile(error, []), jnp.asarray), "params"]
    found = _scores(TOY, [[FINE, scale] for scale in range(3)], toy_batch, chosen, plan="eager")
    reason = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    for position in range(3):
        scores, status = found[position, 0]
        state = status["fragile"]
        assert status["params"] == "ok"
        assert scores == {"fragile": 5 if state == "ok" else -np.inf, "params": 100 + position}
    states = sorted(status["fragile"] for _, status in found.values())
    assert states == sorted(["ok", reason, "ok"])


def test_a_trace_that_fails_takes_its_cells_along(toy_batch):
    def measure(apply_fn, params, batch, key):
        raise FloatingPointError("always")

    chosen = [Proxy("broken", measure, jnp.asarray)]
    found = _scores(TOY, [[FINE, 0], [FINE, 1]], toy_batch, chosen, plan="compiled")
    assert [status["broken"] for _, status in found.values()] == [
        "failed: FloatingPointError: always"
    ] * 2


def test_a_mistake_in_a_measure_is_no_failure_of_the_network(toy_batch):
    def measure(apply_fn, params, batch, key):
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        _scores(TOY, [[FINE, 0]], toy_batch, [Proxy("mistaken", measure, jnp.asarray)])


def test_random_scores_draw_by_seed_and_architecture(toy_batch):
    cells = [[FINE, 0], [FINE, 1], [FINE, 0]]
    draws = {
        plan: {
            at: scores["draw"]
            for at, (scores, _) in _scores(
                TOY, cells, toy_batch, [DRAW], seeds=(0, 1), plan=plan
            ).items()
        }
        for plan in PLANS
    }
    np.testing.assert_allclose(list(draws["eager"].values()), list(draws["compiled"].values()))
    eager = draws["eager"]
    assert eager[0, 0] == eager[2, 0]  # the same architecture
    assert len({eager[at] for at in [(0, 0), (1, 0), (0, 1), (1, 1)]}) == 4
    turned = _scores(TOY, cells[::-1][1:], toy_batch, [DRAW], seeds=(1,), plan="eager")
    assert turned[0, 1][0]["draw"] == eager[1, 1]


def test_a_pool_larger_than_a_chunk(toy_batch):
    cells = [[FINE, position % 3] for position in range(35)]
    found = _scores(TOY, cells, toy_batch, ["mgm", DRAW], plan="compiled")
    assert list(found) == [(position, 0) for position in range(35)]
    assert all(found[position, 0] == found[position % 3, 0] for position in range(35))
    assert len({scores["mgm"] for scores, _ in found.values()}) == 3


@pytest.mark.usefixtures("double")
def test_the_automatic_plan_is_one_of_both(scored, small_space, draw_batch):
    own = _scores(small_space, CELLS[:1], draw_batch(0))[0, 0]
    plan = "eager" if jax.default_backend() == "cpu" else "compiled"
    assert own == scored[plan][0, 0]


def test_a_score_for_searches(toy_batch):
    archs = jnp.array([[FINE, 0], [CUT, 0], [FINE, 2], [IDLE, 0]])
    params = TOY.init(jax.random.key(0), toy_batch.inputs)
    own = jaxnas.score_fn(TOY, "gradient_values", params, toy_batch)
    expected = [
        proxies.BY_NAME["gradient_values"](*TOY.bind(archs[position], params), toy_batch)
        for position in (0, 2)
    ]
    for scores in (own(archs), jax.jit(lambda score, archs: score(archs))(own, archs)):
        np.testing.assert_allclose(scores[jnp.array([0, 2])], expected, rtol=1e-5)
        assert scores[1] == scores[3] == -jnp.inf
    drawn = jaxnas.score_fn(TOY, DRAW, params, toy_batch, key=jax.random.key(3))(archs[:1])
    np.testing.assert_allclose(drawn, jax.random.normal(jax.random.key(3))[None])


@pytest.mark.parametrize(
    ("proxy", "got"),
    [("params", r"use space\.num_params"), ("naswott", r"Unknown proxy 'naswott'")],
)
def test_no_such_score_for_searches(toy_batch, proxy, got):
    with pytest.raises(ValueError, match=got) as error:
        jaxnas.score_fn(TOY, proxy, {}, toy_batch)
    _assert_one_sentence(error)


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


def _one(linear, batch, chosen):
    jaxnas.score(*linear[:2], batch, chosen)


def _many(linear, batch, chosen):
    list(jaxnas.score_space(TOY, [[FINE, 0]], Batch(*batch), chosen))


def _assert_one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert message.count(". ") == 0


@pytest.mark.parametrize("kind", BAD_BATCHES)
@pytest.mark.parametrize("where", [_one, _many])
def test_bad_batches(linear, kind, where):
    inputs, labels, got = BAD_BATCHES[kind]
    with pytest.raises(ValueError, match=got) as error:
        where(linear, Batch(inputs, labels), ["mgm"])
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
    "two of one name": ([DRAW, DRAW._replace(reduce=jnp.negative)], r"got \['draw', 'draw'\]"),
}


@pytest.mark.parametrize("kind", BAD_CHOICES)
@pytest.mark.parametrize("where", [_one, _many])
def test_bad_choices_of_proxies(linear, kind, where):
    chosen, got = BAD_CHOICES[kind]
    with pytest.raises(ValueError, match=got) as error:
        where(linear, linear[2], chosen)
    _assert_one_sentence(error)


BAD_POOLS = {
    "no cell": (np.zeros((0, 6), int), {}, r"Nothing to score: got shape \(0, 6\)"),
    "an empty list": ([], {}, r"integers: got dtype float64"),
    "one cell without a pool": (np.zeros(6, int), {}, r"Nothing to score: got shape \(6,\)"),
    "too few decisions": ([[1, 2, 3]], {}, r"6 decisions: got shape \(1, 3\)"),
    "an unknown operation": ([[1, 2, 3, 4, 5, 0]], {}, r"Decision 4 .* \[0, 5\): got 5"),
    "a negative operation": ([[1, 2, 3, 4, 0, -1]], {}, r"Decision 5 .* got -1"),
    "real decisions": ([[1.0] * 6], {}, r"integers: got dtype float64"),
    "strings": ([["none"] * 6], {}, r"integers: got dtype <U4"),
    "no seed": (CELLS, {"seeds": ()}, r"one or more: got \[\]"),
    "a seed beyond 32 bits": (CELLS, {"seeds": [2**32]}, r"0 to 2\*\*32 - 1: got \[4294967296\]"),
    "a negative seed": (CELLS, {"seeds": [-1]}, r"0 to 2\*\*32 - 1: got \[-1\]"),
    "half a seed": (CELLS, {"seeds": 0.5}, r"got \[0.5\]"),
    "an unknown plan": (CELLS, {"plan": "jit"}, r"Unknown plan 'jit': use auto, eager or compiled"),
}


@pytest.mark.parametrize("kind", BAD_POOLS)
def test_bad_pools_are_refused_at_once(small_space, draw_batch, kind):
    cells, options, got = BAD_POOLS[kind]
    with pytest.raises(ValueError, match=got) as error:
        jaxnas.score_space(small_space, cells, draw_batch(0), ["mgm"], **options)
    _assert_one_sentence(error)


@pytest.mark.parametrize("shape", [(2, 9, 8, 3), (2, 8, 8), (2, 192)])
def test_images_that_the_space_cannot_read(small_space, shape):
    batch = Batch(np.ones(shape, np.float32), np.array([0, 1]))
    with pytest.raises(ValueError, match=rf"got shape \({shape[0]}, {shape[1]}") as error:
        list(jaxnas.score_space(small_space, CELLS, batch, ["mgm"]))
    _assert_one_sentence(error)


@pytest.mark.usefixtures("double")
def test_images_that_are_not_normalised_yet(small_space):
    batch = Batch(np.ones((6, 8, 8, 3), np.uint8), np.arange(6))
    with pytest.raises(ValueError, match="uint8") as error:
        list(jaxnas.score_space(small_space, CELLS, batch, ["mgm"]))
    _assert_one_sentence(error)


def test_a_bad_draw_of_images_is_refused_when_it_comes(draw_batch):
    def draw(seed):
        good = draw_batch(0, (6, 8), 3)
        return good if seed == 0 else good._replace(labels=good.labels + 3)

    found = jaxnas.score_space(TOY, [[FINE, 0]], draw, ["mgm"], seeds=(0, 1))
    assert next(found).status == {"mgm": "ok"}
    with pytest.raises(ValueError, match="below the 3 logits"):
        next(found)


def test_measures_are_shared_by_what_they_are():
    # Seven scores of the Gram matrices are one backward pass.
    assert proxies.BY_NAME["layer_balance"].measure is measures.tensor_grams
    assert proxies.BY_NAME["offdiagonal"].measure is measures.tensor_grams
