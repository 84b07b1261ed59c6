"""ImageNet16: ImageNet at 16 x 16 pixels, from its official archive.

Chrabaszcz, Loshchilov and Hutter, "A downsampled variant of ImageNet as an alternative to the CIFAR
datasets", 2017, arXiv:1707.08819. NAS-Bench-201 (Dong and Yang, 2020, arXiv:2001.00326) uses its
first 120 classes as "ImageNet16-120"; the channel moments are those it gives.
"""

import os
from pathlib import Path

import numpy as np

from jaxnas.datasets.dataset import Dataset, create
from jaxnas.datasets.restricted import read_batch

_SIZE = 16
_ALL_CLASSES = 1000
_MOMENTS = (
    tuple(value / 255 for value in (122.68, 116.66, 104.01)),
    tuple(value / 255 for value in (63.22, 61.26, 65.09)),
)


def load_imagenet16(folder: str | os.PathLike[str], num_classes: int = 120) -> Dataset:
    """Return the first `num_classes` classes of ImageNet16.

    The validation images serve as the test split, as in NAS-Bench-201.

    Args:
        folder: with `train_data_batch_1` to `train_data_batch_10` and `val_data`.
        num_classes: how many of the 1,000 classes to keep; the files number them from 1, the data
            set from 0.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, a label is not in 1..1000, or `num_classes` is neither.
    """
    if not 1 <= num_classes <= _ALL_CLASSES:
        raise ValueError(f"num_classes must be in 1..{_ALL_CLASSES}: got {num_classes}.")
    root = Path(folder)
    names = [f"train_data_batch_{i}" for i in range(1, 11)]
    images, labels = zip(*(_read(root / name, num_classes) for name in names), strict=True)
    return create(
        f"imagenet16-{num_classes}",
        (np.concatenate(images), np.concatenate(labels)),
        _read(root / "val_data", num_classes),
        [f"class {i}" for i in range(num_classes)],
        _MOMENTS,
    )


def _read(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the kept images of one file and their labels, counted from 0."""
    images, labels = read_batch(path, "labels", _SIZE)
    if labels.size and not 1 <= labels.min() <= labels.max() <= _ALL_CLASSES:
        raise ValueError(
            f"{path} must hold labels in 1..{_ALL_CLASSES}: got {labels.min()}..{labels.max()}; "
            "get the file again."
        )
    kept = labels <= num_classes
    return images[kept], labels[kept] - 1
