import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.search import local_search, run

NUM_CHOICES = (3, 1, 4, 2)
NUM_NEIGHBOURS = 2 + 0 + 3 + 1
STRATEGY = local_search(NUM_CHOICES)


def _smooth(archs):
    return archs @ jnp.array([5, 0, -2, 1])


def _rugged(archs):
    """Differs on every architecture, with several local optima."""
    return jnp.sin(archs @ jnp.array([7.0, 0.0, 3.0, 11.0]))


def _flat(archs):
    return jnp.zeros(len(archs))


def _failing(archs):
    return jnp.full(len(archs), jnp.nan)


@pytest.mark.parametrize("score_fn", [_smooth, _rugged, _flat, _failing])
@pytest.mark.parametrize("seed", range(3))
def test_history_replayed_by_the_rules(score_fn, seed):
    history = run(STRATEGY, score_fn, key=jax.random.key(seed), num_evaluations=100)
    place, place_score, visited, starts = None, None, set(), 0
    for arch, score in zip(np.asarray(history.archs), np.asarray(history.scores), strict=True):
        if place is None:
            place, place_score, visited = arch, score, set()
            starts += 1
            continue
        assert (arch != place).sum() == 1
        assert tuple(arch) not in visited
        visited.add(tuple(arch))
        if score > place_score:
            place, place_score, visited = arch, score, set()
        elif len(visited) == NUM_NEIGHBOURS:
            place = None
    assert starts > 3


def test_climbs_to_the_optimum_of_a_smooth_score():
    keys = jax.random.split(jax.random.key(0), 20)
    histories = jax.vmap(lambda key: run(STRATEGY, _smooth, key=key, num_evaluations=30))(keys)
    np.testing.assert_array_equal(histories.best_arch, np.tile([2, 0, 0, 1], (20, 1)))


def test_orders_differ_between_places_and_seeds():
    # Nothing is better than the start, so evaluations 1..6 are the neighbors in their order.
    keys = jax.random.split(jax.random.key(0), 30)
    strategy = local_search((2, 2, 2, 2, 2, 2))
    histories = jax.vmap(lambda key: run(strategy, _flat, key=key, num_evaluations=14))(keys)
    archs = np.asarray(histories.archs)
    changed = np.argmax(archs[:, 1:7] != archs[:, :1], axis=-1)
    again = np.argmax(archs[:, 8:14] != archs[:, 7:8], axis=-1)
    assert (np.sort(changed) == np.arange(6)).all()
    assert len(np.unique(changed, axis=0)) > 25
    assert (changed == again).all(axis=1).sum() < 3


def test_space_of_one_architecture():
    with pytest.raises(ValueError, match=r"two choices or more: got \[1\]"):
        local_search([1])


def test_too_many_neighbors_are_refused():
    with pytest.raises(ValueError, match="visits every neighbor, at most 16777216: got"):
        local_search([3, 2**30])
