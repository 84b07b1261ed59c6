import numpy as np
import pytest

from jaxnas import datasets


def test_default_is_the_bundled_sample():
    assert datasets.digest(datasets.load()) == datasets.digest(datasets.bundled_cifar10())


def test_specs_reach_their_loaders(tmp_path, images, python2_batch):
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(python2_batch(images(1), [3], "fine_labels"))
    assert datasets.load(f"cifar100:{tmp_path}").name == "cifar100"
    np.savez(tmp_path / "odd:name.npz", x=images(10), y=[0, 1] * 5)
    assert datasets.load(f"npz:{tmp_path}/odd:name.npz").name == "odd:name"
    with pytest.raises(FileNotFoundError, match="test_batch"):
        datasets.load(f"cifar10:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="train_data_batch_1"):
        datasets.load(f"imagenet16-120:{tmp_path}")


@pytest.mark.parametrize("spec", ["", "mnist", "cifar10", "cifar10:", "digits:8", "CIFAR10:x"])
def test_refuses_unknown_specs(spec):
    forms = "cifar10-sample, digits, cifar10:FOLDER, cifar100:FOLDER, imagenet16-120:FOLDER"
    with pytest.raises(ValueError, match=f"{forms}, tfds:NAME, npz:FILE: got") as error:
        datasets.load(spec)
    assert str(error.value).endswith(f'got "{spec}".')
