"""The training of a supernet: what stays, what is fair, and that a killed run ends the same."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.spaces.mobilenetv2_space import SearchedNetwork, Stage
from jaxnas.supernet import indicators, inherited, parameters, recipes, sampling, train
from jaxnas.training import TrainingOptions
from tests.supernet.tiny import CHOICES, LAYOUT

MODULE = SearchedNetwork(layout=LAYOUT, classes=3, norm="batch", bypass="norm")
OPTIONS = TrainingOptions(
    epochs=2, batch_size=8, learning_rate=0.2, weight_decay=0.0, crop_padding=0, flip=False
)
PATHS = sampling.strict_fair(CHOICES)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=24).astype(np.int32)
    inputs = rng.normal(size=(24, 8, 8, 3)) + labels[:, None, None, None]
    return jnp.asarray(inputs, jnp.float32), labels


def drawn(initialization="qr", trained="last", **options):
    params = parameters.draw(MODULE, jax.random.key(0), initialization)
    return parameters.split(MODULE, params, trained, **options)


def run(found, images, **options):
    return train(MODULE, found, *images, OPTIONS, paths=PATHS, record_every=2, **options)


def test_roles():
    found = drawn(classifier=False)
    steps = {path.split("/", 1)[1].rsplit("/", 1)[0] for path in found.trained}
    assert steps == {"bypass", "k3_e2/project", "k5_e2/project"}
    assert {path.rsplit("/", 1)[1] for path in found.trained} == {"scale", "bias"}
    norms = drawn(trained="norms").trained
    assert {"00_stem/scale", "01_layer/k3_e2/expand/bias", "05_classifier/kernel"} <= set(norms)
    assert "00_stem/kernel" not in norms
    assert not drawn(trained="all").frozen
    everything = found.trained | found.frozen
    assert jax.tree.structure(parameters.merge(found)) == jax.tree.structure(
        parameters.nest(everything)
    )


def test_frozen_parameters_stay_bit_for_bit_and_have_no_gradients(images):
    found = drawn()
    before = jax.tree.map(np.array, found.frozen)
    result = run(found, images)
    after = parameters.flatten(result.params)
    for path, leaf in before.items():
        np.testing.assert_array_equal(after[path], leaf)
    assert all((after[path] != leaf).any() for path, leaf in found.trained.items())
    assert not result.diverged
    assert [record.step for record in result.history] == [2, 4, 6]
    assert result.history[-1].loss < result.history[0].loss
    assert result.history[0].drift > 0


def test_a_step_is_fair_and_its_gradient_the_mean_over_paths(images):
    # One step of plain descent against autodiff through the static networks of its paths.
    found = drawn(trained="norms")
    options = OPTIONS._replace(epochs=1, batch_size=24, momentum=0.0)
    result = train(MODULE, found, *images, options, paths=PATHS)
    paths = np.asarray(PATHS(jax.random.key(0), 0))
    assert (np.sort(paths[:, 0]) == [0, 1, 2]).all()

    def loss(trained):
        params = parameters.merge(parameters.Split(trained, found.frozen))
        total = 0.0
        for path in paths:
            network = MODULE.bound(path)
            chosen = jax.nn.log_softmax(network(params, images[0]).logits)
            total -= chosen[jnp.arange(24), images[1]].mean() / len(paths)
        return total

    slopes = jax.grad(loss)(found.trained)
    after = parameters.flatten(result.params)
    for path, slope in slopes.items():
        np.testing.assert_allclose(after[path], found.trained[path] - 0.2 * slope, atol=2e-5)


def test_a_killed_run_ends_the_same(images, tmp_path):
    result = drawn()
    whole = run(result, images)

    class Killed(Exception):
        pass

    def kill(record):
        if record.step == 4:  # in the middle of the second epoch
            raise Killed

    with pytest.raises(Killed):
        run(result, images, checkpoint_dir=tmp_path, progress=kill)
    again = run(result, images, checkpoint_dir=tmp_path)
    assert again.history == whole.history
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    found, expected = (indicators.read(MODULE, each.params) for each in (again, whole))
    np.testing.assert_array_equal(found.block, expected.block)
    with pytest.raises(ValueError, match="holds another run"):
        run(drawn("gauss"), images, checkpoint_dir=tmp_path)


def test_one_program_for_all_paths(images):
    chex.clear_trace_counter()
    params = parameters.draw(MODULE, jax.random.key(0), "default")
    archs = np.stack(np.meshgrid(*map(np.arange, CHOICES), indexing="ij"), -1).reshape(-1, 3)
    found = inherited(MODULE, params, archs, *images, batch_size=12)
    one = inherited(MODULE, params, archs[5], *images, batch_size=12)
    assert found.loss.shape == (18,)
    assert one.loss == found.loss[5]
    # Of a network by itself, batch by batch.
    network = MODULE.bound(archs[5])
    each = []
    for start in (0, 12):
        logits = network(params, images[0][start : start + 12]).logits
        each.append((logits.argmax(-1) == images[1][start : start + 12]).mean())
    np.testing.assert_allclose(found.accuracy[5], 100 * np.mean(each), rtol=1e-6)
    assert len(np.unique(found.loss)) > 10


def test_a_kernel_of_the_center_alone_hides_its_size():
    # Delta kernels reach no neighbor: 3x3 and 5x5 candidates of one draw are the same function.
    params = parameters.draw(MODULE, jax.random.key(0), "delta")
    kernels = {
        name: tensor["depthwise"]["kernel"]
        for name, tensor in params["01_layer"].items()
        if "depthwise" in tensor
    }
    for kernel in kernels.values():
        outside = np.array(kernel)
        outside[kernel.shape[0] // 2, kernel.shape[1] // 2] = 0
        assert (outside == 0).all()


def test_a_draw_does_not_depend_on_the_others():
    params = parameters.draw(MODULE, jax.random.key(0), "qr")
    wider = MODULE.clone(layout=LAYOUT._replace(stages=(*LAYOUT.stages, Stage(4, 1, 1))))
    more = parameters.draw(wider, jax.random.key(0), "qr")
    np.testing.assert_array_equal(params["00_stem"]["kernel"], more["00_stem"]["kernel"])
    first, second = (each["02_layer"]["k5_e2"]["project"]["kernel"] for each in (params, more))
    np.testing.assert_array_equal(first, second)
    matrix = np.asarray(params["02_layer"]["k3_e2"]["expand"]["kernel"])[0, 0]
    np.testing.assert_allclose(matrix @ matrix.T / (matrix @ matrix.T)[0, 0], np.eye(2), atol=1e-5)


def test_a_hopeless_run_ends_early(images):
    inputs = images[0].at[0, 0, 0, 0].set(np.nan)
    found = drawn()
    result = run(found, (inputs, images[1]))
    assert result.diverged
    assert [record.step for record in result.history] == [2]
    assert np.isnan(result.history[0].loss)
    # What was there before stays.
    jax.tree.map(np.testing.assert_array_equal, result.params, parameters.merge(found))
    wild = OPTIONS._replace(learning_rate=1e4, epochs=20)
    result = train(MODULE, drawn(trained="all"), *images, wild, paths=PATHS, record_every=1)
    assert result.diverged
    assert result.history[-1].step < 60
    assert np.isfinite(indicators.read(MODULE, result.params).block[0]).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y: (x[0], y), r"images \[N, H, W, C\]"),
        (lambda x, y: (x, y + 3), "Labels must be in 0..2"),
        (lambda x, y: (x[..., :1], y), "images of 3 colors: got 1"),
        (lambda x, y: (x[:, :4], y), "square images"),
    ],
)
def test_refuses_images(images, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(drawn(), change(*images))


def test_refuses_choices(images):
    params = parameters.merge(drawn())
    with pytest.raises(ValueError, match="trained must be one of last, norms, all"):
        parameters.split(MODULE, params, "some")
    with pytest.raises(ValueError, match="A supernet normalizes with its batch"):
        parameters.split(MODULE.clone(norm="instance"), params, "last")
    with pytest.raises(ValueError, match="initialization must be one of default"):
        parameters.draw(MODULE, jax.random.key(0), "ones")
    with pytest.raises(ValueError, match="Nothing is trained"):
        run(parameters.Split({}, parameters.flatten(params)), images)
    with pytest.raises(ValueError, match="record_every is at least 1"):
        train(MODULE, drawn(), *images, OPTIONS, paths=PATHS, record_every=0)
    with pytest.raises(ValueError, match="Validation needs images"):
        inherited(MODULE, params, np.zeros(3, int), images[0][:0], images[1][:0])


def test_recipes_name_signals_that_they_have():
    for name, recipe in recipes.BY_NAME.items():
        assert recipe.name == name
        kind, _, mode = recipe.signal.partition(", ")
        assert kind in ("inherited loss", "indicators")
        assert not mode or mode in recipes.modes(recipe)
