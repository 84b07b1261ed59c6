import contextlib
import io
import sys
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from jaxnas.datasets.dataset import digest
from jaxnas.datasets.other import load_digits, load_npz, load_tfds

IMAGES = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
LABELS = np.arange(10) % 3


def test_digits_are_split_once_and_for_all():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    digits = load_digits()
    assert digits.x_train.shape == (1438, 8, 8, 1)
    assert digits.x_test.shape == (359, 8, 8, 1)
    assert digest(digits) == digest(load_digits())
    # Together the splits hold every digit once.
    ours = np.concatenate([digits.x_train, digits.x_test])[..., 0] * 16
    theirs = sklearn_datasets.load_digits().images
    assert sorted(map(tuple, ours.reshape(1797, 64))) == sorted(
        map(tuple, theirs.reshape(1797, 64))
    )
    assert digits.x_train.max() == 1.0


def test_npz_with_both_splits(tmp_path):
    path = tmp_path / "toy.npz"
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:3], y_test=LABELS[:3])
    dataset = load_npz(path)
    np.testing.assert_array_equal(dataset.x_train, IMAGES)
    assert (dataset.name, dataset.num_classes, dataset.class_names) == ("toy", 3, ("0", "1", "2"))


def test_npz_with_one_set_is_split(tmp_path):
    path = tmp_path / "toy.npz"
    names = np.array(["a", "b", "c", "d"])
    np.savez_compressed(path, x=IMAGES[..., 0], y=LABELS[:, None], class_names=names)
    dataset = load_npz(str(path))
    assert dataset.x_train.shape == (8, 2, 2, 1)
    assert dataset.class_names == ("a", "b", "c", "d")
    together = np.concatenate([dataset.x_train, dataset.x_test])
    labels = np.concatenate([dataset.y_train, dataset.y_test])
    order = np.argsort(together[:, 0, 0, 0])
    np.testing.assert_array_equal(together[order], IMAGES)
    np.testing.assert_array_equal(labels[order], LABELS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, r"must hold x_train, .* got \['x'\]"),
        ({"x": IMAGES, "y": LABELS + 1}, r"train labels must be in 0\.\.2: got 1\.\.3"),
        ({"x": IMAGES, "y": LABELS * 10**9}, r"train labels must be in 0\.\.2"),
        ({"x": IMAGES, "y": LABELS / 2}, "must be integers: got float64"),
        ({"x": IMAGES, "y": LABELS.astype(str)}, "labels must be an array of numbers"),
        ({"x": IMAGES.reshape(10, 4), "y": LABELS}, r"must be \[N, H, W, C\]"),
        ({"x": np.full((10, 2, 2, 1), np.nan), "y": LABELS}, "NaN or infinity in 8 of 8"),
        (
            {"x": IMAGES, "y": LABELS.astype(object)},
            "holds Python objects, which are never unpickled",
        ),
        ({"x": IMAGES, "y": LABELS[:9]}, "one label y for each image x"),
        ({"x": IMAGES[:1], "y": LABELS[:1]}, "test images must not be empty"),
    ],
)
def test_npz_refuses_bad_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "toy.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path / "toy.npz")


def test_npz_refuses_other_files(tmp_path):
    path = tmp_path / "toy.npz"
    with pytest.raises(FileNotFoundError, match=r"toy\.npz is missing"):
        load_npz(path)
    np.savez_compressed(path, x=IMAGES, y=LABELS)
    whole = path.read_bytes()
    single = tmp_path / "single.npy"
    np.save(single, IMAGES)
    damaged = whole[:60] + bytes(20) + whole[80:]
    for content in (b"", b"not an archive", whole[:-40], damaged, single.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read as an \.npz archive") as caught:
            load_npz(path)
        # NumPy's own advice is to allow what is refused here.
        assert "allow_pickle" not in str(caught.value)
    with pytest.raises(IsADirectoryError, match=f"^{tmp_path} is a folder; give the path"):
        load_npz(tmp_path)


def _header(shape, dtype="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz_believes_no_header(tmp_path, packed):
    path = tmp_path / "toy.npz"
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("x.npy", _header((2**40, 2, 2, 1)) + bytes(100))
        archive.writestr("y.npy", _header((2**40,)) + bytes(100))
    with pytest.raises(
        ValueError, match=r"toy\.npz .*x promises 4398046511104 bytes and holds 100"
    ):
        load_npz(path)


def test_npz_reads_no_member_that_it_does_not_use(tmp_path):
    path = tmp_path / "toy.npz"
    np.savez_compressed(path, x=IMAGES, y=LABELS, bomb=np.zeros(2**28, np.uint8))
    with tracing():
        dataset = load_npz(path)
        _, peak = tracemalloc.get_traced_memory()
    assert len(dataset.x_train) == 8
    assert peak < 2**24


@contextlib.contextmanager
def tracing():
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def test_npz_with_any_byte_damaged_is_refused_by_name_or_read(tmp_path):
    path = tmp_path / "toy.npz"
    np.savez_compressed(path, x=IMAGES, y=LABELS)
    whole = path.read_bytes()
    expected = digest(load_npz(path))
    outcomes = set()
    for place in range(0, len(whole), 3):
        for bit in (0x01, 0x08, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            try:
                outcomes.add(digest(load_npz(path)))
            except ValueError as error:
                outcomes.add(str(error).partition(" ")[0])
    assert outcomes == {expected, str(path)}


class _Builder:
    """The part of a tensorflow-datasets builder that is used, over arrays."""

    def __init__(self, splits, labels=True):
        self.splits = splits
        label = SimpleNamespace(names=["a", "b", "c"]) if labels else SimpleNamespace()
        self.info = SimpleNamespace(
            splits=splits,
            features={"image": SimpleNamespace(), "label": label},
            supervised_keys=("image", "label"),
        )

    def download_and_prepare(self):
        pass

    def as_dataset(self, split, batch_size, as_supervised):
        assert (batch_size, as_supervised) == (-1, True)
        return self.splits[split]


def _install(monkeypatch, builder):
    fake = SimpleNamespace(builder=lambda name, data_dir: builder, as_numpy=lambda pair: pair)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)


@pytest.mark.parametrize("test_split", ["test", "validation"])
def test_tfds_reads_the_builder(monkeypatch, test_split):
    split = IMAGES, LABELS
    _install(monkeypatch, _Builder({"train": split, test_split: (IMAGES[:2], LABELS[:2])}))
    dataset = load_tfds("toy")
    np.testing.assert_array_equal(dataset.x_train, IMAGES)
    assert len(dataset.y_test) == 2
    assert dataset.class_names == ("a", "b", "c")


def test_tfds_refuses_sets_of_other_kinds(monkeypatch):
    split = IMAGES, LABELS
    _install(monkeypatch, _Builder({"train": split}))
    with pytest.raises(ValueError, match=r"splits train and test: got \['train'\]"):
        load_tfds("toy")
    _install(monkeypatch, _Builder({"train": split, "test": split}, labels=False))
    with pytest.raises(ValueError, match="tfds:toy has no class labels"):
        load_tfds("toy")


def test_tfds_refuses_unknown_names(monkeypatch):
    def builder(name, data_dir):
        raise ValueError(f"Dataset {name} not found. Available datasets: a very long list")

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", SimpleNamespace(builder=builder))
    with pytest.raises(ValueError, match='knows no set "toy"'):
        load_tfds("toy")


@pytest.mark.parametrize(
    ("module", "call"),
    [("tensorflow_datasets", lambda: load_tfds("mnist")), ("sklearn", load_digits)],
)
def test_missing_libraries_are_named(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "jaxnas\[datasets\]"'):
        call()
