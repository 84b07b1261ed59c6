"""Image sets from scikit-learn, from TensorFlow Datasets and from `.npz` files."""

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from jaxnas.datasets.dataset import Dataset, create

_Split = tuple[np.ndarray, np.ndarray]
_TEST_FRACTION = 0.2
_SPLIT = ("x_train", "y_train", "x_test", "y_test")
_WHOLE = ("x", "y")
# What DEFLATE makes of a byte at most.
_MOST_INFLATED = 1032


def load_digits() -> Dataset:
    """Return the 1,797 handwritten digits of scikit-learn, 8 x 8 x 1 in 0..1; a fifth for testing.

    Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI machine learning
    repository, 1998.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'The digits need scikit-learn; run: pip install "jaxnas[datasets]".'
        ) from error
    digits = datasets.load_digits()
    images = np.asarray(digits.images, np.float32)[..., None] / 16
    train, test = _split(images, np.asarray(digits.target))
    return create("digits", train, test, [str(i) for i in range(10)])


def load_tfds(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return an image classification set of TensorFlow Datasets, downloaded if it is not there.

    Its images must all have one size. The split "test" is the test split; where there is none, it
    is "validation".

    Args:
        name: as in the catalogue, https://www.tensorflow.org/datasets/catalog; e.g. "mnist".
        data_dir: where the prepared sets are; None is the library's default.

    Raises:
        ImportError: if tensorflow-datasets is not installed.
        ValueError: if the set is unknown, lacks a split or is no image classification set.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            'tfds needs tensorflow-datasets; run: pip install "jaxnas[datasets]".'
        ) from error
    try:
        builder = tfds.builder(name, data_dir=None if data_dir is None else os.fspath(data_dir))
    except ValueError as error:
        raise ValueError(
            f'tensorflow-datasets knows no set "{name}"; choose an image classification set of its '
            "catalogue."
        ) from error
    keys = builder.info.supervised_keys
    if not keys or not hasattr(builder.info.features[keys[1]], "names"):
        raise ValueError(f"tfds:{name} has no class labels; choose an image classification set.")
    builder.download_and_prepare()
    splits = builder.info.splits
    test_name = "test" if "test" in splits else "validation"
    missing = {"train", test_name} - set(splits)
    if missing:
        raise ValueError(
            f"tfds:{name} must have the splits train and test: got {sorted(splits)}; choose "
            "another set."
        )

    def read(split: str) -> _Split:
        examples = builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
        images, labels = tfds.as_numpy(examples)
        return images, labels

    return create(name, read("train"), read(test_name), builder.info.features[keys[1]].names)


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Return a data set from a NumPy archive.

    The archive holds `x_train, y_train, x_test, y_test`, or `x, y`, of which a fifth becomes the
    test split. Images are `[N, H, W, C]`, or `[N, H, W]` for one channel, uint8 or floating; labels
    are integers from 0, `[N]` or `[N, 1]`. An entry `class_names` names the classes; without it,
    each from 0 to the largest must occur.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        ValueError: if it is not such an archive; it is never unpickled.
    """
    path = Path(path)
    arrays = _read_archive(path)
    if "x_train" in arrays:
        train = _examples(arrays["x_train"], arrays["y_train"])
        test = _examples(arrays["x_test"], arrays["y_test"])
    else:
        images, labels = _examples(arrays["x"], arrays["y"])
        if labels.ndim != 1 or images.shape[:1] != labels.shape:
            raise ValueError(
                f"{path} must hold one label y for each image x: got shapes {list(images.shape)} "
                f"and {list(labels.shape)}."
            )
        train, test = _split(images, labels)
    if "class_names" in arrays:
        class_names = [str(value) for value in arrays["class_names"].ravel()]
    else:
        num_classes = np.unique(np.concatenate([train[1].ravel(), test[1].ravel()])).size
        class_names = [str(i) for i in range(num_classes)]
    return create(path.stem, train, test, class_names)


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a data set in an archive; what else is in it is not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = {each.removesuffix(".npy") for each in archive.namelist()}
            names = next((each for each in (_SPLIT, _WHOLE) if there.issuperset(each)), ())
            more = there & {"class_names"}
            arrays = {name: _read_member(archive, name) for name in (*names, *more)}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; give the path of an .npz file.") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{path} is a folder; give the path of an .npz file.") from error
    except PermissionError:
        raise
    except Exception as error:  # what a damaged archive raises depends on the damaged byte
        raise ValueError(
            f"{path} cannot be read as an .npz archive of plain arrays: got "
            f"'{str(error) or type(error).__name__}'; it is damaged or of another kind, write it "
            "with numpy.savez."
        ) from error
    if not names:
        raise ValueError(
            f"{path} must hold {', '.join(_SPLIT)}, or {', '.join(_WHOLE)}: got {sorted(there)}."
        )
    return arrays


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return an array whose bytes are there: a header may promise any number of them."""
    stored = archive.getinfo(f"{name}.npy")
    with archive.open(stored) as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which are never unpickled")
        promised = math.prod(shape) * dtype.itemsize
        there = min(stored.file_size, _MOST_INFLATED * stored.compress_size) - file.tell()
        if promised > there:
            raise ValueError(f"{name} promises {promised} bytes and holds {max(there, 0)}")
    with archive.open(stored) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _examples(images: np.ndarray, labels: np.ndarray) -> _Split:
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return images, labels


def _split(images: np.ndarray, labels: np.ndarray) -> tuple[_Split, _Split]:
    """Return a training and a test split, drawn once and for all."""
    order = np.random.default_rng(0).permutation(len(images))
    cut = len(images) - int(_TEST_FRACTION * len(images))
    train, test = order[:cut], order[cut:]
    return (images[train], labels[train]), (images[test], labels[test])
