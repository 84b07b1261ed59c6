"""Searches without training: what is scored, what caps refuse, ranks that grow, and resuming."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import linen as nn

from jaxnas import Proxy, Scorer, SearchSpace, find, finder, proxies, search
from jaxnas.finder import STRATEGIES
from jaxnas.proxies import cost
from jaxnas.runs import ScoreStore
from jaxnas.scorer import Scores
from jaxnas.spaces import family, nasbench101

NUM_CHOICES = (4, 4, 4)


def _network(arch, params, inputs):
    return inputs @ params["w"] * (1 + arch.sum())


SPACE = SearchSpace(
    name="sums",
    num_choices=NUM_CHOICES,
    init=lambda key, inputs: {"w": jax.random.normal(key, (inputs.shape[1], 3))},
    bind=lambda arch, params: (functools.partial(_network, arch), params),
    to_string=lambda arch: "-".join(map(str, np.asarray(arch))),
    from_string=lambda text: np.array(text.split("-"), np.int32),
    is_connected=lambda arch: arch[0] != 3,
    representative=np.sort,
    num_params=lambda arch: 100 * int(np.sum(arch)),
    options={},
)
# Of the architecture alone: the best is 2-3-3, and 3-x-x are disconnected.
SUM = Proxy("sum", lambda network, *_: jnp.asarray(network.args[0].sum(), float), jnp.asarray)
LAST = Proxy("last", lambda network, *_: jnp.asarray(network.args[0][2], float), jnp.asarray)


@pytest.fixture
def scorer(draw_batch):
    def make(by=SUM, **options):
        options = {"deduplicate": False, "plan": "eager", "progress": False} | options
        return Scorer(SPACE, draw_batch(0, (4, 5), 3), by, **options)

    return make


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_the_best_of_a_small_space(scorer, strategy):
    found = find(scorer(), strategy, evaluations=None if strategy == "exhaustive" else 64)
    scored = len(found.scores.archs)  # a strategy that asks for nothing new is given up
    assert scored == len({arch.tobytes() for arch in found.scores.archs}) >= 50
    assert found.space.to_string(found.best) == "2-3-3"
    assert found.scores.mean("sum").max() == 8
    assert found.num_refused == 0


@pytest.mark.parametrize("strategy", ["exhaustive", "random", "regularized_evolution"])
def test_caps_are_kept(scorer, strategy):
    found = find(scorer(), strategy, caps={"params": 500, LAST: 2})
    assert (found.costs["params"] <= 500).all()
    assert (found.costs["last"] <= 2).all()
    legal = [a for a in np.ndindex(NUM_CHOICES) if sum(a) <= 5 and a[2] <= 2 and a[0] < 3]
    assert found.scores.mean("sum").max() == max(map(sum, legal)) == 5
    assert found.num_refused > 0
    # What has no score of a cap, such as a disconnected one, is within none.
    assert (found.scores.archs[:, 0] != 3).all()
    assert {"params", "last"} <= set(found.to_frame().columns)


@pytest.mark.parametrize("strategy", ["exhaustive", "random"])
def test_what_cannot_be_built_never_wins(strategy):
    """Neither by the rank that an aggregate would give it, nor as what costs nothing."""

    def build(width):
        if width == 3:
            raise RuntimeError("unlucky")
        return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(3)])

    def search(width, **options):
        space = family(build, width=width)
        data = np.ones((6, 4), np.float32), np.arange(6) % 3
        return find(Scorer(space, data, "pair", progress=False), strategy, **options)

    found = search((3, 4, 5))
    assert np.isneginf(found.scores.mean("pair")).tolist() == [
        name == "width=3" for name in map(found.space.to_string, found.scores.archs)
    ]
    capped = search((3, 4, 5), caps={"params": 1000})
    assert capped.num_refused == 1
    assert np.isfinite(capped.scores.mean("pair")).all()
    with pytest.raises(ValueError, match=r"with a score: got none among 1; failed: .*unlucky\.$"):
        search((3,))
    with pytest.raises(ValueError, match=r"within the caps .* among 1; failed: .*unlucky\.$"):
        search((3,), caps={"params": 1000})


def test_nothing_within_the_caps(scorer):
    for strategy in ("exhaustive", "random"):
        with pytest.raises(ValueError, match="within the caps params <= -1: got none among 64"):
            find(scorer(), strategy, caps={"params": -1})


def test_an_aggregate_ranks_all_that_was_scored(scorer, monkeypatch):
    recipe = proxies.aggregate.RECIPES["pair"]._replace(parts=("sum", "last"))
    monkeypatch.setitem(proxies.BY_NAME, "sum", SUM)
    monkeypatch.setitem(proxies.BY_NAME, "last", LAST)
    monkeypatch.setitem(proxies.aggregate.RECIPES, "pair", recipe)
    found = find(scorer("pair"), "regularized_evolution", evaluations=40, seed=1)
    at_once = scorer("pair")(found.scores.archs)
    np.testing.assert_array_equal(found.scores.mean("pair"), at_once.mean("pair"))
    assert found.scores.measured.keys() == {"sum", "last"}


def test_same_seed_same_search(scorer):
    first, second, other = (find(scorer(), evaluations=30, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.scores.archs, second.scores.archs)
    assert (first.scores.archs != other.scores.archs).any()
    longer = find(scorer(), evaluations=40, seed=0)
    np.testing.assert_array_equal(longer.scores.archs[:24], first.scores.archs[:24])


def test_what_was_scored_is_not_scored_again(scorer, tmp_path):
    calls = []
    counting = Proxy("sum", lambda *each: calls.append(1) or SUM.measure(*each), jnp.asarray)
    with scorer(counting, store=tmp_path / "scores.sqlite") as first:
        found = find(first, evaluations=20)
    done = len(calls)
    assert done <= 20  # the disconnected are not run
    with scorer(counting, store=tmp_path / "scores.sqlite") as second:
        again = find(second, evaluations=20)
    assert len(calls) == done
    np.testing.assert_array_equal(again.scores.archs, found.scores.archs)


def test_the_best_are_different_functions(scorer):
    found = find(scorer(), "exhaustive")
    names = [SPACE.to_string(arch) for arch in found.top(4)]
    assert names == ["2-3-3", "1-3-3", "2-2-3", "0-3-3"]  # 2-3-2 is the function of 2-2-3


def test_a_few_trainings_say_where_all_should_stand(scorer):
    trained = []

    def train(archs):
        trained.extend(map(found.space.to_string, archs))
        return archs.sum(1) ** 2.0

    found = find(scorer(), "random", evaluations=30)
    frame = found.percentiles(train, 6)
    assert len(frame) == sum(found.scores.archs[:, 0] != 3)  # others are disconnected
    assert frame["sum"].is_monotonic_decreasing
    known = frame[frame["trained"].notna()]
    assert set(known["arch"]) == set(trained)
    assert (known["trained"] == known["sum"] ** 2).all()
    assert (frame["low"] <= frame["percentile"]).all()
    assert (frame["percentile"] <= frame["high"]).all()
    # The score is as good as the training: the first is expected above the last.
    assert frame["low"].iloc[0] > frame["high"].iloc[-1]
    # The same networks say whether another score is as good.
    assert found.advantage(train, 6, control=LAST) > 0.8
    assert found.advantage(train, 6) == 0.5  # #params are 100 times the sum
    assert {*trained} == set(known["arch"])
    with pytest.raises(ValueError, match=r"k must be an integer from 4 to .*: got 3; train four"):
        found.percentiles(train, 3)
    with pytest.raises(ValueError, match="trainer must be a Trainer or a function: got 2"):
        found.validate(2, train)
    best = found.validate(train, 3)
    assert list(best) == ["arch", "sum", "trained"]
    assert best["trained"].is_monotonic_decreasing


def test_the_pareto_front(scorer):
    front = find(scorer(), "exhaustive").pareto("params")
    assert front["sum"].tolist() == list(range(9))
    assert front["params"].is_monotonic_increasing


def test_latency_is_measured_and_kept(scorer, tmp_path):
    with scorer(store=tmp_path / "scores.sqlite") as result:
        found = find(result, "random", evaluations=3, caps={"latency_ms": 1e4})
    assert (found.costs["latency_ms"] > 0).all()
    with scorer(store=tmp_path / "scores.sqlite") as result:
        again = find(result, "random", evaluations=3, caps={"latency_ms": 1e4})
    np.testing.assert_array_equal(found.costs["latency_ms"], again.costs["latency_ms"])


def test_a_winner_that_is_slower_when_timed_again_is_refused(scorer, monkeypatch):
    timed = collections.Counter()

    def latency(network, *_):
        name = SPACE.to_string(network.args[0])
        timed[name] += 1
        # The best is 20 % over the cap when it is timed again, the next best 5 %.
        return jnp.asarray([0.9, {"2-3-3": 1.2, "1-3-3": 1.05}.get(name)][timed[name] - 1])

    proxy = Proxy("latency_ms", latency, jnp.asarray)
    monkeypatch.setattr(finder, "_LATENCY", proxy)
    found = find(scorer(), "exhaustive", caps={"latency_ms": 1.0, "params": 800})
    assert found.space.to_string(found.best) == "1-3-3"
    assert "2-3-3" not in found.to_frame()["arch"].tolist()
    # 3-3-3 has too many parameters, and the other disconnected ones no latency.
    assert found.num_refused == 1 + 1 + 15
    assert {len(cost) for cost in found.costs.values()} == {len(found.scores.archs)} == {47}
    assert timed.total() == 48 + 2


def test_nothing_is_within_a_cap_when_timed_again(scorer, monkeypatch):
    times = itertools.chain(np.repeat(0.5, 48), itertools.repeat(2.0))
    proxy = Proxy("latency_ms", lambda *_: jnp.asarray(next(times)), jnp.asarray)
    monkeypatch.setattr(finder, "_LATENCY", proxy)
    with pytest.raises(ValueError, match="latency_ms <= 1 when timed again: raise the cap"):
        find(scorer(), "exhaustive", caps={"latency_ms": 1.0})


def test_what_is_not_finite_is_within_no_cap(scorer):
    cost = Proxy(
        "cost", lambda network, *_: jnp.where(network.args[0][0] > 0, jnp.inf, 1.0), jnp.asarray
    )
    found = find(scorer(), "exhaustive", caps={cost: 2.0})
    assert (found.scores.archs[:, 0] == 0).all()
    assert found.num_refused == 64 - 16


def test_only_networks_of_the_space_are_searched():
    space = nasbench101(channels=4, cells=1)
    batch = jnp.ones((2, 8, 8, 3)), jnp.arange(2)
    found = find(Scorer(space, batch, "params", progress=False), "random", evaluations=20)
    assert all(map(space.is_legal, found.scores.archs))
    assert found.num_refused > 0


def test_a_space_without_a_network(draw_batch):
    nowhere = SPACE._replace(is_legal=lambda arch: False)
    scorer = Scorer(nowhere, draw_batch(0, (4, 5), 3), SUM, progress=False)
    with pytest.raises(ValueError, match=r"needs networks of the space.*: got none among"):
        find(scorer, "random")


def _deep(arch, params, inputs):
    for _ in range(4 ** int(arch[0])):
        inputs = jnp.tanh(inputs @ params["w"])
    return inputs[:, :3]


@pytest.mark.slow
def test_a_winner_holds_its_latency():
    space = SPACE._replace(
        name="depths",
        num_choices=(4,),
        init=lambda key, inputs: {"w": jax.random.normal(key, (128, 128)) / 10},
        bind=lambda arch, params: (functools.partial(_deep, np.asarray(arch)), params),
        from_string=lambda text: np.array([int(text)], np.int32),
        is_connected=lambda arch: True,
        representative=np.asarray,
        num_params=lambda arch: int(4 ** arch[0]),
    )
    batch = jax.random.normal(jax.random.key(0), (16, 128)), jnp.arange(16) % 3
    scorer = Scorer(space, batch, SUM, plan="eager", progress=False)
    archs = np.arange(4)[:, None]
    times = scorer.of(cost.latency_ms())(archs).mean("latency_ms")
    cap = float(1.5 * times[2])
    found = find(scorer, "exhaustive", caps={"latency_ms": cap})
    assert found.space.to_string(found.best) == "2"
    again = scorer.of(cost.latency_ms()).anew()(found.top(1)).mean("latency_ms")[0]
    assert again <= 1.1 * cap
    assert found.pareto("latency_ms")["sum"].tolist() == [0, 1, 2]


def test_scores_are_read_once(scorer, monkeypatch):
    read = []
    rows = ScoreStore.rows

    def counting(store, run, archs):
        read.extend(archs)
        return rows(store, run, archs)

    monkeypatch.setattr(ScoreStore, "rows", counting)
    found = find(scorer(), evaluations=40)
    assert len(read) == 2 * len(found.scores.archs)  # before and after they are computed


def test_a_report_builds_no_more_rows_than_it_shows(scorer, monkeypatch):
    found = find(scorer(), "exhaustive")
    asked = []
    monkeypatch.setattr(
        Scores,
        "to_frame",
        lambda leaf, real=Scores.to_frame: asked.append(len(leaf.archs)) or real(leaf),
    )
    found.as_report(5)
    found.pareto("params")
    assert asked == [5, 9]


class CluWriter:
    """What CLU asks of a metric writer."""

    def __init__(self):
        self.told, self.flushed = {}, 0

    def write_scalars(self, step, scalars):
        self.told[step] = dict(scalars)

    def flush(self):
        self.flushed += 1


class FlaxWriter:
    """The method of `flax.metrics.tensorboard.SummaryWriter` that counts here."""

    def __init__(self):
        self.told = {}

    def scalar(self, tag, value, step):
        self.told.setdefault(step, {})[tag] = value


@pytest.mark.parametrize("strategy", ["exhaustive", "random"])
def test_progress_goes_to_a_writer(scorer, strategy):
    clu, flax = CluWriter(), FlaxWriter()
    for writer in (clu, flax):
        found = find(scorer([SUM, LAST]), strategy, caps={"params": 500}, writer=writer)
    for told in (clu.told, flax.told):
        (*_, (step, last)) = told.items()
        assert step == len(found.scores.archs)
        assert last.pop("search/seconds") >= 0
        leads = found.scores.mean("sum").argmax()
        assert last == {
            "search/refused": found.num_refused,
            "best/sum": 5,
            "best/last": found.scores.mean("last")[leads],
        }
        bests = [scalars["best/sum"] for scalars in told.values() if "best/sum" in scalars]
        assert bests == sorted(bests)
    assert clu.flushed == len(clu.told) > (strategy == "random")


def test_tensorboard_reads_what_a_writer_was_told(scorer, tmp_path):
    tensorboardx = pytest.importorskip("tensorboardX")
    with tensorboardx.SummaryWriter(str(tmp_path)) as writer:
        find(scorer(), "random", evaluations=9, writer=writer)
    (file,) = tmp_path.iterdir()
    assert b"best/sum" in file.read_bytes()


def test_the_report(scorer, tmp_path):
    found = find(scorer([SUM, LAST]), evaluations=12)
    page = found.report(tmp_path).read_text(encoding="utf-8")
    assert SPACE.to_string(found.best) in page
    assert "Best by sum of 12 architectures" in page
    name = SPACE.to_string(found.best)
    assert repr(found) == f"Found({name}, the best by sum of 12 sums architectures)"
    assert page.index("<figure") < page.index("<code>") < page.index("<table>")
    table = found.to_frame()
    pd.testing.assert_frame_equal(found.to_frame([7, 3]), table.iloc[[7, 3]])
    assert table["best so far"].is_monotonic_increasing
    assert len(table) == 12


def test_a_report_names_what_orders_few(scorer):
    few = Proxy(
        "few", lambda network, *_: jnp.where(network.args[0].sum() > 6, 1.0, 4.0), jnp.asarray
    )
    note = find(scorer([SUM, few]), evaluations=12).as_report().parts[2].note
    assert note.startswith("few is 4 for ")
    assert "sum is" not in note
    assert find(scorer([SUM, LAST]), evaluations=12).as_report().parts[2].note == ""


@pytest.mark.parametrize(
    ("options", "got"),
    [
        (
            {"strategy": "annealing"},
            "strategy must be one of exhaustive, random.*: got 'annealing'",
        ),
        ({"evaluations": 0}, "evaluations must be an integer from 1 .*: got 0"),
        ({"at_once": 0}, "at_once must be an integer from 1 .*: got 0"),
        ({"strategy": "exhaustive", "evaluations": 5}, "got evaluations=5 and 64 architectures"),
        ({"caps": {"parms": 5}}, "Unknown proxy 'parms'"),
        ({"caps": {"panel": 5}}, "panel ranks the networks of a pool"),
        ({"writer": print}, "A writer has write_scalars.*: got builtin_function_or_method"),
    ],
)
def test_bad_input(scorer, options, got):
    with pytest.raises(ValueError, match=got):
        find(scorer(), **options)


def test_a_strategy_of_ones_own(scorer):
    first = search.random_sampling(NUM_CHOICES)
    found = find(scorer(), first, evaluations=9)
    np.testing.assert_array_equal(
        found.scores.archs, find(scorer(), "random", evaluations=9).scores.archs
    )
