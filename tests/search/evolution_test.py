from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxnas.search import regularized_evolution, run
from jaxnas.search.evolution import mutate

NUM_CHOICES = (3, 1, 4, 2)


def _score(archs):
    return archs @ jnp.array([5, 0, -2, 1])


def _num_changes(arch, other):
    return int(np.sum(np.asarray(arch) != np.asarray(other)))


def test_mutation_is_uniform_over_decisions_and_other_values():
    keys = jax.random.split(jax.random.key(0), 3000)
    arch = jnp.array([2, 0, 1, 0])
    mutants = np.asarray(jax.jit(jax.vmap(lambda key: mutate(key, NUM_CHOICES, arch)))(keys))
    assert ((mutants != np.asarray(arch)).sum(axis=1) == 1).all()
    # One third for each open decision, shared by its other values: 2, 3 and 1 of them.
    expected = {
        **{(0, 0, 1, 0): 500, (1, 0, 1, 0): 500},
        **{(2, 0, 0, 0): 1000 / 3, (2, 0, 2, 0): 1000 / 3, (2, 0, 3, 0): 1000 / 3},
        (2, 0, 1, 1): 1000,
    }
    found, counts = np.unique(mutants, axis=0, return_counts=True)
    assert set(map(tuple, found)) == set(expected)
    assert scipy.stats.chisquare(counts, [expected[tuple(a)] for a in found]).pvalue > 1e-3


def test_the_oldest_dies_not_the_worst():
    strategy = regularized_evolution((10,), population_size=3, tournament_size=2)
    state = strategy.init(jax.random.key(0))
    for value, score in [(7, 0.9), (5, -jnp.inf), (3, 0.5), (1, 0.7)]:
        state = strategy.tell(state, jnp.array([value], jnp.int32), jnp.float32(score))
    # The fourth took the place of the first, which was the best.
    np.testing.assert_array_equal(state.archs, [[1], [5], [3]])
    np.testing.assert_array_equal(state.scores, np.array([0.7, -np.inf, 0.5], np.float32))
    assert state.num_told == 4


def test_history_replayed_with_a_queue():
    # A tournament of 100 among 5 misses the best member once in 5e9 times.
    strategy = regularized_evolution(NUM_CHOICES, population_size=5, tournament_size=100)
    history = run(strategy, _score, key=jax.random.key(3), num_evaluations=60)
    population = deque(maxlen=5)
    for t, (arch, score) in enumerate(zip(*history, strict=True)):
        if t >= 5:
            best = max(score for _, score in population)
            parents = [member for member, score in population if score == best]
            assert 1 in [_num_changes(arch, parent) for parent in parents]
        population.append((arch, score))
    assert t == 59


def test_tournament_of_one_takes_any_member():
    strategy = regularized_evolution((1000, 1000), population_size=4, tournament_size=1)
    state = strategy.init(jax.random.key(0))
    for value in range(4):
        state = strategy.tell(state, jnp.array([value, value], jnp.int32), jnp.float32(value))
    keys = jax.random.split(jax.random.key(1), 400)
    asked = np.asarray(jax.jit(jax.vmap(strategy.ask, (0, None)))(keys, state))
    # Whichever decision was left alone names the parent (the other is a value up to 999).
    counts = [np.sum((asked == value).any(axis=1)) for value in range(4)]
    assert sum(counts) in range(395, 406)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_founders_are_uniform():
    history = jax.vmap(
        lambda key: run(
            regularized_evolution((3, 4), population_size=5), _sum, key=key, num_evaluations=5
        )
    )(jax.random.split(jax.random.key(0), 240))
    counts = np.unique(history.archs.reshape(-1, 2), axis=0, return_counts=True)[1]
    assert len(counts) == 12
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def _sum(archs):
    return archs.sum(axis=-1)


@pytest.mark.parametrize("name", ["population_size", "tournament_size"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer from 1 .*: got 0"):
        regularized_evolution(NUM_CHOICES, **{name: 0})


@pytest.mark.parametrize(
    "call", [regularized_evolution, partial(mutate, jax.random.key(0), arch=jnp.zeros(2, int))]
)
def test_nothing_to_mutate(call):
    with pytest.raises(ValueError, match=r"two choices or more: got \(1, 1\)"):
        call(num_choices=(1, 1))


def test_a_mutation_of_the_largest_number_of_choices():
    choices = [2**31 - 1]
    arch = jnp.array([2**31 - 3], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 500)
    mutants = np.asarray(jax.vmap(lambda key: mutate(key, choices, arch))(keys)).ravel()
    assert mutants.min() >= 0
    assert not (mutants == arch[0]).any()
    assert 0.4 < (mutants > 2**30).mean() < 0.6
