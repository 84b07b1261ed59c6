"""Reading of data batches in the pickled "python version" format, without trusting them.

A pickle is a program. The batches of CIFAR and of downsampled ImageNet need only dictionaries,
lists, numbers, strings and NumPy arrays of numbers, so this reader admits the five names under
which NumPy pickles its arrays and nothing else. Those names stand for the inert records below: not
even NumPy's own reconstruction runs before shape, type and length have been checked.
"""

import io
import os
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np


class _DTypeRecord:
    """What a pickled `numpy.dtype` says."""

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = False) -> None:
        self.code = _name(code)
        self.byte_order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.byte_order = _name(state[1])


class _ArrayRecord:
    """What a pickled `numpy.ndarray` says."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_numpy(self) -> np.ndarray:
        """Return the array, after its checks."""
        _, shape, dtype, is_fortran, content = self.state
        code = f"{dtype.byte_order}{dtype.code}"
        if not re.fullmatch(r"[<>|=]([iu][1248]|f[248])", code):
            raise ValueError(f"an array of type {code!r} where numbers were expected")
        if not isinstance(shape, tuple) or not all(type(each) is int for each in shape):
            raise ValueError("an array whose shape is none")
        values = np.frombuffer(content, np.dtype(code))
        return values.reshape(shape, order="F" if is_fortran else "C")


def _name(text: object) -> str:
    if not isinstance(text, str | bytes) or len(text) > 8:
        raise ValueError("an array whose type is none")
    return text.decode("ascii") if isinstance(text, bytes) else text


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes in the encoding {encoding!r:.20}")
    return str.encode(text, "latin1")


def _reconstruct(kind: type, shape: tuple[int, ...], code: str | bytes) -> _ArrayRecord:
    return _ArrayRecord()


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ArrayRecord,
    ("numpy", "dtype"): _DTypeRecord,
    # How Python 3 writes bytes in the old protocols: text and the name of its encoding.
    ("_codecs", "encode"): _encode,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the record that stands for a NumPy name, and refuse every other name."""
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}, which no batch needs")
        return _ADMITTED[module, name]


def read_batch(
    path: str | os.PathLike[str], labels_key: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of one pickled data batch.

    Args:
        path: of the file: a pickled dictionary with "data" `uint8[N, 3 * size * size]`, color
            plane after color plane, and labels `[N]`.
        labels_key: the dictionary's name of the labels.
        size: height and width of an image.

    Returns:
        Images `uint8[N, size, size, 3]` and labels `int64[N]`, as they are in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds anything but a data batch, or asks to run code.
    """
    content = read_bytes(path)
    try:
        # The unpickler makes as much room as the largest number of a remembered object asks for.
        for code, argument, _ in pickletools.genops(content):
            if code.name.endswith("PUT") and int(argument or 0) > len(content):
                raise ValueError(f"it remembers {argument} objects in {len(content)} bytes")
        entries = _RestrictedUnpickler(io.BytesIO(content), encoding="bytes").load()
        rows, labels = (_array(entries, key) for key in ("data", labels_key))
    # A damaged pickle can raise almost anything; whatever it is, the file cannot be used.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as a data batch ({reason}); get the file again from its "
            "official source."
        ) from error
    images = planes_to_images(rows, size, path)
    if labels.dtype.kind not in "iu" or labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{path} must hold one integer label for each of its {len(rows)} images: got labels of "
            f"type {labels.dtype} and shape {list(labels.shape)}; get the file again."
        )
    return images, labels.astype(np.int64)


def _array(entries: dict[str | bytes, Any], key: str) -> np.ndarray:
    # Python 2 wrote the keys as bytes, Python 3 as text.
    value = entries.get(key, entries.get(key.encode()))
    if value is None:
        raise ValueError(f"there is no entry {key!r}")
    if isinstance(value, _ArrayRecord):
        return value.to_numpy()
    # Lists of lists that a small pickle repeats can be larger than any memory.
    if not isinstance(value, list) or not all(type(each) in (int, float) for each in value):
        raise ValueError(f"the entry {key!r} is neither an array nor a list of numbers")
    return np.asarray(value)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file of a data set.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing; unpack the whole official archive into that folder."
        ) from error


def planes_to_images(rows: np.ndarray, size: int, path: str | os.PathLike[str]) -> np.ndarray:
    """Return `uint8[N, size, size, 3]` from rows of three color planes.

    Raises:
        ValueError: if `rows` is not `uint8[N, 3 * size * size]`; the message names `path`.
    """
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * size * size:
        raise ValueError(
            f"{path} must hold images as uint8 rows of 3 x {size} x {size} numbers: got "
            f"{rows.dtype}{list(rows.shape)}; check that the folder is the right data set."
        )
    return np.ascontiguousarray(rows.reshape(-1, 3, size, size).transpose(0, 2, 3, 1))
