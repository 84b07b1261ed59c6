"""What a score or a training run takes from a data set: normalized images, batches of examples."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas.datasets.dataset import Dataset
from jaxnas.types import Array, Batch


def normalize(dataset: Dataset, images: ArrayLike) -> Array:
    """Return `images` `[B, H, W, C]` with mean 0 and standard deviation 1, `float32`.

    Computes `(images / 255 - mean) / std` for uint8 images, `(images - mean) / std` for others.

    Raises:
        ValueError: if `images` has another rank or number of channels than the data set.
    """
    check.instance("dataset", dataset, Dataset, "a Dataset")
    pixels = jnp.asarray(check.array("images", images))
    channels = dataset.mean.shape[0]
    if pixels.ndim != 4 or pixels.shape[-1] != channels:
        raise ValueError(
            f"images must be [B, H, W, {channels}] for {dataset.name}: got shape "
            f"{list(pixels.shape)}; put the channels last."
        )
    scale = 255.0 if pixels.dtype == jnp.uint8 else 1.0
    mean, std = (values.reshape(1, 1, 1, channels) for values in (dataset.mean, dataset.std))
    return (pixels.astype(jnp.float32) / scale - mean) / std


def resize(images: ArrayLike, size: int) -> Array:
    """Return `images` `[B, H, W, C]` as `float32[B, size, size, C]`.

    Uses bilinear interpolation, widened to the average of an area where it shrinks the image
    (`antialias`). Images that have the size already keep their values.

    Raises:
        ValueError: if `images` is not of rank 4 or `size` is below 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxnas import datasets
        >>> datasets.resize(jnp.ones((2, 32, 32, 3)), 16).shape
        (2, 16, 16, 3)
    """
    pixels = jnp.asarray(check.array("images", images)).astype(jnp.float32)
    if pixels.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C]: got shape {list(pixels.shape)}.")
    check.integer("The image size", size, 1, 2**16)
    shape = (pixels.shape[0], size, size, pixels.shape[3])
    if pixels.shape == shape:
        return pixels
    return jax.image.resize(pixels, shape, method="linear", antialias=True)


def batch(
    dataset: Dataset,
    size: int,
    *,
    seed: int,
    image_size: int | None = None,
    class_balanced: bool = True,
    split: Literal["train", "test"] = "train",
) -> Batch:
    """Return `size` normalized examples, drawn without replacement.

    The draw depends on `seed` alone, and a smaller batch of the same seed is the beginning of a
    larger one.

    Args:
        dataset: where to draw from.
        size: number of examples `B`.
        seed: of the draw.
        image_size: height and width to resize to; None keeps the data set's.
        class_balanced: draw from the classes in turn, so that their numbers differ by at most one
            until a class is exhausted; otherwise draw uniformly.
        split: "train" or "test".

    Returns:
        Inputs `float32[B, H, W, C]` and labels `int32[B]`.

    Raises:
        ValueError: if `size` is below 1 or above the size of the split, `seed` is negative, or the
            split is unknown.

    Examples:
        >>> from jaxnas import datasets
        >>> images, labels = datasets.batch(datasets.load(), 20, seed=0)
        >>> images.shape, sorted(labels.tolist())[:4]
        ((20, 32, 32, 3), [0, 0, 1, 1])
    """
    check.instance("dataset", dataset, Dataset, "a Dataset")
    check.choice("split", split, ("train", "test"))
    train = split == "train"
    images = dataset.x_train if train else dataset.x_test
    labels = dataset.y_train if train else dataset.y_test
    advice = f"; {dataset.name} has {len(labels)} {split} examples."
    check.integer("The batch size", size, 1, len(labels), advice)
    check.integer("seed", seed, 0, 2**63)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    if class_balanced:
        order = order[_turns(rng, labels[order], dataset.num_classes)]
    chosen = order[:size]
    inputs = normalize(dataset, images[chosen])
    if image_size is not None:
        inputs = resize(inputs, image_size)
    return Batch(inputs, jnp.asarray(labels[chosen]))


def _turns(rng: np.random.Generator, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the order `int[N]` in which classes take turns, in a random but fixed rotation."""
    return np.lexsort((rng.permutation(num_classes)[labels], rank_in_class(labels)))


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """Return how many of the same class, `int[N]` from 0, come before each label."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.empty_like(by_class)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank
