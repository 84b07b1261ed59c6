"""The one path from architectures to scores: each function once, stored, resumed, in both plans."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxnas import Batch, Proxy, Scorer, SearchSpace, proxies, rank, score, tasks
from jaxnas.datasets import create
from jaxnas.runs import ScoreStore, run_context

# The battery of the proxies has them all.
COUNTED = ("params", "flops")
SOME = [
    *COUNTED,
    *("grad_norm", "snip", "zico", "mgm", "gradient_values", "offdiagonal", "split_half"),
    *("gradient_diversity", "layer_balance", "ntk_trace", "naswot", "jacob_cov"),
]
# One of the whole batch, two of each example and one of activations: what all tests below share.
FEW = [*COUNTED, "grad_norm", "mgm", "layer_balance", "naswot"]
PLANS = ["eager", "compiled"]
DISCONNECTED = (0, 0, 0, 0, 0, 0)
# Of as many convolutions: what collects their statistics is compiled for a number of tensors.
CELLS = np.array([(2, 3, 1, 4, 0, 3), (3, 2, 4, 1, 0, 2), DISCONNECTED, (1, 2, 3, 4, 2, 1)])
DRAW = Proxy("draw", lambda apply_fn, params, batch, key: jax.random.normal(key), jnp.asarray)


# A space.


def _by_place(scored):
    """Return scores and status by name, by position and seed."""
    assert list(scored.scores) == list(scored.status)
    return {
        (position, seed): tuple(
            {name: table[row, position] for name, table in of.items()}
            for of in (scored.scores, scored.status)
        )
        for row, seed in enumerate(scored.seeds)
        for position in range(len(scored.archs))
    }


def _scores(space, cells, batch, chosen=FEW, **options):
    return _by_place(Scorer(space, batch, chosen, **options)(cells))


@pytest.fixture
def double():
    """Float64, as in all tests of the space: they share what is compiled."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def scored(small_space, draw_batch):
    """The few over `CELLS` with two seeds, by plan."""
    with jax.enable_x64(True):
        return {
            plan: _scores(small_space, CELLS, draw_batch(0), seeds=(0, 7), plan=plan)
            for plan in PLANS
        }


def test_everything_is_yielded_seed_by_seed(scored):
    expected = [(position, seed) for seed in (0, 7) for position in range(4)]
    for plan in PLANS:
        assert list(scored[plan]) == expected
        assert all(set(scores) == set(FEW) for scores, _ in scored[plan].values())


@pytest.mark.parametrize("plan", PLANS)
def test_a_disconnected_cell_is_not_run_but_counted(scored, small_space, plan):
    scores, status = scored[plan][2, 7]
    # Everything but the cells: stem, two reductions, norm and classifier.
    assert scores["params"] == small_space.num_params(DISCONNECTED)
    assert [status[name] for name in COUNTED] == ["ok", "ok"]
    for name in set(FEW) - set(COUNTED):
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
    scorer = Scorer(small_space, draw_batch(0), FEW, seeds=(0, 7), plan=plan)
    first = scorer(CELLS[1:3])
    assert np.isfinite(first.seconds).all()
    found = scorer(CELLS)
    np.testing.assert_array_equal(np.isnan(found.seconds), [[False, True, True, False]] * 2)
    assert found.cpu_seconds == pytest.approx(first.cpu_seconds + np.nansum(found.seconds))
    assert _by_place(found) == scored[plan]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plan", PLANS)
def test_the_order_of_the_cells_does_not_matter(scored, small_space, draw_batch, plan):
    turned = _scores(small_space, CELLS[::-1], draw_batch(0), seeds=(7,), plan=plan)
    assert turned == {(3 - at, 7): scored[plan][at, 7] for at in range(4)}


