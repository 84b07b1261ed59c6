import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.datasets.dataset import create
from jaxnas.datasets.sampling import batch, normalize, resize

COUNTS = (2, 9, 5)


@pytest.fixture
def dataset():
    """Image i is constant i; 2, 9 and 5 examples of three classes, shuffled."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(3), COUNTS))
    images = np.tile(np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1), (1, 4, 4, 2))
    split = images, labels
    return create("toy", split, (images[:3], labels[:3]), "abc", ([0.0, 0.5], [1.0, 0.25]))


def _drawn(dataset, drawn):
    """The indices that were drawn, read off the images."""
    return np.rint(np.asarray(drawn.inputs[:, 0, 0, 0]) * 255).astype(int)


def test_normalize_by_hand(dataset):
    images = np.array([[[[0, 255]]], [[[51, 0]]]], np.uint8)
    expected = [[[[0.0, 2.0]]], [[[0.2, -2.0]]]]  # (0/255 - 0)/1, (255/255 - 0.5)/0.25, ...
    np.testing.assert_allclose(normalize(dataset, images), expected, rtol=1e-6)
    # Floating images are on the scale of the moments already.
    np.testing.assert_allclose(normalize(dataset, images / 255), expected, rtol=1e-6)
    assert normalize(dataset, images).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(4, 4, 2), (1, 4, 4, 3), (1, 2, 4, 4)])
def test_normalize_refuses_other_shapes(dataset, shape):
    with pytest.raises(ValueError, match=r"must be \[B, H, W, 2\] for toy: got shape"):
        normalize(dataset, np.zeros(shape))


def test_resize_keeps_shrinks_and_grows():
    images = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(resize(images, 4), images)
    # Mirror symmetric in value: the mean survives shrinking to one pixel and to two by two.
    np.testing.assert_allclose(resize(images, 1), [[[[7.5]]]], rtol=1e-6)
    np.testing.assert_allclose(resize(images, 2).mean(), 7.5, rtol=1e-6)
    assert resize(images.astype(np.uint8), 7).shape == (1, 7, 7, 1)
    np.testing.assert_allclose(resize(np.full((2, 3, 5, 1), 6), 8), 6.0, rtol=1e-6)


def test_resize_refuses_bad_input():
    with pytest.raises(ValueError, match=r"image size must be an integer from 1 .*: got 0"):
        resize(np.zeros((1, 2, 2, 1)), 0)
    with pytest.raises(ValueError, match=r"got shape \[2, 2, 1\]"):
        resize(np.zeros((2, 2, 1)), 1)


@pytest.mark.parametrize("size", range(1, 17))
def test_balanced_batches_are_as_even_as_possible(dataset, size):
    drawn = batch(dataset, size, seed=size)
    counts = np.bincount(drawn.labels, minlength=3)
    # Any class that could give one more has at least as many as the fullest, less one.
    for got, available in zip(counts, COUNTS, strict=True):
        assert got == available or got >= counts.max() - 1
    indices = _drawn(dataset, drawn)
    assert len(set(indices)) == size
    np.testing.assert_array_equal(dataset.y_train[indices], drawn.labels)


def test_batches_depend_on_the_seed_alone_and_are_nested(dataset):
    first, again = batch(dataset, 8, seed=3), batch(dataset, 8, seed=3)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    small = batch(dataset, 5, seed=3)
    np.testing.assert_array_equal(small.inputs, first.inputs[:5])
    others = [tuple(_drawn(dataset, batch(dataset, 8, seed=seed))) for seed in range(5)]
    assert len(set(others)) == 5


def test_no_class_is_favored(dataset):
    firsts = [int(batch(dataset, 1, seed=seed).labels[0]) for seed in range(60)]
    assert np.bincount(firsts, minlength=3).min() >= 10


def test_unbalanced_batches_are_uniform_draws(dataset):
    drawn = [batch(dataset, 4, seed=seed, class_balanced=False) for seed in range(50)]
    share = np.mean([np.asarray(one.labels) == 1 for one in drawn])
    assert abs(share - 9 / 16) < 0.1  # standard error about 0.03
    assert len(set(_drawn(dataset, batch(dataset, 16, seed=0, class_balanced=False)))) == 16


def test_batch_types_sizes_and_split(dataset):
    drawn = batch(dataset, 3, seed=0, image_size=8, split="test")
    assert drawn.inputs.shape == (3, 8, 8, 2)
    assert (drawn.inputs.dtype, drawn.labels.dtype) == (jnp.float32, jnp.int32)
    assert sorted(_drawn(dataset, drawn)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "from 1 to 16: got 0; toy has 16 train examples"),
        ({"size": 17}, "from 1 to 16: got 17; toy has 16 train"),
        ({"size": 4, "split": "test"}, "from 1 to 3: got 4; toy has 3 test examples"),
        ({"size": 4, "split": "valid"}, "split must be one of train, test: got 'valid'"),
        ({"size": 4, "seed": -1}, "seed must be an integer from 0 .*: got -1"),
        ({"size": 4, "image_size": 0}, "image size must be an integer from 1 .*: got 0"),
    ],
)
def test_batch_refuses_bad_input(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        batch(dataset, **{"seed": 0, **options})
