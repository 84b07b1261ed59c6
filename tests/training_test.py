import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.tasks import Targets, mse
from jaxnas.training import (
    EpochRecord,
    TrainingOptions,
    accuracy,
    augment,
    learning_rate_schedule,
    running_average,
    train,
)
from jaxnas.training.epoch import _draws, _scan, initial_state, learn
from jaxnas.types import Outputs

PLAIN = TrainingOptions(epochs=3, batch_size=16, crop_padding=0, flip=False)


def _linear(params, inputs):
    return inputs.reshape(len(inputs), -1) @ params["weight"] + params["bias"][None]


def _linear_eval(params, statistics, inputs):
    assert statistics == ()
    return _linear(params, inputs)


def _linear_params(inputs, classes):
    return {"weight": jnp.zeros((inputs, classes)), "bias": jnp.zeros(classes)}


def _hidden(params, inputs):
    return inputs.reshape(len(inputs), -1) @ params["first"]


def _classify(params, hidden, mean, variance):
    normal = (hidden - mean[None]) / jnp.sqrt(variance[None] + 1e-5)
    return jax.nn.relu(normal * params["scale"][None]) @ params["second"]


def _normalized(params, inputs):
    """A network of two layers with batch normalization between them."""
    hidden = _hidden(params, inputs)
    mean, variance = hidden.mean(0), hidden.var(0)
    logits = _classify(params, hidden, mean, variance)
    return Outputs(logits, statistics={"mean": mean, "variance": variance})


def _normalized_eval(params, statistics, inputs):
    hidden = _hidden(params, inputs)
    return _classify(params, hidden, statistics["mean"], statistics["variance"])


def _normalized_params(inputs, classes, width=6):
    rng = np.random.default_rng(0)
    return {
        "first": jnp.asarray(rng.normal(size=(inputs, width)), jnp.float32),
        "scale": jnp.ones(width),
        "second": jnp.asarray(rng.normal(size=(width, classes)), jnp.float32),
    }


def _blobs(count, seed=0):
    """Three well separated classes of points in the plane."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centers = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    points = centers[labels] + 0.4 * rng.normal(size=(count, 2))
    return points.astype(np.float32), labels


def _images(count, seed=0):
    """Two classes of 4 x 4 images: bright above or bright below."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.normal(size=(count, 4, 4, 1)).astype(np.float32)
    images[labels == 0, :2] += 2
    images[labels == 1, 2:] += 2
    return images, labels


def _train_normalized(options, **more):
    sets = (*_images(70), *_images(30, seed=1))
    return train(_normalized, _normalized_eval, _normalized_params(16, 2), *sets, options, **more)


def _assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two, strict=True)


def test_a_linear_model_learns_separable_points(tmp_path):
    sets = (*_blobs(96), *_blobs(50, seed=1))
    seen = []

    def run(**more):
        params = _linear_params(2, 3)
        return train(_linear, _linear_eval, params, *sets, PLAIN, checkpoint_dir=tmp_path, **more)

    result = run(progress=seen.append)
    _assert_same_bits(run(), result)  # read back, without statistics
    assert not result.diverged
    assert result.statistics == ()
    assert result.history == tuple(seen)
    assert [record.epoch for record in seen] == [1, 2, 3]
    assert seen[-1].valid_accuracy > 95
    assert seen[-1].loss < seen[0].loss < math.log(3)
    valid = accuracy(_linear_eval, result.params, (), *sets[2:], 7)
    assert valid == seen[-1].valid_accuracy


