import numpy as np
import pytest

from experiments.common import Setting
from experiments.fine_step import Trainer, _held_out, from_table, nasbench201_like
from jaxnas import datasets
from jaxnas.benchmarks import nasbench201 as table
from jaxnas.spaces import nasbench201
from jaxnas.spaces.nasbench201 import cell
from jaxnas.training import TrainingOptions


@pytest.fixture
def setting():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3

    def images(count):
        # Classes differ in color, which a network of any size can see.
        noise = rng.integers(0, 60, (count, 8, 8, 3))
        return (noise + 150 * (np.arange(3) == labels[:count, None])[:, None, None]).astype(
            np.uint8
        )

    dataset = datasets.create(
        "colors", (images(60), labels), (images(30), labels[:30]), ("r", "g", "b")
    )
    space = nasbench201(channels=4, cells=1, classes=3)
    return Setting(space, dataset, lambda seed: None, (0,), 8, {"data": "colors"})


def test_a_fifth_of_each_class_is_held_out():
    labels = np.arange(50) % 10
    held_out = _held_out(labels, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [1] * 10
    assert not np.array_equal(held_out, _held_out(labels, seed=1))
    np.testing.assert_array_equal(held_out, _held_out(labels, seed=0))


def test_training_learns_and_is_done_once(setting, tmp_path):
    options = TrainingOptions(epochs=8, batch_size=16, crop_padding=0, flip=False)
    trainer = Trainer(setting, nasbench201_like(setting.space), options, tmp_path)
    archs = np.array([(3, 1, 1, 1, 1, 1)] * 2)
    first, again = trainer(archs)
    assert first == again >= 90
    (accuracy,) = trainer.test_accuracy.values()
    assert accuracy >= 80
    assert trainer.test_accuracy.keys() == {cell.to_string(archs[0])}
    resumed = Trainer(setting, nasbench201_like(setting.space), options, tmp_path)
    assert resumed(archs[:1])[0] == first
    other = Trainer(setting, nasbench201_like(setting.space), options._replace(epochs=1), tmp_path)
    other(archs[:1])
    assert len(list(tmp_path.iterdir())) == 2


def test_the_table_is_the_12_epoch_validation_accuracy():
    archs = table().archs[:3]
    np.testing.assert_array_equal(
        from_table(table())(archs), table().columns["cifar10/valid_12ep"][:3]
    )
