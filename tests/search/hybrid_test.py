import importlib
import itertools
import json

import jax
import numpy as np
import pytest

from jaxnas.benchmarks import nasbench201
from jaxnas.search import Evaluation, HybridOptions, hybrid, hybrid_steps

KEY = jax.random.key(0)
ARCHS = np.array(list(itertools.product(range(5), range(4))), np.int32)
VALUE = np.random.default_rng(0).permutation(20).astype(float)
QUALITY = np.linspace(0, 1, 20)


def objective(tau, log_mu):
    """Prefer candidates near `20 tau`, the more the larger `log_mu`; VALUE otherwise."""
    return VALUE / 20 - 10**log_mu * np.abs(QUALITY - tau)


def feedback(archs):
    return -np.abs(archs[:, 0] + 0.1 * archs[:, 1] - 2.6)


def search(feedback=feedback, key=KEY, num_evaluations=5, **options):
    """Return a search with three steps of Bayesian optimization after two probes."""
    history = options.pop("history", ())
    return hybrid(
        ARCHS,
        options.pop("objective", objective),
        feedback,
        key=key,
        num_evaluations=num_evaluations,
        options=HybridOptions(**{"probes": 2, **options}),
        history=history,
    )


@pytest.fixture
def suggested(monkeypatch):
    """`suggested(suggest)`: put `suggest` in the place of the Gaussian process."""
    module = importlib.import_module("jaxnas.search.constants")
    return lambda suggest: monkeypatch.setattr(module, "suggest", suggest)


def test_probes_take_the_best_candidate_that_is_left_by_hand():
    scores = {0.0: [3.0, 2.0, 1.0, -np.inf], 0.5: [3.0, 2.0, 1.0, -np.inf], 1.0: [9.0, 0, 1, 8]}
    worth = np.array([0.3, 0.7, 0.9, 0.7])
    asked = []

    def of(archs):
        asked.append(archs)
        return worth[archs[:, 0]]

    result = hybrid(
        np.arange(4)[:, None],
        lambda tau, log_mu: scores[tau],
        of,
        key=KEY,
        num_evaluations=3,
        options=HybridOptions({"tau": (0, 1), "log_mu": (-4, 0)}, probes=np.int64(3)),
    )
    # 0 is best; then 1, because 0 is done; then 3, because 0 is done: 8 is the best of the rest.
    assert result.steps == (
        Evaluation((0.0, -2.0), 0, 0.3),
        Evaluation((0.5, -2.0), 1, 0.7),
        Evaluation((1.0, -2.0), 3, 0.7),
    )
    assert result.winner == 1  # of equals the first
    np.testing.assert_array_equal(result.arch, [1])
    assert [(a.shape, a.dtype) for a in asked] == [((1, 1), np.int32)] * 3


@pytest.mark.parametrize(("num_evaluations", "probes"), [(3, 1), (20, 5), (60, 10)])
def test_a_quarter_of_the_steps_are_probes(num_evaluations, probes, suggested):
    suggested(lambda *args, **kwargs: (0.123, 0.456))
    result = hybrid(
        np.arange(60)[:, None],
        lambda tau, log_mu: np.zeros(60),
        lambda archs: archs[:, 0],
        key=KEY,
        num_evaluations=num_evaluations,
    )
    points = [step.point for step in result.steps]
    assert points[:probes] == [(tau, -1.0) for tau in np.linspace(0, 1, probes)]
    assert points[probes:] == [(0.123, 0.456)] * (num_evaluations - probes)
    # Equal scores go by the order of the candidates.
    assert [step.candidate for step in result.steps] == list(range(num_evaluations))


@pytest.mark.parametrize("acquisition", ["ei", "ucb"])
def test_points_stay_in_range_and_candidates_come_once(acquisition):
    result = search(acquisition=acquisition, bounds={"tau": (0.2, 0.9), "log_mu": (-1.0, 1.0)})
    assert len({step.candidate for step in result.steps}) == 5
    assert all(0.2 <= step.point[0] <= 0.9 for step in result.steps)
    assert all(-1 <= step.point[1] <= 1 for step in result.steps)
    for step in result.steps:
        assert step.feedback == feedback(ARCHS[[step.candidate]])[0]
    assert result.winner == max(result.steps, key=lambda step: step.feedback).candidate


