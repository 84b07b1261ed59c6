import numpy as np
import pytest

from jaxnas.datasets.imagenet16 import load_imagenet16


@pytest.fixture
def folder(tmp_path, images, python2_batch):
    for i in range(1, 11):
        content = python2_batch(images(3, size=16, seed=i), [i, 120, 121])
        (tmp_path / f"train_data_batch_{i}").write_bytes(content)
    content = python2_batch(images(2, size=16, seed=11), [1000, 1])
    (tmp_path / "val_data").write_bytes(content)
    return tmp_path


def test_keeps_the_first_classes_and_counts_from_zero(folder, images):
    dataset = load_imagenet16(folder)
    assert (dataset.name, dataset.num_classes) == ("imagenet16-120", 120)
    assert dataset.y_train.tolist() == [label for i in range(10) for label in (i, 119)]
    assert dataset.y_test.tolist() == [0]
    assert dataset.x_train.shape == (20, 16, 16, 3)
    np.testing.assert_array_equal(dataset.x_train[18:], images(3, size=16, seed=10)[:2])
    np.testing.assert_array_equal(dataset.x_test, images(2, size=16, seed=11)[1:])


def test_keeps_more_classes_when_asked(folder):
    assert len(load_imagenet16(folder, num_classes=121).y_train) == 30
    assert load_imagenet16(folder, num_classes=1000).y_test.tolist() == [999, 0]


@pytest.mark.parametrize("label", [0, 1001])
def test_refuses_labels_that_imagenet_lacks(folder, images, python2_batch, label):
    (folder / "val_data").write_bytes(python2_batch(images(2, size=16), [1, label]))
    with pytest.raises(ValueError, match=r"labels in 1\.\.1000: got "):
        load_imagenet16(folder)


@pytest.mark.parametrize("num_classes", [0, 1001])
def test_refuses_impossible_numbers_of_classes(folder, num_classes):
    with pytest.raises(ValueError, match=rf"in 1\.\.1000: got {num_classes}"):
        load_imagenet16(folder, num_classes)


def test_refuses_a_missing_file_and_images_of_another_size(folder, images, python2_batch):
    (folder / "val_data").write_bytes(python2_batch(images(1), [1]))
    with pytest.raises(ValueError, match="3 x 16 x 16 numbers"):
        load_imagenet16(folder)
    (folder / "train_data_batch_10").unlink()
    with pytest.raises(FileNotFoundError, match="train_data_batch_10 is missing"):
        load_imagenet16(folder)
