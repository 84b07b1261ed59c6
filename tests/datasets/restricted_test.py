import pickle
import time

import numpy as np
import pytest

from jaxnas.datasets.restricted import planes_to_images, read_batch


def _rows(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def test_python2_writer_is_read_alike_by_the_real_unpickler(python2_batch, images):
    pixels = images(3)
    entries = pickle.loads(python2_batch(pixels, [5, 0, 9]), encoding="bytes")
    np.testing.assert_array_equal(entries[b"data"], _rows(pixels))
    assert entries[b"labels"] == [5, 0, 9]


def test_reads_the_python2_format(tmp_path, python2_batch, images):
    pixels = images(3)
    (tmp_path / "batch").write_bytes(python2_batch(pixels, [5, 0, 9]))
    got, labels = read_batch(tmp_path / "batch", "labels", 32)
    np.testing.assert_array_equal(got, pixels)
    assert got.dtype == np.uint8
    assert labels.tolist() == [5, 0, 9]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_what_python3_writes(tmp_path, images, protocol, order):
    pixels = images(4, size=16)
    rows = np.asarray(_rows(pixels), order=order)
    labels = np.asarray([1, 2, 3, 1000], np.dtype(">i8"))
    content = pickle.dumps({"data": rows, "labels": labels}, protocol)
    (tmp_path / "batch").write_bytes(content)
    got, got_labels = read_batch(tmp_path / "batch", "labels", 16)
    np.testing.assert_array_equal(got, pixels)
    assert got_labels.tolist() == [1, 2, 3, 1000]


def test_reads_the_names_of_old_and_new_numpy(tmp_path, images):
    content = pickle.dumps({"data": _rows(images(1)), "labels": [0]}, 2)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    for name in (new, old):
        renamed = content.replace(new, name) if new in content else content.replace(old, name)
        assert name in renamed
        (tmp_path / "batch").write_bytes(renamed)
        assert read_batch(tmp_path / "batch", "labels", 32)[0].shape == (1, 32, 32, 3)


class _Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'touch %s'\ntR.", "os.system"),
        (b"cposix\nsystem\n(S'touch %s'\ntR.", "posix.system"),
        (b'c__builtin__\neval\n(S\'open("%s", "w")\'\ntR.', "__builtin__.eval"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"cnumpy\nload\n(S'%s'\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
    ],
)
def test_refuses_to_run_anything(tmp_path, content, name):
    victim = tmp_path / "victim"
    path = tmp_path / "batch"
    path.write_bytes(content.replace(b"%s", str(victim).encode()))
    with pytest.raises(ValueError, match=f"asks to run {name}, which no batch needs"):
        read_batch(path, "labels", 32)
    assert not victim.exists()


def test_refuses_an_attack_inside_a_good_batch(tmp_path, images):
    victim = tmp_path / "victim"
    attack = _Attack(exec, f"open({str(victim)!r}, 'w')")
    entries = {"data": _rows(images(1)), "labels": [0], "more": attack}
    (tmp_path / "batch").write_bytes(pickle.dumps(entries, 2))
    with pytest.raises(ValueError, match=r"asks to run __builtin__\.exec"):
        read_batch(tmp_path / "batch", "labels", 32)
    assert not victim.exists()


def test_refuses_arrays_of_objects_and_shapes_that_lie(tmp_path, python2_batch, images):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": np.array([[None]]), "labels": [0]}, 2))
    with pytest.raises(ValueError, match=r"an array of type '\|O8' where numbers were expected"):
        read_batch(path, "labels", 32)
    rows = np.zeros((2, 3072), np.uint8)
    lying = pickle.dumps({"data": rows, "labels": [0, 0]}, 2)
    path.write_bytes(lying.replace(b"K\x02M\x00\x0c\x86", b"K\x7fM\x00\x0c\x86"))
    with pytest.raises(ValueError, match=r"cannot be read as a data batch .*reshape"):
        read_batch(path, "labels", 32)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": [0]}, "there is no entry 'data'"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "there is no entry 'labels'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "one integer label for each"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [0.5]}, "one integer label for each"),
        ({"data": np.zeros((1, 3072), np.float32), "labels": [0]}, "got float32"),
        ({"data": np.zeros((1, 768), np.uint8), "labels": [0]}, r"got uint8\[1, 768\]"),
        ([1, 2], "cannot be read as a data batch"),
    ],
)
def test_refuses_what_is_no_batch(tmp_path, entries, message):
    (tmp_path / "batch").write_bytes(pickle.dumps(entries, 2))
    with pytest.raises(ValueError, match=message):
        read_batch(tmp_path / "batch", "labels", 32)


def test_refuses_truncated_empty_and_missing_files(tmp_path, python2_batch, images):
    path = tmp_path / "batch"
    content = python2_batch(images(2), [0, 1])
    for length in (0, 10, 1000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="cannot be read as a data batch"):
            read_batch(path, "labels", 32)
    with pytest.raises(FileNotFoundError, match="absent is missing; unpack"):
        read_batch(tmp_path / "absent", "labels", 32)


def test_planes_become_channels():
    rows = np.arange(12, dtype=np.uint8)[None]  # red 0..3, green 4..7, blue 8..11
    image = planes_to_images(rows, 2, "file")[0]
    assert image.tolist() == [[[0, 4, 8], [1, 5, 9]], [[2, 6, 10], [3, 7, 11]]]


def _opcodes(data, labels):
    """Return a pickle of a dictionary `data: ..., labels: ...` from the opcodes of its values."""
    return b"\x80\x02}(X\x04\x00\x00\x00data" + data + b"X\x06\x00\x00\x00labels" + labels + b"u."


def _nested():
    """Return the opcodes of a list of two lists of two lists and so on: 2^30 numbers, 300 bytes."""
    lists = [0, 0]
    for _ in range(30):
        lists = [lists, lists]
    return pickle.dumps(lists, 2)[2:-1]


NESTED = _nested()
_RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def _array(shape, code):
    dtype = b"cnumpy\ndtype\n" + code + b"K\x00K\x01\x87R(K\x03U\x01|NNNK\xffK\xffK\x00tb"
    return _RECONSTRUCT + b"(K\x01" + shape + dtype + b"\x89U\x01\x00tb"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_opcodes(_array(b"K\x01\x85", b"U\x02u1"), NESTED), "'labels' is neither"),
        (_opcodes(NESTED, b"]"), "'data' is neither"),
        (_opcodes(_array(b"K\x01\x85", NESTED), b"]"), "whose type is none"),
        (_opcodes(_array(NESTED, b"U\x02u1"), b"]"), "whose shape is none"),
        (b"\x80\x02Nr\x00\x00\x00\x30.", "remembers 805306368 objects in 9 bytes"),
        (b"\x80\x02c_codecs\nencode\nU\x01aU\x04idna\x86R.", "bytes in the encoding b'idna'"),
    ],
)
def test_refuses_small_pickles_that_become_large(tmp_path, content, message):
    path = tmp_path / "batch"
    path.write_bytes(content)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"^{path} cannot be read .*{message}"):
        read_batch(path, "labels", 32)
    assert time.monotonic() - begun < 5