def test_seeds_are_draws_of_the_weights(scored):
    for plan in PLANS:
        first, second = scored[plan][0, 0][0], scored[plan][0, 7][0]
        differ = [name for name in FEW if first[name] != second[name]]
        assert set(differ) == set(FEW) - set(COUNTED)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_for_each_seed(scored, small_space, draw_batch, plan):
    asked = []

    def draw(seed):
        asked.append(seed)
        return draw_batch(0 if seed == 7 else 5)

    found = _scores(small_space, CELLS[:1], draw, seeds=(7, 0), plan=plan, context={})
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
        name: jax.random.normal(each, sizes[name]) for name, each in zip(sizes, keys, strict=True)
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
    eager, traced = (_scores(TOY, cells, toy_batch, SOME, plan=plan) for plan in PLANS)
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
        (IDLE, "mgm", "nothing to score"),
        (IDLE, "layer_balance", "nothing to score"),
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
    assert np.isnan(score(network, params, toy_batch, ["mgm"])["mgm"])
    idle = TOY.bind(np.array([IDLE, 0]), params)
    assert score(*idle, toy_batch, ["mgm"]) == {"mgm": -np.inf}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("grad_norm", "not finite"),
        ("mgm", "not finite"),
        ("naswot", "not finite"),
        ("synflow", "not finite"),
        ("zen", "ok"),  # it draws the weights anew
    ],
)
def test_weights_of_nan_behind_a_relu(toy_batch, plan, name, status):
    """A last ReLU has no gradient at nan, so that there seems to be nothing to score."""

    def network(arch, params, inputs):
        return jax.nn.relu(_toy_network(arch, params, inputs))

    space = TOY._replace(
        init=lambda key, inputs: jax.tree.map(lambda own: jnp.nan * own, _toy_init(key, inputs)),
        bind=lambda arch, params: (functools.partial(network, arch), params),
    )
    (found,) = _scores(space, [[FINE, 0]], toy_batch, [name], plan=plan).values()
    assert found[1] == {name: status}


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


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("where", ["measure", "reduce"])
def test_what_one_score_raises_is_its_failure_alone(toy_batch, plan, where):
    def fail(*args):
        raise KeyError("a mistake")

    mistaken = Proxy("mistaken", lambda *_: jnp.zeros(()), jnp.asarray)._replace(**{where: fail})
    (found,) = _scores(TOY, [[FINE, 0]], toy_batch, ["mgm", mistaken, "params"], plan=plan).values()
    (alone,) = _scores(TOY, [[FINE, 0]], toy_batch, ["mgm", "params"], plan=plan).values()
    scores, status = found
    assert status == alone[1] | {"mistaken": "failed: KeyError: 'a mistake'"}
    assert scores == alone[0] | {"mistaken": -np.inf}


def test_a_network_that_cannot_be_made_is_a_row_with_its_reason(toy_batch):
    def bind(arch, params):
        if arch[1] == 2:
            raise ValueError("no such network")
        return TOY.bind(arch, params)

    found = _scores(
        TOY._replace(bind=bind), [[FINE, 0], [FINE, 2]], toy_batch, ["mgm"], plan="eager"
    )
    assert found[0, 0][1] == {"mgm": "ok"}
    assert found[1, 0][1] == {"mgm": "failed: ValueError: no such network"}


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
    found = _scores(small_space, CELLS[:1], draw_batch(0))[0, 0]
    plan = "eager" if jax.default_backend() == "cpu" else "compiled"
    assert found == scored[plan][0, 0]


@pytest.mark.parametrize("name", ["threefry_partitionable", "enable_x64"])
def test_settings_of_the_thread_reach_its_helpers(toy_batch, name):
    chosen = Proxy("draw", lambda *args: jax.random.normal(args[-1], (3,)).sum(), jnp.asarray)
    found = []
    for value in (True, False):
        with getattr(jax, name)(value):
            found.append(_scores(TOY, [[FINE, 0]], toy_batch, [chosen], plan="eager")[0, 0][0])
    assert found[0] != found[1]


def test_a_score_for_a_search_in_one_program(toy_batch):
    archs = jnp.array([[FINE, 0], [CUT, 0], [FINE, 2], [IDLE, 0]])
    scorer = Scorer(TOY, toy_batch, "gradient_values", seeds=(3,), plan="compiled")
    expected = scorer(archs).mean("gradient_values")
    score_fn = scorer.traceable()
    for scores in (score_fn(archs), jax.jit(lambda score, archs: score(archs))(score_fn, archs)):
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    drawn = Scorer(TOY, toy_batch, DRAW, seeds=(3,)).traceable()(archs[:1])
    np.testing.assert_allclose(drawn, jax.random.normal(jax.random.key(3))[None])


def test_counts_of_the_disconnected_in_one_program(small_space, draw_batch):
    scorer = Scorer(small_space, draw_batch(0), "flops", plan="compiled")
    expected = scorer(CELLS).mean("flops")
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(scorer.traceable()(CELLS), expected)


def _squares(outputs, labels, factor=1.0):
    return factor * jnp.square(outputs[:, 0] - labels)


