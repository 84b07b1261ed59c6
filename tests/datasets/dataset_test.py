import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.datasets.dataset import create, digest
from jaxnas.types import Batch


def _create(images, labels, **options):
    split = np.asarray(images), np.asarray(labels)
    return create("toy", split, options.pop("test", split), options.pop("names", "ab"), **options)


GOOD = np.arange(16, dtype=np.uint8).reshape(2, 2, 2, 2)


def test_moments_by_hand():
    # Channel 0 holds 0 and 255 in equal parts, channel 1 only 51.
    images = np.stack([[[0, 255]], [[51, 51]]], axis=-1).astype(np.uint8)[None]
    dataset = _create(images, [1])
    np.testing.assert_allclose(dataset.mean, [0.5, 0.2], rtol=1e-6)
    np.testing.assert_allclose(dataset.std, [0.5, 1.0], rtol=1e-6)


def test_moments_agree_with_numpy_for_both_types():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 4, 3, 2), dtype=np.uint8)
    for images, scale in ((pixels, 255), (rng.normal(3, 2, (5, 4, 3, 2)), 1)):
        dataset = _create(images, [0, 1, 0, 1, 0])
        np.testing.assert_allclose(dataset.mean, images.mean((0, 1, 2)) / scale, rtol=1e-6)
        np.testing.assert_allclose(dataset.std, images.std((0, 1, 2)) / scale, rtol=1e-5)


def test_a_constant_float_channel_is_not_blown_up():
    dataset = _create(np.full((3, 8, 8, 1), 0.1), [0, 1, 0])
    assert dataset.std.tolist() == [1.0]


def test_arrays_are_typed_and_cannot_be_written_to():
    images = np.zeros((2, 2, 2, 1), np.float64)
    dataset = _create(images, np.array([0, 1], np.uint8))
    assert dataset.x_train.dtype == np.float32
    assert dataset.y_train.dtype == np.int32
    for array in (dataset.x_train, dataset.y_train, dataset.mean):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    images[...] = 1  # the caller's own array stays free


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD[0], [0, 1], r"train images must be \[N, H, W, C\]: got shape \[2, 2, 2\]"),
        (GOOD.astype(np.int64), [0, 1], "uint8 or floating: got int64"),
        (GOOD.astype(object), [0, 1], "images must be an array of numbers: got object"),
        (GOOD[:0], [], r"must not be empty: got shape \[0, 2, 2, 2\]"),
        (GOOD, [0], r"must be \[2\], one an image: got shape \[1\]"),
        (GOOD, [[0], [1]], r"one an image: got shape \[2, 1\]"),
        (GOOD, [0.0, 1.0], "must be integers: got float64"),
        (GOOD, [-5, 1], r"must be in 0\.\.1: got -5\.\.1"),
        (GOOD, [0, 2], r"must be in 0\.\.1: got 0\.\.2"),
        (GOOD, [0, 2**32], r"must be in 0\.\.1: got 0\.\.4294967296"),
        (np.where(GOOD == 3, np.nan, GOOD), [0, 1], "NaN or infinity in 1 of 2 images"),
        (np.where(GOOD % 8 == 3, np.inf, GOOD), [0, 1], "NaN or infinity in 2 of 2 images"),
    ],
)
def test_refuses_bad_splits(images, labels, message):
    with pytest.raises(ValueError, match=message):
        _create(images, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": (GOOD[:, :1], np.array([0, 1]))}, r"uint8\[2, 2, 2\] and uint8\[1, 2, 2\]"),
        ({"test": (GOOD / 255, np.array([0, 1]))}, "one shape and type"),
        ({"test": (GOOD, np.array([0]))}, "test labels must be"),
        ({"moments": ([0.5], [1.0])}, "each of the 2 channels"),
        ({"moments": ([0.5, 0.5], [1.0, 0.0])}, "std > 0"),
        ({"moments": ([0.5, np.nan], [1.0, 1.0])}, "must be finite"),
    ],
)
def test_refuses_what_does_not_fit_together(options, message):
    with pytest.raises(ValueError, match=message):
        _create(GOOD, [0, 1], **options)


def test_digest_tells_values_types_and_shapes_apart():
    batch = Batch(jnp.zeros((2, 3)), jnp.array([0, 1]))
    variants = [
        batch,
        Batch(jnp.zeros((3, 2)), batch.labels),
        Batch(jnp.zeros((2, 3), jnp.int32), batch.labels),
        Batch(batch.inputs.at[1, 2].set(1e-6), batch.labels),
        Batch(batch.inputs, jnp.array([1, 0])),
    ]
    digests = {digest(variant) for variant in variants}
    assert len(digests) == len(variants)
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in digests)
    assert digest(Batch(np.zeros((2, 3), np.float32), np.array([0, 1], np.int32))) == digest(batch)


def test_digest_of_a_data_set_sees_its_content_alone():
    first = _create(GOOD, [0, 1])
    second = create("other", (GOOD.copy(), [0, 1]), (GOOD, [0, 1]), ["x", "y"])
    assert digest(first) == digest(second)
    assert digest(first) != digest(_create(GOOD, [0, 1], names="abc"))
    assert digest(first) != digest(_create(GOOD, [0, 1], moments=([0.0, 0.0], [1.0, 1.0])))
