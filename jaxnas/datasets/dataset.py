"""A labeled image set: its type, its checks and its fingerprint."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas import check
from jaxnas.types import Batch


class Dataset(NamedTuple):
    """Labeled images in host memory, not yet normalized.

    Attributes:
        name: as in flags, tables and plots.
        x_train: `[N, H, W, C]`, uint8 in 0..255, or float32 on any scale (0..1 is usual).
        y_train: `int32[N]`, in `[0, num_classes)`.
        x_test: `[M, H, W, C]`, of the same type.
        y_test: `int32[M]`.
        num_classes: number of classes `K`.
        class_names: `K` names.
        mean: `float32[C]`, mean of each channel; of uint8 images on the scale 0..1.
        std: `float32[C]`, standard deviation of each channel, on the scale of `mean`.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def __repr__(self) -> str:
        images = "x".join(map(str, self.x_train.shape[1:]))
        return (
            f"Dataset({self.name}, {len(self.x_train)} training and {len(self.x_test)} test images "
            f"of {images}, {self.num_classes} classes)"
        )


def create(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
    moments: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Dataset:
    """Return a valid `Dataset` whose arrays cannot be written to.

    Args:
        name: as in flags, tables and plots.
        train: images `[N, H, W, C]`, uint8 or floating, and integer labels `[N]`.
        test: the same for the test split.
        class_names: one name a class.
        moments: mean and standard deviation of each channel; None computes them from `train`. A
            channel that never varies gets standard deviation 1.

    Raises:
        ValueError: where `validate` does.
    """
    (x_train, y_train), (x_test, y_test) = _pair("train", train), _pair("test", test)
    x_train, x_test = _as_pixels(x_train), _as_pixels(x_test)
    mean, std = (
        np.asarray(check.array("moments", values), np.float32)
        for values in (_moments(x_train) if moments is None else _pair("moments", moments))
    )
    class_names = check.items("class_names", class_names)
    dataset = Dataset(
        name=name,
        x_train=_frozen(x_train),
        y_train=_frozen(_as_labels(y_train)),
        x_test=_frozen(x_test),
        y_test=_frozen(_as_labels(y_test)),
        num_classes=len(class_names),
        class_names=tuple(class_names),
        mean=_frozen(mean),
        std=_frozen(std),
    )
    validate(dataset)
    return dataset


def validate(dataset: Dataset) -> None:
    """Check shapes, types, labels and numbers of a data set.

    Raises:
        ValueError: if an array has the wrong shape or type, a split is empty, images and labels
            differ in number, the splits differ in shape, a label is out of range, an image holds
            NaN or infinity, or names or moments do not match the classes or channels.
    """
    check.instance("dataset", dataset, Dataset, "a Dataset")
    _validate_split(dataset, "train", dataset.x_train, dataset.y_train)
    _validate_split(dataset, "test", dataset.x_test, dataset.y_test)
    name, train, test = dataset.name, dataset.x_train, dataset.x_test
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise ValueError(
            f"{name}: x_train and x_test must hold images of one shape and type: got "
            f"{train.dtype}{list(train.shape[1:])} and {test.dtype}{list(test.shape[1:])}; "
            "convert one of them."
        )
    if len(dataset.class_names) != dataset.num_classes:
        raise ValueError(
            f"{name}: class_names must name every class: got {len(dataset.class_names)} names for "
            f"{dataset.num_classes} classes; give one name a class."
        )
    channels = train.shape[-1:]
    mean, std = dataset.mean, dataset.std
    moments_fit = mean.shape == std.shape == channels and bool(np.isfinite(mean).all())
    if not (moments_fit and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError(
            f"{name}: mean and std must be finite, with std > 0, one number for each of the "
            f"{channels[0]} channels: got mean={mean.tolist()} and std={std.tolist()}; "
            "leave them out to have them computed."
        )


def digest(data: Dataset | Batch) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of all arrays, to tell results apart.

    Types and shapes count as well as values; the names of a data set and its classes do not.
    """
    skipped = ("name", "class_names")
    kept = [value for field, value in data._asdict().items() if field not in skipped]
    sha = hashlib.sha256()
    for array in map(np.asarray, jax.tree.leaves(kept)):
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:16]


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.ndim != 4 or images.size == 0 or images.dtype not in (np.uint8, np.float32):
        # `validate` says what is wrong with the images; any moments do until then.
        return np.zeros(images.shape[-1:]), np.ones(images.shape[-1:])
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    count = images.size // images.shape[-1]
    # einsum casts block by block, so no float64 copy of the whole set ever exists.
    mean = np.einsum("nhwc->c", images, dtype=np.float64) / count
    square = np.einsum("nhwc,nhwc->c", images, images, dtype=np.float64) / count
    # Infinite images have moments that are no numbers; `validate` refuses the images.
    with np.errstate(invalid="ignore"):
        variance = square - mean**2
        # Below that, the difference is rounding and the channel constant.
        std = np.sqrt(np.where(variance > 1e-12 * square, variance, scale**2))
    return mean / scale, std / scale


def _pair(name: str, value: Any) -> list[Any]:
    pair = check.items(name, value)
    if len(pair) != 2:
        raise check.refuse(name, "a pair", value)
    return pair


def _as_pixels(images: np.ndarray) -> np.ndarray:
    images = np.asarray(check.array("images", images))
    return images.astype(np.float32) if images.dtype.kind == "f" else images


def _as_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(check.array("labels", labels))
    # int32 where nothing is lost; `validate` refuses the rest.
    fits = labels.dtype.kind in "iu" and labels.size and -1 <= labels.min() <= labels.max() < 2**31
    return labels.astype(np.int32) if fits else labels


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _validate_split(dataset: Dataset, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    where = f"{dataset.name}: {split}"
    if images.ndim != 4:
        problem = f"images must be [N, H, W, C]: got shape {list(images.shape)}"
    elif images.dtype not in (np.uint8, np.float32):
        problem = f"images must be uint8 or floating: got {images.dtype}"
    elif images.size == 0:
        problem = f"images must not be empty: got shape {list(images.shape)}"
    elif labels.shape != images.shape[:1]:
        problem = f"labels must be [{len(images)}], one an image: got shape {list(labels.shape)}"
    elif labels.dtype.kind not in "iu":
        problem = f"labels must be integers: got {labels.dtype}"
    elif labels.min() < 0 or labels.max() >= dataset.num_classes:
        problem = (
            f"labels must be in 0..{dataset.num_classes - 1}: "
            f"got {labels.min()}..{labels.max()}; number the classes from 0"
        )
    elif labels.dtype != np.int32:
        problem = f"labels must be int32: got {labels.dtype}"
    elif images.dtype == np.float32 and not np.isfinite(images).all():
        bad = int((~np.isfinite(images).all(axis=(1, 2, 3))).sum())
        problem = f"images must be finite: got NaN or infinity in {bad} of {len(images)} images"
    else:
        return
    raise ValueError(f"{where} {problem}.")
