"""Writers of tiny archives in the official formats."""

import struct

import numpy as np
import pytest


def _text(content: bytes) -> bytes:
    short = len(content) < 256
    return (b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))) + (
        content
    )


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _array(array: np.ndarray) -> bytes:
    """The opcodes with which NumPy under Python 2 wrote `uint8[N, M]`."""
    dtype = b"cnumpy\ndtype\n" + _text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + _text(b"|") + b"NNN" + _integer(-1) + _integer(-1) + b"K\x00tb"
    state = b"(K\x01" + b"".join(map(_integer, array.shape)) + b"\x86" + dtype
    state += b"\x89" + _text(array.tobytes()) + b"t"
    new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _text(b"b")
    return new + b"\x87R" + state + b"b"


@pytest.fixture
def python2_batch():
    """`python2_batch(images, labels, labels_key)`: the bytes of an official pickled batch."""

    def write(images, labels, labels_key="labels") -> bytes:
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        content = b"\x80\x02}(" + _text(b"data") + _array(rows)
        content += _text(labels_key.encode()) + b"](" + b"".join(map(_integer, labels)) + b"e"
        return content + _text(b"batch_label") + _text(b"training batch 1 of 5") + b"u."

    return write


@pytest.fixture
def images():
    """`images(count, size=32, seed=0)`: random `uint8[count, size, size, 3]`."""

    def make(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    return make