def test_named_probes_and_the_last_steps_go_down_the_best_ranking(suggested):
    suggested(lambda *args, **kwargs: (0.0, 1.0))
    quality = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]], float)
    worth = np.array([1.0, 2, 3, 9, 8, 7])
    result = hybrid(
        np.arange(6)[:, None],
        lambda first, second: first * quality[0] + second * quality[1],
        lambda archs: worth[archs[:, 0]],
        key=KEY,
        num_evaluations=4,
        options=HybridOptions(
            {"first": (0, 1), "second": (0, 1)}, probes=((1.0, 0.0),), exploited=2
        ),
    )
    # The probe finds 0 of worth 1, the process 5 of worth 7: the rest of its ranking is 4, 3.
    assert [step.candidate for step in result.steps] == [0, 5, 4, 3]
    assert [step.point for step in result.steps[1:]] == [(0.0, 1.0)] * 3
    assert result.winner == 3


def test_the_key_decides():
    first, again, other = search(), search(), search(key=jax.random.key(1))
    assert first.steps == again.steps
    assert first.steps != other.steps


@pytest.mark.parametrize("growth", [None, 3])
def test_a_search_stopped_after_any_step_goes_on_the_same(growth):
    def fallible(archs):
        if archs[0, 1] == 3:
            raise RuntimeError("out of memory")
        return feedback(archs)

    whole = search(fallible, growth=growth).steps
    assert any(step.failure for step in whole)
    asked = []

    def counted(archs):
        asked.append(archs)
        return fallible(archs)

    for stop in range(len(whole) + 1):
        stored = json.loads(json.dumps(whole[:stop]))  # as it comes back from a file
        asked.clear()
        assert search(counted, growth=growth, history=stored).steps == whole
        assert len(asked) == len(whole) - stop


def test_steps_can_be_kept_one_by_one():
    asked, kept = [], []

    def interrupted(archs):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(archs)
        return feedback(archs)

    def steps(feedback):
        return hybrid_steps(
            ARCHS,
            objective,
            feedback,
            key=KEY,
            num_evaluations=5,
            options=HybridOptions(probes=2),
            history=tuple(kept),
        )

    started = steps(interrupted)
    kept.extend(itertools.islice(started, 3))
    with pytest.raises(KeyboardInterrupt):
        next(started)
    kept.append(next(steps(feedback)))
    assert search(history=kept).steps == search().steps


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (lambda archs: np.array([np.nan]), "feedback was nan"),
        (lambda archs: np.array([np.inf]), "feedback was inf"),
        (lambda archs: 1 // 0, "ZeroDivisionError: integer division or modulo by zero"),
        (lambda archs: int("x"), "ValueError: invalid literal"),
    ],
)
def test_a_failure_is_recorded_told_as_the_worst_and_never_wins(failing, reason, suggested):
    told = []

    def suggest(points, values, bounds, **options):
        told.append(values)
        return points[0]

    suggested(suggest)
    worth = iter([failing, lambda archs: [-3.0], lambda archs: [-5.0], failing, lambda archs: [-4]])
    result = search(lambda archs: next(worth)(archs), num_evaluations=5, probes=1)
    assert [bool(step.failure) for step in result.steps] == [True, False, False, True, False]
    assert result.steps[0].failure.startswith(reason)
    assert result.steps[0].feedback == -np.inf
    assert told == [[0.0], [-3.0, -3.0], [-5.0, -3.0, -5.0], [-5.0, -3.0, -5.0, -5.0]]
    assert result.winner == result.steps[1].candidate


def test_a_bug_in_the_feedback_is_not_a_failure():
    with pytest.raises(AttributeError):
        search(lambda archs: archs.nothing)


def test_the_search_ends_when_nothing_is_left_to_rank():
    few = np.where(np.arange(20) < 3, VALUE, -np.inf)
    result = search(objective=lambda tau, log_mu: few)
    assert sorted(step.candidate for step in result.steps) == [0, 1, 2]
    with pytest.raises(ValueError, match="history must be of the same search"):
        search(
            objective=lambda tau, log_mu: few,
            history=[*result.steps, Evaluation((0.5, 0.0), 7, 1.0)],
        )


