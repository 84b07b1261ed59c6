"""CIFAR-10 and CIFAR-100 from their official archives, and the sample that jaxnas ships.

The data sets, their file formats and their classes: A. Krizhevsky, "Learning multiple layers of
features from tiny images", technical report, University of Toronto, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. The channel moments are those of NAS-Bench-201
(Dong and Yang, 2020, arXiv:2001.00326).
"""

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from jaxnas.datasets.dataset import Dataset, create
from jaxnas.datasets.restricted import planes_to_images, read_batch, read_bytes

_SIZE = 32
_Split = tuple[np.ndarray, np.ndarray]
_Folder = str | os.PathLike[str]

_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR10_MOMENTS = (
    tuple(value / 255 for value in (125.3, 123.0, 113.9)),
    tuple(value / 255 for value in (63.0, 62.1, 66.7)),
)
_CIFAR100_MOMENTS = (
    tuple(value / 255 for value in (129.3, 124.1, 112.4)),
    tuple(value / 255 for value in (68.2, 65.4, 70.4)),
)


def bundled_cifar10() -> Dataset:
    """Return the sample of CIFAR-10 that is part of jaxnas: 1,000 training and 500 test images.

    It is real and lossless: in the official order, the first 100 images of each class of
    `data_batch_1`, and the first 50 of each class of `test_batch`. Source: Krizhevsky, "Learning
    multiple layers of features from tiny images", technical report, University of Toronto, 2009.
    The moments are those of the whole CIFAR-10.
    """
    resource = resources.files("jaxnas.datasets").joinpath("cifar10_sample.npz")
    with resource.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        train = arrays["x_train"], arrays["y_train"]
        test = arrays["x_test"], arrays["y_test"]
    return create("cifar10-sample", train, test, _CIFAR10_NAMES.split(), _CIFAR10_MOMENTS)


def load_cifar10(folder: str | os.PathLike[str]) -> Dataset:
    """Return CIFAR-10 from its unpacked official archive, "python version" or "binary version".

    Args:
        folder: `cifar-10-batches-py`, `cifar-10-batches-bin`, or the folder that holds one of them.

    Raises:
        FileNotFoundError: if the folder holds neither version, or a file of it is missing.
        ValueError: if a file is damaged or a label is out of range.
    """
    found, binary = _find(folder, "cifar-10-batches-py", "cifar-10-batches-bin", "test_batch")

    def read(name: str) -> _Split:
        if binary:
            return _read_binary(found / f"{name}.bin", label_bytes=1)
        return read_batch(found / name, "labels", _SIZE)

    train = _concatenate(read, [f"data_batch_{i}" for i in range(1, 6)])
    return create("cifar10", train, read("test_batch"), _CIFAR10_NAMES.split(), _CIFAR10_MOMENTS)


def load_cifar100(folder: str | os.PathLike[str]) -> Dataset:
    """Return CIFAR-100 with its 100 fine labels, "python version" or "binary version".

    Args:
        folder: `cifar-100-python`, `cifar-100-binary`, or the folder that holds one of them.

    Raises:
        FileNotFoundError: if the folder holds neither version, or a file of it is missing.
        ValueError: if a file is damaged or a label is out of range.
    """
    found, binary = _find(folder, "cifar-100-python", "cifar-100-binary", "test")

    def read(name: str) -> _Split:
        if binary:
            return _read_binary(found / f"{name}.bin", label_bytes=2)
        return read_batch(found / name, "fine_labels", _SIZE)

    return create(
        "cifar100", read("train"), read("test"), _CIFAR100_NAMES.split(), _CIFAR100_MOMENTS
    )


def _find(folder: _Folder, python_name: str, binary_name: str, witness: str) -> tuple[Path, bool]:
    """Return the folder that holds the file `witness`, and whether it is the binary version."""
    root = Path(folder)
    for candidate in (root, root / python_name, root / binary_name):
        for file, binary in ((witness, False), (f"{witness}.bin", True)):
            if (candidate / file).is_file():
                return candidate, binary
    raise FileNotFoundError(
        f'{root} holds neither "{witness}" ({python_name}) nor "{witness}.bin" ({binary_name}); '
        "unpack an archive of https://www.cs.toronto.edu/~kriz/cifar.html there."
    )


def _read_binary(path: Path, label_bytes: int) -> _Split:
    """Return a binary batch: records of `label_bytes` labels, the finest last, and three planes."""
    content = np.frombuffer(read_bytes(path), np.uint8)
    record = label_bytes + 3 * _SIZE * _SIZE
    if content.size == 0 or content.size % record:
        raise ValueError(
            f"{path} must be a whole number of records of {record} bytes: got {content.size} "
            "bytes; the file is truncated, get it again."
        )
    records = content.reshape(-1, record)
    images = planes_to_images(records[:, label_bytes:], _SIZE, path)
    return images, records[:, label_bytes - 1].astype(np.int64)


def _concatenate(read: Callable[[str], _Split], names: list[str]) -> _Split:
    images, labels = zip(*(read(name) for name in names), strict=True)
    return np.concatenate(images), np.concatenate(labels)