def test_a_store_knows_the_loss(toy_batch, tmp_path):
    inputs, labels = toy_batch.inputs, jnp.linspace(0, 1, len(toy_batch.labels))
    path = tmp_path / "scores.sqlite"

    def found(batch, loss=None):
        with Scorer(TOY, batch, "grad_norm", loss=loss, store=path) as scorer:
            return scorer([[FINE, 0]]).mean("grad_norm")[0]

    losses = [
        *(_squares, functools.partial(_squares, factor=3.0)),
        functools.partial(_squares, factor=2.0),
    ]
    told = [found((inputs, labels), loss) for loss in losses]
    np.testing.assert_allclose(told, told[0] * np.array([1, 3, 2]), rtol=1e-5)
    assert [found(Batch(inputs, tasks.Targets(labels, loss))) for loss in losses] == told
    with pytest.raises(ValueError, match=r"A store knows a loss by its name: got .*<lambda>"):
        found((inputs, labels), lambda outputs, labels: outputs[:, 0])


def test_the_clock_runs_alone(toy_batch, monkeypatch):
    events = []
    ticking = itertools.count()

    def clock():
        events.append("clock")
        return float(next(ticking))

    def other(apply_fn, params, batch, key):
        events.append("other")
        return jnp.ones(())

    monkeypatch.setattr(proxies.cost, "time", types.SimpleNamespace(perf_counter=clock))
    by = [Proxy("other", other, jnp.asarray), proxies.cost.latency_ms()]
    scores = Scorer(TOY, toy_batch, by, plan="eager", progress=False)([[FINE, 0], [FINE, 2]])
    assert events.index("other") > len(events) - 1 - events[::-1].index("clock")
    assert (scores.mean("latency_ms") > 0).all()
    assert (scores.mean("other") == 1).all()


def test_positions_are_no_mask(toy_batch):
    scores = Scorer(TOY, toy_batch, "params", progress=False)([[FINE, 0], [FINE, 2]])
    assert scores.take([1]).archs.tolist() == [[FINE, 2]]
    assert not len(scores.take([]).archs)
    with pytest.raises(ValueError, match=r"Positions are integers \[M\]: got bool\[2\]"):
        scores.take([False, True])


def test_a_list_of_models_is_in_no_store(tmp_path):
    with pytest.raises(ValueError, match="A store would know models by their names alone"):
        rank([lambda x: x], (jnp.ones((2, 3)), jnp.arange(2)), store=tmp_path / "scores.sqlite")


@pytest.mark.parametrize(
    ("chosen", "got"),
    [("params", r"use space\.num_params"), ("pair", r"measured of one network: got pair")],
)
def test_no_such_score_for_a_search_in_one_program(toy_batch, chosen, got):
    with pytest.raises(ValueError, match=got) as error:
        Scorer(TOY, toy_batch, chosen).traceable()
    _assert_one_sentence(error)


# The store.


@pytest.fixture
def pool(tmp_path, small_space, draw_batch):
    """`pool(proxies, cells, seeds, context)`: the scores, from one store."""

    def run(chosen, cells=CELLS[:3], seeds=(0, 1), plan="eager", **context):
        scorer = Scorer(
            *(small_space, lambda seed: Batch(*draw_batch(seed)), chosen),
            store=tmp_path / "scores.sqlite",
            context=context,
            seeds=seeds,
            plan=plan,
        )
        with scorer:
            return scorer(cells)

    run.path = tmp_path / "scores.sqlite"
    return run


def _counting(name, calls, value=1.0):
    def measure(apply_fn, params, batch, key):
        calls.append(name)
        if isinstance(value, Exception):
            raise value
        return np.float32(value) + np.asarray(batch.inputs).ravel()[0]

    return Proxy(name, measure, jnp.asarray)


def test_scores_by_seed_and_cell(pool):
    scored = pool(["layer_balance", "params"])
    assert scored.scores["layer_balance"].shape == (2, 3)
    assert scored.status["layer_balance"].tolist() == [["ok", "ok", "disconnected"]] * 2
    assert scored.unscored("layer_balance") == {"disconnected": 2}
    assert scored.unscored("params") == {}
    first, second = scored.scores["layer_balance"]
    np.testing.assert_allclose(scored.mean("layer_balance")[0], (first[0] + second[0]) / 2)
    np.testing.assert_allclose(
        scored.sd("layer_balance")[0], abs(first[0] - second[0]) / 2**0.5, rtol=1e-12
    )
    assert scored.mean("layer_balance")[2] == -np.inf
    assert np.isnan(scored.sd("layer_balance")[2])
    assert scored.cpu_seconds > 0


