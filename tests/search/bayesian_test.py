import itertools

import numpy as np
import pytest

from jaxnas.search import bayesian

BOUNDS = {"x": (0.0, 1.0), "y": (-4.0, 2.0)}


@pytest.mark.parametrize("acquisition", ["ei", "ucb"])
def test_it_sees_the_top_of_a_hill_between_what_is_told(acquisition):
    points = list(itertools.product(np.linspace(0, 1, 5), np.linspace(-1, 0, 5)))
    values = [-((x - 0.62) ** 2) - (y + 0.38) ** 2 for x, y in points]
    square = {"x": (0.0, 1.0), "y": (-1.0, 0.0)}
    for seed in range(3):
        point = bayesian.suggest(points, values, square, acquisition=acquisition, seed=seed)
        np.testing.assert_allclose(point, (0.62, -0.38), atol=0.05)


def test_the_same_arguments_give_the_same_point():
    points, values = [(0.2, 0.0), (0.6, -1.0), (0.4, 1.0)], [1.0, 2.0, 0.5]
    first, again = (bayesian.suggest(points, values, BOUNDS, seed=2**32 - 1) for _ in range(2))
    assert first == again


def test_a_point_told_twice_is_its_mean_and_makes_no_noise(capsys):
    points = [(0.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    twice = bayesian.suggest(points, [1.0, 2.0, 4.0], BOUNDS, seed=5)
    once = bayesian.suggest(points[:2], [2.5, 2.0], BOUNDS, seed=5)
    assert twice == once
    assert capsys.readouterr() == ("", "")


def test_equal_values_are_legal():
    (x, y) = bayesian.suggest([(0.0, 0.0), (1.0, 0.0)], [3.0, 3.0], BOUNDS, seed=0)
    assert 0 <= x <= 1
    assert -4 <= y <= 2
