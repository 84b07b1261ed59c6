"""What a step of a supernet costs, and that one of ImageNet's size takes one."""

import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.spaces.mobilenetv2_space import BY_LAYOUT, SearchedNetwork, num_choices
from jaxnas.supernet import parameters, recipes, sampling, train
from jaxnas.supernet.training import _gradient as gradient

pytestmark = pytest.mark.slow


def test_normalizations_alone_take_less_and_orthogonal_kernels_no_less():
    """Source: the claims of arXiv 2307.02263; the arithmetic of a backward pass allows 2/3."""
    module = SearchedNetwork(layout=BY_LAYOUT["img32"], bypass="norm")
    options = recipes.BY_NAME["published"].options
    images = jax.random.normal(jax.random.key(0), (32, 32, 32, 3))
    labels = jnp.arange(32) % 10
    paths = sampling.strict_fair(num_choices(module.layout))(jax.random.key(1), 0)
    kinds = {}
    for name, initialization, trained in (
        ("qr", "qr", "norms"),
        ("gauss", "gauss", "norms"),
        ("all", "qr", "all"),
    ):
        params = parameters.draw(module, jax.random.key(2), initialization)
        found = parameters.split(module, params, trained)
        kinds[name] = (module, options, found.frozen, found.trained)

    def seconds(name, path):
        start = time.process_time()
        jax.block_until_ready(gradient(*kinds[name], path, images, labels))
        return time.process_time() - start

    def ratio(first, second, rounds):
        """Median; within a round each follows each, for it matters what left the caches behind."""
        each = []
        for path in itertools.islice(itertools.cycle(paths), rounds):
            times = [seconds(name, path) for name in (first, second, second, first)]
            each.append((times[0] + times[3]) / (times[1] + times[2]))
        return statistics.median(each)

    for name in kinds:
        seconds(name, paths[0])
    normalizations, orthogonal = ratio("qr", "all", 6), ratio("qr", "gauss", 30)
    print(f"norms / all {normalizations:.2f}, orthogonal / Gaussian {orthogonal:.2f}")
    assert normalizations <= 0.6
    assert 0.9 < orthogonal < 1.1


def test_a_supernet_of_imagenet_size_takes_a_step():
    module = SearchedNetwork(layout=BY_LAYOUT["spos"], classes=1000, bypass="norm")
    recipe = recipes.BY_NAME["published"]
    params = parameters.draw(module, jax.random.key(0), recipe.initialization)
    found = parameters.split(module, params, recipe.trained, classifier=recipe.classifier)
    images = np.asarray(jax.random.normal(jax.random.key(1), (2, 224, 224, 3)))
    options = recipe.options._replace(epochs=1, batch_size=2)
    path = sampling.uniform(num_choices(module.layout))
    after = train(module, found, images, np.arange(2), options, paths=path)
    assert not after.diverged
    assert np.isfinite(after.history[-1].loss)
    flat = parameters.flatten(after.params)
    moved = [name for name in found.trained if not np.array_equal(flat[name], found.trained[name])]
    assert len(moved) >= 20  # of each of 21 layers a scale or a bias