def test_a_regression_learns_a_plane():
    points = np.random.default_rng(0).normal(size=(96, 2)).astype(np.float32)
    heights = Targets(points @ np.array([[1.0, 2.0], [-1.0, 0.5]], np.float32) + 3, mse)
    halves = [
        (points[rows], Targets(heights.values[rows], mse)) for rows in (slice(64), slice(64, None))
    ]
    options = PLAIN._replace(epochs=40, weight_decay=0.0)
    result = train(_linear, _linear_eval, _linear_params(2, 2), *halves[0], *halves[1], options)
    last = result.history[-1]
    assert last.valid_loss < 1e-4 < 1 < result.history[0].loss
    assert math.isnan(last.train_accuracy)
    assert math.isnan(last.valid_accuracy)
    error = _linear(result.params, halves[1][0]) - halves[1][1].values
    np.testing.assert_allclose(last.valid_loss, (error**2).mean() / 2, rtol=1e-4)


class _ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x, *, learn):
        for width in (8, 16):
            x = nn.Conv(width, (3, 3), strides=2, use_bias=False)(x)
            # No momentum: the updated collection is the statistics of the batch itself.
            x = nn.relu(nn.BatchNorm(use_running_average=not learn, momentum=0.0)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_a_flax_network_with_batch_statistics_learns_digits():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = (digits.images[order, ..., None] / 8 - 1).astype(np.float32)
    labels = digits.target[order]
    network = _ConvNet()
    variables = jax.jit(partial(network.init, learn=True))(jax.random.key(0), images[:2])

    def train_fn(params, inputs):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, updates = network.apply(given, inputs, learn=True, mutable=["batch_stats"])
        return Outputs(logits, statistics=updates["batch_stats"])

    def eval_fn(params, statistics, inputs):
        return network.apply({"params": params, "batch_stats": statistics}, inputs, learn=False)

    options = TrainingOptions(epochs=8, batch_size=32, crop_padding=1, flip=False)
    sets = images[:1400], labels[:1400], images[1400:], labels[1400:]
    result = train(train_fn, eval_fn, variables["params"], *sets, options)
    assert result.history[-1].valid_accuracy > 90


def test_steps_are_those_of_a_numpy_loop():
    options = PLAIN._replace(batch_size=12, learning_rate=0.5, weight_decay=0.1, epochs=4)
    points, labels = _blobs(12)
    start = {"weight": jnp.full((2, 3), 0.3), "bias": jnp.full(3, 0.2)}
    result = train(_linear, _linear_eval, start, points, labels, points, labels, options)

    weight, bias = np.full((2, 3), 0.3), np.full(3, 0.2)
    weight_trace, bias_trace = np.zeros((2, 3)), np.zeros(3)
    for step in range(4):
        logits = points @ weight + bias
        odds = np.exp(logits - logits.max(1, keepdims=True))
        error = (odds / odds.sum(1, keepdims=True) - np.eye(3)[labels]) / 12
        weight_gradient = points.T @ error + 0.1 * weight
        bias_gradient = error.sum(0)  # no decay
        weight_trace = 0.9 * weight_trace + weight_gradient
        bias_trace = 0.9 * bias_trace + bias_gradient
        rate = 0.5 * 0.5 * (1 + math.cos(math.pi * step / 4))
        assert result.history[step].learning_rate == pytest.approx(rate, rel=1e-5)
        weight = weight - rate * (weight_gradient + 0.9 * weight_trace)
        bias = bias - rate * (bias_gradient + 0.9 * bias_trace)
    np.testing.assert_allclose(result.params["weight"], weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.params["bias"], bias, rtol=1e-4, atol=1e-6)


def test_first_loss_with_label_smoothing_by_hand():
    # Logits (2, 0) for an example of class 0; target (0.9, 0.1) after smoothing by 0.2.
    params = {"weight": jnp.array([[2.0, 0.0]]), "bias": jnp.zeros(2)}
    sets = (np.ones((1, 1), np.float32), np.array([0])) * 2
    options = PLAIN._replace(epochs=1, label_smoothing=0.2)
    result = train(_linear, _linear_eval, params, *sets, options)
    log_normalizer = math.log(math.exp(2) + 1)
    expected = 0.9 * (log_normalizer - 2) + 0.1 * log_normalizer
    assert result.history[0].loss == pytest.approx(expected, rel=1e-5)
    assert result.history[0].train_accuracy == 100.0


def test_schedule_endpoints():
    options = TrainingOptions(epochs=10, warmup_epochs=2, learning_rate=0.4)
    schedule = learning_rate_schedule(options, steps_per_epoch=5)
    rates = [float(schedule(step)) for step in (0, 5, 10, 30, 50)]
    np.testing.assert_allclose(rates, [0, 0.2, 0.4, 0.2, 0], atol=1e-7)
    cold = learning_rate_schedule(options._replace(warmup_epochs=0), steps_per_epoch=5)
    np.testing.assert_allclose([cold(0), cold(25), cold(50)], [0.4, 0.2, 0], atol=1e-7)


def test_running_average_by_hand_and_as_bias_correction():
    # Weights 1, then 0.5 / 0.75 = 2/3: 1 + 2/3 * (3 - 1) = 7/3.
    average = running_average(jnp.zeros(()), jnp.ones(()), 0, 0.5)
    assert float(average) == 1.0
    assert float(running_average(average, jnp.float32(3), 1, 0.5)) == pytest.approx(7 / 3)
    rng = np.random.default_rng(0)
    average, plain = jnp.zeros(3), np.zeros(3)
    for step, batch in enumerate(rng.normal(size=(40, 3))):
        average = running_average(average, jnp.asarray(batch, jnp.float32), step, 0.9)
        plain = 0.9 * plain + 0.1 * batch
        np.testing.assert_allclose(average, plain / (1 - 0.9 ** (step + 1)), rtol=1e-3, atol=1e-6)
    # Without memory it is the last batch.
    assert float(running_average(jnp.float32(5), jnp.float32(2), 7, 0.0)) == 2.0


def test_statistics_come_from_the_batches_alone():
    images, labels = _images(70)
    options = PLAIN._replace(epochs=1, batch_size=70, statistics_momentum=0.99)
    params = _normalized_params(16, 2)
    result = train(_normalized, _normalized_eval, params, images, labels, images, labels, options)
    hidden = images.reshape(70, 16) @ np.asarray(params["first"])
    np.testing.assert_allclose(result.statistics["mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.statistics["variance"], hidden.var(0), rtol=1e-4)


def test_both_plans_of_an_epoch_agree():
    images, labels = map(jnp.asarray, _images(70))
    options = TrainingOptions(epochs=2, batch_size=16, crop_padding=1)
    state = initial_state(_normalized, _normalized_params(16, 2), images, labels, options)
    key = jax.random.key(3)
    stepwise = learn(_normalized, options, state, key, images, labels)
    draws = _draws(options, key, 70)
    assert draws[1].shape == (4, 16)  # 6 of 70 examples sit the epoch out
    assert len(set(draws[1].ravel().tolist())) == 64
    scanned, (losses, correct) = _scan(_normalized, options, images, labels, state, draws)
    close = {"rtol": 1e-4, "atol": 1e-6}
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, **close), stepwise.state, scanned
    )
    np.testing.assert_allclose(stepwise.loss, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(stepwise.accuracy, 100 * correct.mean(), rtol=1e-5)


def test_the_seed_decides_everything():
    options = TrainingOptions(epochs=2, batch_size=16, crop_padding=1)
    first, second = _train_normalized(options), _train_normalized(options)
    _assert_same_bits(first, second)
    other = _train_normalized(options._replace(seed=1))
    assert not np.array_equal(first.params["first"], other.params["first"])


def test_seeds_share_one_compilation():
    traces = []

    def train_fn(params, inputs):
        traces.append(None)
        return _linear(params, inputs)

    sets = (*_blobs(32), *_blobs(8))
    train(train_fn, _linear_eval, _linear_params(2, 3), *sets, PLAIN)
    first = len(traces)
    train(train_fn, _linear_eval, _linear_params(2, 3), *sets, PLAIN._replace(seed=5))
    assert len(traces) == first


class _Killed(Exception):
    pass


def _kill_at(epoch):
    def progress(record: EpochRecord):
        if record.epoch == epoch:
            raise _Killed

    return progress


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, epoch):
    options = TrainingOptions(epochs=4, batch_size=16, crop_padding=1, warmup_epochs=1)
    undisturbed = _train_normalized(options)
    folder = tmp_path / "deep" / "folder"
    with pytest.raises(_Killed):
        _train_normalized(options, checkpoint_dir=folder, progress=_kill_at(epoch))
    seen = []
    resumed = _train_normalized(options, checkpoint_dir=str(folder), progress=seen.append)
    assert [record.epoch for record in seen] == list(range(epoch + 1, 5))
    _assert_same_bits(resumed.params, undisturbed.params)
    _assert_same_bits(resumed.statistics, undisturbed.statistics)
    assert resumed.history == undisturbed.history
    # A finished run is only read.
    again = _train_normalized(options, checkpoint_dir=folder, progress=_kill_at(4))
    _assert_same_bits(again, resumed)


def test_a_relative_checkpoint_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _train_normalized(PLAIN._replace(epochs=1), checkpoint_dir="run")
    assert (tmp_path / "run" / "1").is_dir()


def test_refuses_the_checkpoint_of_another_run(tmp_path):
    _train_normalized(PLAIN, checkpoint_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r"with learning_rate=0\.1: got learning_rate=0\.2; choose"
    ):
        _train_normalized(PLAIN._replace(learning_rate=0.2), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="with epochs=3, seed=0: got epochs=4, seed=1; choose"):
        _train_normalized(PLAIN._replace(epochs=4, seed=1), checkpoint_dir=tmp_path)
    sets = (*_blobs(32), *_blobs(8))
    with pytest.raises(ValueError, match=r"holds another run, with params=.*, data="):
        train(_linear, _linear_eval, _linear_params(2, 3), *sets, PLAIN, checkpoint_dir=tmp_path)


def test_refuses_a_folder_of_something_else(tmp_path):
    (tmp_path / "7").mkdir()
    with pytest.raises(ValueError, match="7 is no checkpoint of a training; choose another"):
        _train_normalized(PLAIN, checkpoint_dir=tmp_path)


def test_divergence_is_reported_and_ends_the_training(tmp_path):
    sets = (*_blobs(32), *_blobs(8))
    options = PLAIN._replace(learning_rate=1e30)
    seen = []
    for _ in range(2):  # nothing that is not finite was saved
        result = train(
            _linear,
            _linear_eval,
            _linear_params(2, 3),
            *sets,
            options,
            checkpoint_dir=tmp_path,
            progress=seen.append,
        )
        assert result.diverged
        assert len(result.history) < 3
        assert math.isnan(result.history[-1].valid_accuracy)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert seen


def test_accuracy_counts_each_example_once_in_one_program():
    traces = []

    def eval_fn(params, statistics, inputs):
        traces.append(inputs.shape)
        return inputs * params

    # Row i prefers class i % 3, so 3 of 7 labels are right: the first, the fourth, the last.
    inputs = np.eye(3, dtype=np.float32)[np.arange(7) % 3]
    labels = [0, 0, 0, 0, 2, 0, 0]
    for batch_size in (1, 3, 7, 100):
        traces.clear()
        percent = accuracy(eval_fn, 1.0, (), inputs, labels, batch_size)
        assert percent == pytest.approx(300 / 7)
        assert set(traces) <= {(min(batch_size, 7), 3)}
        assert len(traces) <= 1


def test_augmentation_can_be_the_identity():
    images = jnp.asarray(_images(5)[0])
    same = augment(jax.random.key(0), images, crop_padding=0, flip=False)
    np.testing.assert_array_equal(same, images)


def test_by_default_an_image_moves_by_an_eighth_of_its_side():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(20, 16, 16, 1)), jnp.float32)
    default, two, four = (
        augment(jax.random.key(0), images, crop_padding=padding, flip=True)
        for padding in (TrainingOptions().crop_padding, 2, 4)
    )
    np.testing.assert_array_equal(default, two)
    assert not np.array_equal(default, four)


