import numpy as np
import pytest
from flax import linen as nn

from experiments.common import from_table
from jaxnas import Scorer, datasets, find
from jaxnas.benchmarks import nasbench201 as table
from jaxnas.spaces import autoformer, dag_mlp, family, nasbench201
from jaxnas.spaces.dag_mlp_space import DagMLP
from jaxnas.spaces.nasbench201_space import cell
from jaxnas.trainer import Trainer, _held_out, _of_norm
from jaxnas.training import TrainingOptions

SPACE = nasbench201(channels=4, cells=1, classes=3)


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3

    def images(count):
        # Classes differ in color, which a network of any size can see.
        noise = rng.integers(0, 60, (count, 8, 8, 3))
        return (noise + 150 * (np.arange(3) == labels[:count, None])[:, None, None]).astype(
            np.uint8
        )

    return datasets.create(
        "colors", (images(60), labels), (images(30), labels[:30]), ("r", "g", "b")
    )


def test_a_fifth_of_each_class_is_held_out():
    labels = np.arange(50) % 10
    held_out = _held_out(labels, 50, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [1] * 10
    assert not np.array_equal(held_out, _held_out(labels, 50, seed=1))
    np.testing.assert_array_equal(held_out, _held_out(labels, 50, seed=0))


def test_training_learns_and_is_done_once(dataset, tmp_path):
    options = TrainingOptions(epochs=8, batch_size=16, crop_padding=0, flip=False)
    trainer = Trainer(SPACE, dataset, options, tmp_path)
    archs = np.array([(3, 1, 1, 1, 1, 1)] * 2)
    first, again = trainer(archs)
    assert first == again >= 90
    (accuracy,) = trainer.test_accuracy.values()
    assert accuracy >= 80
    assert trainer.test_accuracy.keys() == {cell.to_string(archs[0])}
    resumed = Trainer(SPACE, dataset, options, tmp_path)
    assert resumed(archs[:1])[0] == first
    other = Trainer(SPACE, dataset, options._replace(epochs=1), tmp_path)
    other(archs[:1])
    assert len(list(tmp_path.iterdir())) == 2
    # What a search has found is judged by it.
    found = find(Scorer(SPACE, dataset, "params", batch_size=4), "random", evaluations=3)
    judged = found.validate(other, 2)
    assert set(judged["arch"]) == {SPACE.to_string(arch) for arch in found.top(2)}
    assert judged["validation %"].is_monotonic_decreasing
    assert judged["test %"].tolist() == [other.test_accuracy[name] for name in judged["arch"]]


def test_a_space_of_transformers_has_no_mode_to_choose():
    space = autoformer(image_size=16)
    assert _of_norm(space)("batch") is space
    assert _of_norm(SPACE)("eval").options["norm"] == "eval"


def test_a_space_without_a_name_needs_a_function(dataset):
    with pytest.raises(ValueError, match="not made by its name and options"):
        Trainer(SPACE._replace(name="mine"), dataset)


def test_what_cannot_be_trained_is_refused(dataset):
    with pytest.raises(ValueError, match="A data set has class numbers"):
        Trainer(SPACE, dataset, loss="mse")
    two = {"left": np.zeros((4, 2)), "right": np.zeros((4, 2))}
    with pytest.raises(ValueError, match="one array"):
        Trainer(SPACE, (two, np.zeros(4, int)))


def test_the_table_is_the_12_epoch_validation_accuracy():
    archs = table().archs[:3]
    np.testing.assert_array_equal(
        from_table(table())(archs), table().columns["cifar10/valid_12ep"][:3]
    )


def test_a_regression_is_trained_and_judged_by_its_loss():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 8, 8, 1)).astype(np.float32)
    brightness = np.repeat(images.mean((1, 2)), 2, axis=1)
    space = nasbench201(channels=4, cells=1, colors=1, classes=2)
    options = TrainingOptions(epochs=3, batch_size=8, learning_rate=0.01, flip=False)
    trainer = Trainer(space, (images, brightness), options, loss="mse")
    scorer = Scorer(space, (images, brightness), "params", loss="mse")
    judged = find(scorer, "random", evaluations=2).validate(trainer, 2)
    assert list(judged) == ["arch", "params", "-validation loss"]
    assert judged["-validation loss"].is_monotonic_decreasing
    assert (judged["-validation loss"] < 0).all()


def _mlp(depth):
    hidden = [layer for _ in range(depth) for layer in (nn.Dense(4), nn.relu)]
    return nn.Sequential([*hidden, nn.Dense(1)])


def test_decisions_of_two_digits_are_trained_apart(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    space = family(lambda scale, shift: _shifted(scale, shift), scale=range(12), shift=range(12))
    options = TrainingOptions(epochs=1, batch_size=8, flip=False, crop_padding=0)
    trainer = Trainer(space, (x, x[:, :1]), options, tmp_path, loss="mse")
    together = trainer(np.array([[1, 11], [11, 1]]))
    alone = Trainer(space, (x, x[:, :1]), options, tmp_path / "alone", loss="mse")
    assert together[1] == alone(np.array([[11, 1]]))[0] != together[0]


def _shifted(scale, shift):
    return nn.Sequential([nn.Dense(1), lambda outputs: scale * outputs + shift])


def test_a_stored_training_needs_a_loss_with_a_name(tmp_path):
    x = np.ones((20, 3), np.float32)
    with pytest.raises(ValueError, match=r"A store knows a loss by its name: got .*<lambda>"):
        Trainer(family(_mlp, depth=(1,)), (x, x), folder=tmp_path, loss=lambda *_: x[:, 0])


@pytest.mark.parametrize(
    ("space", "arch"),
    [
        (family(_mlp, depth=(1, 2)), [1]),
        (dag_mlp(DagMLP(width=4, classes=1), nodes=3, features=3), [2, 2, 2]),
    ],
    ids=["family", "dag_mlp"],
)
def test_a_space_without_normalization_is_trained_as_it_is(space, arch):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    options = TrainingOptions(
        epochs=4, batch_size=8, learning_rate=0.02, flip=False, crop_padding=0
    )
    longer, shorter = (
        Trainer(space, (x, x[:, :1]), options._replace(epochs=epochs), loss="mse")
        for epochs in (4, 1)
    )
    assert longer(np.array([arch]))[0] > shorter(np.array([arch]))[0]
