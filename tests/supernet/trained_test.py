"""A supernet by a recipe is what its parts make, and gives the recipe's score."""

import chex
import jax
import numpy as np
import pytest

from jaxnas.spaces.mobilenetv2_space import SearchedNetwork
from jaxnas.supernet import (
    BY_NAME,
    indicators,
    inherited,
    parameters,
    sampling,
    train,
    train_recipe,
)
from tests.supernet.tiny import CHOICES, LAYOUT

ARCHS = np.array([[0, 1, 0], [2, 0, 1]], np.int32)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=16).astype(np.int32)
    return (rng.normal(size=(16, 8, 8, 3)) + labels[:, None, None, None]).astype("f4"), labels


def _recipe(name, **options):
    recipe = BY_NAME[name]
    few = {"epochs": 1, "batch_size": 8, "crop_padding": 0, "flip": False}
    return recipe._replace(options=recipe.options._replace(**few, **options))


def _module(recipe):
    return SearchedNetwork(layout=LAYOUT, classes=3, norm="batch", bypass=recipe.bypass)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_recipe_is_its_parts(name, images, tmp_path):
    recipe = _recipe(name)
    module, key, told = _module(recipe), jax.random.key(3), []
    found = train_recipe(
        module, recipe, images, images, key=key, checkpoint_dir=tmp_path, progress=told.append
    )
    assert told == list(found.supernet.history)
    params = parameters.draw(module, key, recipe.initialization)
    split = parameters.split(module, params, recipe.trained, classifier=recipe.classifier)
    paths = sampling.strict_fair(CHOICES)
    expected = train(module, split, *images, recipe.options, paths=paths)
    chex.assert_trees_all_equal(found.supernet.params, expected.params)
    judged = inherited(module, expected.params, ARCHS, *images)
    losses = found.by_inheritance(ARCHS)["inherited loss"]
    np.testing.assert_array_equal(losses, -judged.loss)
    modes = {"published": ["block", "literal", "share", "skip"], "fair": ["block"]}[name]
    read = found.by_indicators(ARCHS)
    assert list(read) == [f"indicators, {mode}" for mode in modes]
    table = indicators.score_table(indicators.read(module, expected.params), modes[-1])
    by_table = indicators.score(table, ARCHS)
    np.testing.assert_array_equal(read[f"indicators, {modes[-1]}"], by_table)
    signal = {"published": by_table, "fair": losses}[name]
    np.testing.assert_array_equal(found.signal(ARCHS), signal)
    again = train_recipe(
        module, recipe, images, images, key=key, checkpoint_dir=tmp_path, progress=told.append
    )
    assert len(told) == len(found.supernet.history)  # nothing was trained again
    chex.assert_trees_all_equal(again.supernet.params, expected.params)


def test_divergence_is_an_error(images):
    recipe = _recipe("fair", learning_rate=1e30)
    with pytest.raises(ValueError, match=r"diverged at step 2: got a loss of .*; lower the"):
        train_recipe(_module(recipe), recipe, images, images, key=jax.random.key(0))