def test_a_growing_pool_limits_what_can_be_chosen(suggested):
    suggested(lambda *args, **kwargs: (0.5, 0.0))
    size = 1000

    def steps(growth):
        return hybrid(
            np.arange(size)[:, None],
            lambda tau, log_mu: np.arange(size),
            lambda archs: archs[:, 0],
            key=KEY,
            num_evaluations=size // 10,
            options=HybridOptions(growth=growth),
        ).steps

    fixed, growing = ([step.candidate for step in steps(growth)] for growth in (None, 5))
    assert fixed == list(range(size - 1, size - 1 - size // 10, -1))
    assert growing[0] < size - 1
    assert len(set(growing)) == len(growing)
    # The best of five arrivals is about 5/6 of the way up; what has been passed over comes again.
    assert 0.7 * size < np.mean(growing) < np.mean(fixed)
    # One arrival a step may be an old one: then all candidates are in the pool.
    assert len({step.candidate for step in steps(1)}) == size // 10


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"num_evaluations": 21}, "from 1 to 20: got 21; sample more"),
        ({"num_evaluations": 0}, "from 1 to 20: got 0"),
        ({"objective": lambda tau, log_mu: np.full(20, -np.inf)}, "got -inf for all 20"),
        ({"objective": lambda tau, log_mu: np.full(20, np.nan)}, "got nan for 20 of 20"),
        ({"objective": lambda tau, log_mu: np.full(20, np.inf)}, "got inf for 20 of 20"),
        ({"objective": lambda tau, log_mu: np.zeros(19)}, r"got shape \[19\] for 20"),
        ({"feedback": lambda archs: 3.0}, r"feedback must return one value .*got \[\]"),
        ({"feedback": lambda archs: [np.nan], "probes": 5}, "got 5 failures.*was nan"),
        ({"bounds": {"tau": (1.0, 0.0)}}, "tau must be a range"),
        ({"bounds": {"mu": (-np.inf, 0.0)}}, "mu must be a range"),
        ({"bounds": {}}, "bounds must name one"),
        ({"probes": ((0.5,),)}, r"each of tau, log_mu: got \(0.5,\)"),
        ({"exploited": -1}, "exploited must be an integer from 0"),
        ({"acquisition": "poi"}, "one of ei, ucb: got 'poi'"),
        ({"probes": 0}, "probes must be an integer from 1"),
        ({"growth": -1}, "growth must be an integer from 1"),
        ({"history": [Evaluation((0.0, -1.0), 0, 1.0)] * 6}, "got 6 steps for 5"),
        ({"history": [Evaluation((0.1, -1.0), 0, 1.0)]}, "history must be of the same search"),
        ({"history": [Evaluation((0.0, -1.0), 19, 1.0)]}, "history must be of the same search"),
    ],
)
def test_bad_inputs_get_a_sentence(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        search(**changed)


@pytest.mark.parametrize(
    ("candidates", "sentence"),
    [
        (np.zeros((0, 6), int), r"got int64 of shape \[0, 6\]"),
        (np.zeros((2, 6)), "got float64"),
        (np.zeros((2, 6), int), "got 2 with 1 different"),
    ],
)
def test_bad_candidates_get_a_sentence(candidates, sentence):
    with pytest.raises(ValueError, match=sentence):
        hybrid(candidates, objective, feedback, key=KEY)


def test_it_beats_random_search_where_the_metric_knows_something():
    """Accuracy of the winner on NAS-Bench-201 at eight evaluations, over ten seeds.

    The metric follows the accuracy but for noise, and explodes for one cell in fifty, as that of
    dead networks does; the condition number follows it too.
    """
    table = nasbench201()
    ours, at_random = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        archs = table.archs[rng.choice(len(table.archs), 400, replace=False)]
        accuracy = table.accuracy(archs, "cifar10")
        ranks = accuracy.argsort().argsort() / 400
        metric = np.exp(3 * ranks + rng.normal(0, 1.5, 400))
        metric[rng.random(400) < 0.02] *= 1e3
        condition = 1 + np.exp(3 - 3 * ranks + rng.normal(0, 1.5, 400))
        m, kappa = metric / np.quantile(metric, 0.97), condition / np.median(condition)

        def score(tau, log_mu, m=m, kappa=kappa):
            return -(kappa / m + 10**log_mu * np.abs(m**2 - tau**2))

        def look(cells):
            return table.accuracy(cells, "cifar10/valid_12ep")

        result = hybrid(
            archs,
            score,
            look,
            key=jax.random.key(seed),
            num_evaluations=8,
            options=HybridOptions(probes=5),
        )
        ours.append(table.accuracy(result.arch, "cifar10"))
        drawn = archs[:8]  # the pool is in random order
        at_random.append(accuracy[look(drawn).argmax()])
    assert np.mean(ours) > np.mean(at_random) + 0.5
