import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch
from jaxnas.training import adamw
from jaxnas.training.adamw import FineTuneOptions
from jaxnas.training.fine_tune import evaluate, fine_tune

FAST = FineTuneOptions(epochs=3, learning_rate=0.1, warmup=0.0)
PARAMS = {"kernel": np.zeros((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
SCALE = jnp.ones(())


def network(context, params, inputs, key):
    """Softmax regression on inputs times a context, with noise where there is a key."""
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key, inputs.shape)
    return (context * inputs + noise) @ params["kernel"] + params["bias"][None]


def examples(seed=0, count=40):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, 2)).astype(np.float32)
    return inputs, (inputs[:, 0] > 0).astype(np.int32)


def train(rng):
    inputs, labels = examples()
    for chosen in rng.permutation(40).reshape(5, 8):
        yield Batch(jnp.asarray(inputs[chosen]), jnp.asarray(labels[chosen]))


@pytest.fixture(scope="module")
def dev():
    inputs, labels = examples(1)
    return [Batch(jnp.asarray(inputs), jnp.asarray(labels))]


def test_the_learning_rate_by_hand():
    schedule = adamw.learning_rate(FineTuneOptions(learning_rate=0.4, warmup=0.2), steps=10)
    rates = [float(schedule(step)) for step in range(11)]
    expected = [0, 0.2, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0]
    np.testing.assert_allclose(rates, expected, atol=1e-7)


def test_one_step_of_the_optimizer_by_hand():
    # The first step of Adam is the sign of the gradient; clipping to norm 1 leaves signs alone.
    options = FineTuneOptions(learning_rate=0.1, warmup=0.0, weight_decay=0.5)
    optimizer = adamw.make_optimizer(options, steps=4)
    params = {"kernel": jnp.full((1, 2), 2.0), "bias": jnp.full(2, 2.0)}
    gradients = {"kernel": jnp.array([[30.0, -40.0]]), "bias": jnp.array([0.0, 1.0])}
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    # -0.1 (sign + 0.5 * 2); the bias does not decay.
    np.testing.assert_allclose(updates["kernel"], [[-0.2, 0.0]], atol=1e-5)
    np.testing.assert_allclose(updates["bias"], [0.0, -0.1], atol=1e-5)


def test_evaluation_by_hand():
    params = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    # Logits are the inputs; the third example does not count.
    inputs = jnp.array([[0.0, math.log(3)], [0.0, math.log(3)], [9.0, 0.0]])
    batches = [Batch(inputs, jnp.array([1, 0, -1])), Batch(inputs[:1], jnp.array([1]))]
    accuracy, loss = evaluate(network, SCALE, params, batches)
    assert accuracy == pytest.approx(100 * 2 / 3)
    assert loss == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3)
    with pytest.raises(ValueError, match="no labeled example"):
        evaluate(network, SCALE, params, [Batch(inputs, jnp.array([-1, -1, -1]))])


def test_it_learns_and_keeps_the_best_epoch(dev):
    seen = []
    tuned = fine_tune(network, SCALE, PARAMS, train, dev, FAST, progress=seen.append)
    assert tuple(seen) == tuned.history
    assert [each.epoch for each in tuned.history] == [1, 2, 3]
    assert tuned.history[-1].loss < tuned.history[0].loss < math.log(2)
    assert tuned.best == max(seen, key=lambda leaf: (leaf.dev_accuracy, -leaf.dev_loss))
    assert evaluate(network, SCALE, tuned.params, dev) == tuned.best[2:]
    assert tuned.best.dev_accuracy > 90
    assert not tuned.diverged


def test_patience_ends_what_gets_worse():
    inputs, labels = examples(1)
    wrong = [Batch(jnp.asarray(inputs), jnp.asarray(1 - labels))]
    options = FAST._replace(epochs=9, patience=2)
    tuned = fine_tune(network, SCALE, PARAMS, train, wrong, options)
    assert tuned.best.epoch == 1
    assert len(tuned.history) == 3
    assert evaluate(network, SCALE, tuned.params, wrong) == tuned.best[2:]


def test_contexts_and_seeds_share_what_is_compiled(dev):
    traces = []

    def counted(context, params, inputs, key):
        traces.append(key is not None)
        return network(context, params, inputs, key)

    results = [
        fine_tune(counted, jnp.asarray(scale), PARAMS, train, dev, FAST._replace(seed=seed))
        for scale, seed in ((1.0, 0), (1.0, 1), (2.0, 0), (1.0, 0))
    ]
    assert sorted(traces) == [False, True]
    kernels = [np.asarray(result.params["kernel"]).tobytes() for result in results]
    assert kernels[0] == kernels[3]
    assert len(set(kernels)) == 3


def test_an_interrupted_run_goes_on_to_the_same_bits(dev, tmp_path):
    whole = fine_tune(network, SCALE, PARAMS, train, dev, FAST)

    def interrupt(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(
            *(network, SCALE, PARAMS, train, dev, FAST), checkpoint_dir=folder, progress=interrupt
        )
    seen = []
    tuned = fine_tune(
        *(network, SCALE, PARAMS, train, dev, FAST), checkpoint_dir=folder, progress=seen.append
    )
    assert [each.epoch for each in seen] == [3]
    assert tuned.history == whole.history
    for found, other in zip(*map(jax.tree.leaves, (tuned.params, whole.params)), strict=True):
        np.testing.assert_array_equal(found, other)
    for other in ({"options": FAST._replace(seed=1)}, {"context": 2 * SCALE}):
        arguments = {"context": SCALE, "options": FAST} | other
        with pytest.raises(ValueError, match="holds another run"):
            fine_tune(
                network,
                arguments["context"],
                *(PARAMS, train, dev, arguments["options"]),
                checkpoint_dir=folder,
            )


def test_divergence_ends_the_run_with_the_last_good_parameters(dev):
    def explodes(context, params, inputs, key):
        return jnp.where(params["bias"][0] == 0, 1.0, jnp.nan) * network(
            context, params, inputs, key
        )

    # Its loss becomes NaN as soon as something has been learned.
    tuned = fine_tune(explodes, SCALE, PARAMS, train, dev, FAST)
    assert tuned.diverged
    assert len(tuned.history) == 1
    assert tuned.best is None
    np.testing.assert_array_equal(tuned.params["kernel"], PARAMS["kernel"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "epochs must be an int of at least 1: got 0"),
        ({"patience": -1}, "patience must be an int of at least 0"),
        ({"seed": 0.5}, "seed must be an int"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"clip_norm": math.inf}, "clip_norm must be above 0 and finite"),
        ({"warmup": 1.0}, "warmup must be at least 0 and below 1"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
    ],
)
def test_refuses_options(dev, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        fine_tune(network, SCALE, PARAMS, train, dev, FAST._replace(**changes))


def test_refuses_no_batches(dev):
    with pytest.raises(ValueError, match="got 0 for training and 1 for the dev set"):
        fine_tune(network, SCALE, PARAMS, lambda rng: [], dev, FAST)
    with pytest.raises(ValueError, match="got 5 for training and 0"):
        fine_tune(network, SCALE, PARAMS, train, [], FAST)