def test_aggregates_and_tables(pool, small_space):
    scored = pool(["pair", "params"])
    first, second = proxies.aggregate.RECIPES["pair"].parts
    assert list(scored.scores) == list(scored.status) == ["pair", "params"]
    ranks = [scored.measured[part].argsort(1).argsort(1) + 1 for part in (first, second)]
    np.testing.assert_allclose(scored.scores["pair"], sum(np.log(rank / 3) for rank in ranks))
    table = scored.ranked()
    assert list(table.columns) == ["arch", "#params", "pair", "params", first, second, "missing"]
    assert table["arch"].iloc[-1] == small_space.to_string(DISCONNECTED)
    assert table["missing"].tolist() == ["", "", "disconnected (pair)"]
    assert table["pair"].is_monotonic_decreasing
    np.testing.assert_array_equal(scored.top(3)[2], DISCONNECTED)
    assert repr(scored).startswith("Scores(3 nasbench201 architectures, 2 seed(s): pair, params")


def test_nothing_is_done_twice(pool):
    calls = []
    one, two = _counting("one", calls), _counting("two", calls)
    before = pool([one])
    assert calls == ["one"] * 4
    pool([one, two])
    assert calls == ["one"] * 4 + ["two"] * 4
    more = np.vstack([CELLS[:3], (3, 3, 3, 3, 3, 3)])
    after = pool([one, two], more)
    assert calls[8:] == ["one", "two"] * 2
    np.testing.assert_array_equal(after.scores["one"][:, :3], before.scores["one"])
    pool([two, one], CELLS[2::-1])
    assert len(calls) == 12


def test_a_function_is_scored_once_over_many_calls(small_space, draw_batch):
    calls = []
    twins = np.array([(3, 0, 0, 0, 1, 0), (0, 3, 0, 0, 0, 1)])
    scorer = Scorer(small_space, draw_batch(0), _counting("one", calls))
    first, second = (scorer(twin[None]) for twin in twins)
    assert calls == ["one"]
    assert first.scores["one"] == second.scores["one"]


def test_another_setting_is_another_run(pool):
    calls = []
    one = _counting("one", calls)
    pool([one], data="a")
    pool([one], data="b")
    assert len(calls) == 8


def test_other_data_are_another_run(tmp_path, draw_batch):
    calls = []
    for seed in (0, 0, 1):
        batch = draw_batch(seed, (6, 8), 3)
        with Scorer(TOY, batch, _counting("one", calls), store=tmp_path / "scores.sqlite") as found:
            found([[FINE, 0]])
    assert len(calls) == 2


def test_a_data_set_is_drawn_from(draw_batch):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(20, 4, 4, 3)).astype(np.uint8)
    data = create("noise", (images, np.arange(20) % 3), (images[:3], np.arange(3)), ["a", "b", "c"])
    sizes = []
    chosen = Proxy("size", lambda *each: sizes.append(each[2].labels.size) or jnp.ones(()), jnp.abs)
    Scorer(TOY, data, chosen, batch_size=7, plan="eager")([[FINE, 0]])
    assert sizes == [7]


def test_auto_is_the_plan_that_it_chooses(pool):
    calls = []
    one = _counting("one", calls)
    pool([one], plan="eager")
    pool([one], plan="auto")
    assert len(calls) == 4


def test_what_failed_is_tried_again(pool):
    broken = pool([_counting("one", [], MemoryError("full"))])
    assert set(broken.status["one"][0]) == {"failed: MemoryError: full", "disconnected"}
    mended = pool([_counting("one", [])])
    assert mended.unscored("one") == {"disconnected": 2}


def test_what_was_written_stays(pool):
    pool(["mgm"])
    with ScoreStore(pool.path) as store:
        first = store.frame()
    pool(["mgm"])
    with ScoreStore(pool.path) as store:
        pd.testing.assert_frame_equal(store.frame(), first, check_exact=True)


def test_one_architecture_many_times(small_space, draw_batch):
    calls = []
    scored = Scorer(small_space, draw_batch(0), _counting("one", calls))(CELLS[[0, 0, 1]])
    assert calls == ["one"] * 2
    assert scored.scores["one"][0, 0] == scored.scores["one"][0, 1]


def test_the_context_names_what_decides_the_last_bits():
    context = run_context(data="a")
    assert {"data", "version_jax", "version_flax", "jax_enable_x64", "backend"} <= context.keys()


# Bad input.