def test_augmented_images_are_shifted_and_mirrored_originals():
    images = np.random.default_rng(0).normal(size=(200, 4, 5, 2)).astype(np.float32)
    got = jax.jit(lambda key, x: augment(key, x, crop_padding=1, flip=True))(
        jax.random.key(0), images
    )
    assert got.shape == images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.zeros((3, 3, 2), int)
    for image, before in zip(np.asarray(got), padded, strict=True):
        windows = {
            (row, column, mirrored): before[row : row + 4, column : column + 5][:, ::step]
            for row in range(3)
            for column in range(3)
            for mirrored, step in ((0, 1), (1, -1))
        }
        matches = [where for where, window in windows.items() if np.array_equal(image, window)]
        assert len(matches) == 1
        seen[matches[0]] += 1
    # 18 equally likely outcomes of 200 draws: each about 11.
    assert seen.min() >= 2
    assert seen.max() <= 26


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be an int of at least 1: got 0"),
        ({"epochs": 2.5}, r"epochs must be an int of at least 1: got 2\.5"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1: got 0"),
        ({"warmup_epochs": 3}, "warmup_epochs must be below epochs=3: got 3"),
        ({"warmup_epochs": -1}, "warmup_epochs must be an int of at least 0: got -1"),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0 and finite: got 0\.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0 and finite: got nan"),
        ({"learning_rate": np.float32(1)}, "learning_rate must be a plain Python number"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1: got 1\.0"),
        ({"statistics_momentum": -0.1}, "statistics_momentum must be at least 0 and below 1"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0 and finite: got -0.0001"),
        ({"crop_padding": -1}, "crop_padding must be an int of at least 0: got -1"),
        ({"seed": -1}, "seed must be an int of at least 0: got -1"),
        ({"flip": True}, r"need images \[N, H, W, C\]: got inputs \[32, 2\]; set crop_padding=0"),
    ],
)
def test_refuses_bad_options(changes, message):
    sets = (*_blobs(32), *_blobs(8))
    with pytest.raises(ValueError, match=message):
        train(_linear, _linear_eval, _linear_params(2, 3), *sets, PLAIN._replace(**changes))


POINTS, LABELS = _blobs(32)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ((POINTS[:0], LABELS[:0], POINTS, LABELS), "The training set must hold inputs"),
        ((POINTS, LABELS, POINTS, LABELS[:5]), r"The validation set .* \[32, 2\] and \[5\]"),
        ((POINTS.astype(np.int32), LABELS, POINTS, LABELS), "must be floating: got int32; norm"),
        ((POINTS, LABELS / 2, POINTS, LABELS), "training labels must be integers: got float32"),
        ((POINTS, LABELS, POINTS[:, :1], LABELS), r"must have one shape: got \[2\] and \[1\]"),
        ((POINTS, LABELS + 1, POINTS, LABELS), r"must be in 0\.\.2, the classes of the network"),
    ],
)
def test_refuses_bad_data(sets, message):
    with pytest.raises(ValueError, match=message):
        train(_linear, _linear_eval, _linear_params(2, 3), *sets, PLAIN)


@pytest.mark.parametrize(
    ("labels", "batch_size", "message"),
    [
        (LABELS, 0, "batch_size must be at least 1: got 0"),
        (LABELS[:3], 4, r"got shapes \[32, 2\] and \[3\]"),
    ],
)
def test_accuracy_refuses_bad_input(labels, batch_size, message):
    with pytest.raises(ValueError, match=message):
        accuracy(_linear_eval, _linear_params(2, 3), (), POINTS, labels, batch_size)
