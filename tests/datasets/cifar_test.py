import numpy as np
import pytest

from jaxnas.datasets.cifar import bundled_cifar10, load_cifar10, load_cifar100
from jaxnas.datasets.dataset import digest


@pytest.fixture
def cifar10(images):
    """Five training batches of two images, and a test batch of three."""
    batches = {f"data_batch_{i}": (images(2, seed=i), [i, 2 * i - 1]) for i in range(1, 6)}
    return {**batches, "test_batch": (images(3, seed=6), [0, 9, 4])}


def _write_python(folder, batches, write, labels_key="labels"):
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches.items():
        (folder / name).write_bytes(write(pixels, labels, labels_key))


def _write_binary(folder, batches, coarse=()):
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches.items():
        planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        records = [
            bytes([*coarse, label]) + row.tobytes()
            for label, row in zip(labels, planes, strict=True)
        ]
        (folder / f"{name}.bin").write_bytes(b"".join(records))


def test_bundled_sample_is_balanced_and_pinned():
    sample = bundled_cifar10()
    assert sample.x_train.shape == (1000, 32, 32, 3)
    assert sample.x_test.shape == (500, 32, 32, 3)
    assert sample.x_train.dtype == np.uint8
    assert np.bincount(sample.y_train).tolist() == [100] * 10
    assert np.bincount(sample.y_test).tolist() == [50] * 10
    # The first training image of the official order is a frog, the first test image a cat.
    assert sample.class_names[sample.y_train[0]] == "frog"
    assert sample.class_names[sample.y_test[0]] == "cat"
    assert sample.x_train[0, 0, 0].tolist() == [59, 62, 63]
    assert digest(sample) == "48b58417b2a25176"


def test_bundled_sample_has_about_the_moments_of_the_whole():
    sample = bundled_cifar10()
    pixels = sample.x_train / 255.0
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), sample.mean, atol=0.02)
    np.testing.assert_allclose(pixels.std((0, 1, 2)), sample.std, atol=0.02)


@pytest.mark.parametrize("inside", [False, True])
def test_both_versions_of_cifar10_give_the_same(tmp_path, cifar10, python2_batch, inside):
    python, binary = tmp_path / "a", tmp_path / "b"
    _write_python(python / "cifar-10-batches-py" if inside else python, cifar10, python2_batch)
    _write_binary(binary / "cifar-10-batches-bin" if inside else binary, cifar10)
    first, second = load_cifar10(python), load_cifar10(str(binary))
    assert digest(first) == digest(second)
    expected = np.concatenate([cifar10[f"data_batch_{i}"][0] for i in range(1, 6)])
    np.testing.assert_array_equal(first.x_train, expected)
    assert first.y_train.tolist() == [1, 1, 2, 3, 3, 5, 4, 7, 5, 9]
    assert first.y_test.tolist() == [0, 9, 4]
    assert first.y_train.dtype == np.int32
    assert (first.name, first.num_classes) == ("cifar10", 10)


def test_both_versions_of_cifar100_give_the_fine_labels(tmp_path, images, python2_batch):
    batches = {"train": (images(3), [0, 99, 19]), "test": (images(1, seed=1), [7])}
    _write_python(tmp_path / "cifar-100-python", batches, python2_batch, "fine_labels")
    _write_binary(tmp_path / "binary", batches, coarse=(11,))
    first, second = load_cifar100(tmp_path), load_cifar100(tmp_path / "binary")
    assert digest(first) == digest(second)
    np.testing.assert_array_equal(first.x_train, batches["train"][0])
    assert first.y_train.tolist() == [0, 99, 19]
    assert [first.class_names[i] for i in (0, 19, 99)] == ["apple", "cattle", "worm"]
    assert len(set(first.class_names)) == first.num_classes == 100
    assert sorted(first.class_names) == list(first.class_names)


def test_refuses_a_folder_without_cifar(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds neither "test_batch"'):
        load_cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match='holds neither "test"'):
        load_cifar100(tmp_path / "absent")


def test_refuses_a_missing_batch(tmp_path, cifar10, python2_batch):
    _write_python(tmp_path / "a", cifar10, python2_batch)
    (tmp_path / "a" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3 is missing"):
        load_cifar10(tmp_path / "a")


@pytest.mark.parametrize("length", [0, 3072, 2 * 3073 - 1])
def test_refuses_a_truncated_binary_file(tmp_path, cifar10, length):
    _write_binary(tmp_path / "a", cifar10)
    path = tmp_path / "a" / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=f"records of 3073 bytes: got {length} bytes"):
        load_cifar10(tmp_path / "a")


def test_refuses_a_label_out_of_range(tmp_path, cifar10):
    cifar10["test_batch"][1][0] = 10
    _write_binary(tmp_path / "a", cifar10)
    with pytest.raises(ValueError, match=r"test labels must be in 0\.\.9: got 4\.\.10"):
        load_cifar10(tmp_path / "a")