def _assert_one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert message.count(". ") == 0


BAD_POOLS = {
    "no cell": (np.zeros((0, 6), int), {}, r"Nothing to score: got shape \(0, 6\)"),
    "an empty list": ([], {}, r"integers: got dtype float64"),
    "one cell without a pool": (np.zeros(6, int), {}, r"Nothing to score: got shape \(6,\)"),
    "too few decisions": ([[1, 2, 3]], {}, r"6 decisions: got shape \(1, 3\)"),
    "an unknown operation": ([[1, 2, 3, 4, 5, 0]], {}, r"Decision 4 .* \[0, 5\): got 5"),
    "a negative operation": ([[1, 2, 3, 4, 0, -1]], {}, r"Decision 5 .* got -1"),
    "real decisions": ([[1.0] * 6], {}, r"integers: got dtype float64"),
    "strings": ([["none"] * 6], {}, r"integers: got dtype <U4"),
    "one seed twice": (CELLS, {"seeds": (0, 1, 0)}, r"different draws: got \[0, 1, 0\]"),
    "no seed": (CELLS, {"seeds": ()}, r"one or more: got none"),
    "a seed beyond 32 bits": (CELLS, {"seeds": [2**32]}, r"from 0 to 4294967295: got 4294967296"),
    "a negative seed": (CELLS, {"seeds": [-1]}, r"from 0 to 4294967295: got -1"),
    "half a seed": (CELLS, {"seeds": 0.5}, r"got 0.5"),
    "an unknown plan": (
        CELLS,
        {"plan": "jit"},
        r"plan must be one of auto, eager, compiled: got 'jit'",
    ),
}


@pytest.mark.parametrize("kind", BAD_POOLS)
def test_bad_pools_are_refused_at_once(small_space, draw_batch, kind):
    cells, options, got = BAD_POOLS[kind]
    with pytest.raises(ValueError, match=got) as error:
        Scorer(small_space, draw_batch(0), ["mgm"], **options)(cells)
    _assert_one_sentence(error)


@pytest.mark.parametrize("shape", [(2, 9, 8, 3), (2, 8, 8), (2, 192)])
def test_images_that_the_space_cannot_read(small_space, shape):
    batch = Batch(np.ones(shape, np.float32), np.array([0, 1]))
    with pytest.raises(ValueError, match=rf"got shape \({shape[0]}, {shape[1]}") as error:
        Scorer(small_space, batch, ["mgm"])(CELLS)
    _assert_one_sentence(error)


@pytest.mark.usefixtures("double")
def test_images_that_are_not_normalized_yet(small_space):
    batch = Batch(np.ones((6, 8, 8, 3), np.uint8), np.arange(6))
    with pytest.raises(ValueError, match="uint8") as error:
        Scorer(small_space, batch, ["mgm"])(CELLS)
    _assert_one_sentence(error)


def test_a_bad_draw_of_images_is_refused_when_it_comes(tmp_path, draw_batch):
    def draw(seed):
        good = draw_batch(0, (6, 8), 3)
        return good if seed == 0 else good._replace(labels=good.labels + 3)

    store = tmp_path / "scores.sqlite"
    with (
        Scorer(TOY, draw, ["mgm"], seeds=(0, 1), store=store) as scorer,
        pytest.raises(ValueError, match="below the 3 logits") as error,
    ):
        scorer([[FINE, 0]])
    _assert_one_sentence(error)
    with ScoreStore(store) as found:  # what came before is kept
        assert found.frame()["status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    ("data", "got"),
    [
        ("cifar10", r"pass jaxnas.datasets.load\('cifar10'\)"),
        (None, r"A batch is \(inputs, labels\): got NoneType"),
        ((np.ones((0, 4)), np.zeros(0, int)), r"got inputs \(0, 4\)"),
    ],
)
def test_bad_data(data, got):
    with pytest.raises(ValueError, match=got) as error:
        Scorer(TOY, data, ["mgm"])
    _assert_one_sentence(error)


@pytest.mark.parametrize(
    ("chosen", "got"),
    [
        ([], r"at least one score, each once: got \[\]"),
        (["mgm", "mgm"], r"each once: got \['mgm', 'mgm'\]"),
        ("naswott", r"Unknown proxy 'naswott': use a jaxnas.Proxy or one of params, .*mgm"),
    ],
)
def test_bad_choices(toy_batch, chosen, got):
    with pytest.raises(ValueError, match=got):
        Scorer(TOY, toy_batch, chosen)
