"""Other tasks than one class an example: regression, several labels, sequences, pictures, yours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas import Batch, Proxy, SearchSpace, tasks
from jaxnas.proxies import aggregate

COUNT, SIZE = 4, 6
RNG = np.random.default_rng(0)


def _normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), float)


def _convolved(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _perceptron(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params[0]) @ params[1]) @ params[2]


def _segmenter(params, x):
    for kernel in params[:-1]:
        x = jax.nn.relu(_convolved(x, kernel))
    return _convolved(x, params[-1])


def _weighted(outputs, labels):
    """A loss of one's own, of two arrays."""
    return labels["weight"] * jnp.abs(outputs[:, 0] - labels["value"])


PERCEPTRON = [_normal(5, 7), _normal(7, 7), _normal(7, 3)]
SEGMENTER = [_normal(3, 3, 2, 4), _normal(3, 3, 4, 4), _normal(1, 1, 4, 3)]
MASKED = np.array([[0, 1, 2, -1, 1, 0], [2, -1, -1, -1, 0, 1], [0] * 6, [1, 2, 1, 2, 1, 2]])
CASES = {
    "regression": (_perceptron, PERCEPTRON, _normal(COUNT, 5), _normal(COUNT, 3), "mse"),
    "several labels": (
        *(_perceptron, PERCEPTRON, _normal(COUNT, 5)),
        *(np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], float), "binary_cross_entropy"),
    ),
    "sequences": (
        *(_perceptron, PERCEPTRON, _normal(COUNT, SIZE, 5)),
        *(MASKED, "cross_entropy"),
    ),
    "pictures": (
        *(_segmenter, SEGMENTER, _normal(COUNT, SIZE, SIZE, 2)),
        *(RNG.integers(3, size=(COUNT, SIZE, SIZE)), "cross_entropy"),
    ),
    "one's own": (
        *(_perceptron, PERCEPTRON, _normal(COUNT, 5)),
        *({"weight": np.arange(1.0, 5), "value": np.linspace(-9, 9, COUNT)}, _weighted),
    ),
}
WITHOUT_CLASSES = [
    *(*aggregate.RECIPES["panel"].parts, "mgm", "gradient_values", "grad_norm", "snip", "grasp"),
    *("ntk_trace_sum", "ntk_trace_random", "naswot", "synflow", "jacob_cov", "zico", "params"),
]


def _loss_by_hand(name, outputs, labels):
    """The loss of one example, in NumPy."""
    outputs, (first, *_) = np.asarray(outputs, np.float64), jax.tree.leaves(labels)
    if name == "mse":
        return ((outputs - first) ** 2).mean() / 2
    if name == "binary_cross_entropy":
        chance = 1 / (1 + np.exp(-outputs))
        return -np.where(first > 0, np.log(chance), np.log(1 - chance)).mean()
    if name == "cross_entropy":
        logs = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
        kept = np.argwhere(np.asarray(first) >= 0)
        return -np.mean([logs[(*at, first[tuple(at)])] for at in kept])
    return labels["weight"] * abs(outputs[0] - labels["value"])


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param, *CASES[request.param]


def test_the_loss_is_that_of_its_name(case):
    _, apply_fn, params, inputs, labels, loss = case
    outputs = apply_fn(params, inputs)
    found = tasks.Targets(labels, tasks.LOSSES.get(loss, loss)).losses(outputs)
    for at in range(COUNT):
        alone = jax.tree.map(lambda label, at=at: label[at], labels)
        np.testing.assert_allclose(found[at], _loss_by_hand(loss, outputs[at], alone), rtol=1e-5)


def test_scores_are_those_of_a_loop_over_the_examples(case):
    _, apply_fn, params, inputs, labels, loss = case
    scores = jaxnas.score(apply_fn, params, (inputs, labels), WITHOUT_CLASSES, loss=loss)
    assert np.isfinite(list(scores.values())).all(), scores

    @jax.jit
    def gradient(params, example, label):
        def value(params):
            found = tasks.Targets(label, tasks.LOSSES.get(loss, loss))
            return found.losses(apply_fn(params, example)).sum()

        return jax.grad(value)(params)

    rows = []
    for at in range(COUNT):
        one = jax.tree.map(lambda leaf, at=at: leaf[at : at + 1], (inputs, labels))
        leaves = jax.tree.leaves(gradient(params, *one))
        rows.append(np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64))
    kernel = np.stack(rows) @ np.stack(rows).T
    np.testing.assert_allclose(scores["mgm"], kernel.mean(), rtol=1e-5)


def test_scores_of_class_numbers_are_refused(case):
    _, apply_fn, params, inputs, labels, loss = case
    for name in ("ntk_trace", "epe_nas", "kernel_alignment"):
        with pytest.raises(ValueError, match="reads class numbers, one an example") as error:
            jaxnas.score(apply_fn, params, (inputs, labels), name, loss=loss)
        assert str(error.value).count(". ") == 0


def test_classes_by_name_are_classes():
    labels = np.array([0, 2, 1, 1])
    names = ["mgm", "grad_norm", "grasp", "layer_balance"]
    plain, named = (
        jaxnas.score(_perceptron, PERCEPTRON, (_normal(COUNT, 5) * 0 + 1, labels), names, loss=loss)
        for loss in (None, "cross_entropy")
    )
    assert named == pytest.approx(plain, rel=1e-5)


SPACE = SearchSpace(
    name="lines",
    num_choices=(2,),
    init=lambda key, inputs: {"w": jax.random.normal(key, (inputs.shape[1], 2))},
    bind=lambda arch, params: (lambda params, x: x @ params["w"] * (1 + arch[0]), params),
    to_string=lambda arch: str(arch[0]),
    from_string=lambda text: np.array([int(text)], np.int32),
    is_connected=lambda arch: True,
    representative=np.asarray,
    num_params=lambda arch: 6,
    options={},
)


def test_a_space_is_scored_by_a_loss_and_the_store_knows_it(tmp_path):
    data, calls = (_normal(COUNT, 3), _normal(COUNT, 2)), []
    count = Proxy("count", lambda *_: calls.append(1) or jnp.ones(()), jnp.asarray)
    for loss in ("mse", "mse", "binary_cross_entropy"):
        by, store = ["grad_norm", count], tmp_path / "scores.sqlite"
        with jaxnas.Scorer(SPACE, data, by, loss=loss, store=store, plan="eager") as scorer:
            scores = scorer([[0], [1]])
        assert scores.unscored("grad_norm") == {}
    assert len(calls) == 4
    compiled = jaxnas.Scorer(SPACE, data, "grad_norm", loss=loss, plan="compiled")([[0], [1]])
    np.testing.assert_allclose(compiled.mean("grad_norm"), scores.mean("grad_norm"), rtol=1e-5)


BAD = {
    "an unknown loss": ({"loss": "hinge"}, r"one of cross_entropy, mse, .*: got 'hinge'"),
    "labels too few": ({"labels": np.ones((3, 3))}, r"arrays \[4, ...\]: got \[\[3, 3\]\]"),
    "nan labels": ({"labels": np.full((4, 3), np.nan)}, r"Labels must be finite: got nan or inf"),
    "other labels": ({"labels": np.ones((4, 5))}, r"shape of the outputs, \[4, 3\]: got \[4, 5\]"),
    "one loss for all": ({"loss": lambda o, _: o.mean()}, r"got float\d+\[\]; return one an"),
    "classes without a loss": ({"loss": None}, r"or the loss of another task"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tasks(kind):
    changes, got = BAD[kind]
    options = {"labels": np.ones((COUNT, 3)), "loss": "mse"} | changes
    with pytest.raises(ValueError, match=got) as error:
        jaxnas.score(
            *(_perceptron, PERCEPTRON, (_normal(COUNT, 5), options["labels"]), "mgm"),
            loss=options["loss"],
        )
    assert "\n" not in str(error.value)


def test_the_outputs_of_a_sequence_need_a_loss():
    batch = Batch(_normal(COUNT, SIZE, 5), np.zeros(COUNT, int))
    with pytest.raises(ValueError, match="or name the loss of another task"):
        jaxnas.score(_perceptron, PERCEPTRON, batch, "mgm")


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "wanted"),
    [
        ("mse", (6, 1), (6,), r"of the outputs, \[6, 1\]: got \[6\]"),
        ("mse", (6, 1), (6, 3), r"of the outputs, \[6, 1\]: got \[6, 3\]"),
        ("binary_cross_entropy", (6, 4), (6, 1), r"of the outputs, \[6, 4\]: got \[6, 1\]"),
        (
            "cross_entropy",
            (6, 5, 3),
            (6, 1),
            r"of the outputs without their last axis, \[6, 5\]: got \[6, 1\]",
        ),
    ],
)
def test_labels_are_not_broadcast(loss, outputs, labels, wanted):
    """Otherwise each output would be compared with the labels of all examples."""
    params = {"w": jnp.ones((2, *outputs[1:]))}

    def network(params, x):
        return jnp.tensordot(x, params["w"], 1)

    batch = jnp.ones((6, 2)), jnp.ones(labels, int if loss == "cross_entropy" else float)
    with pytest.raises(ValueError, match="Labels must have the shape " + wanted):
        jaxnas.score(network, params, batch, "mgm", loss=loss)


def test_the_name_of_a_loss():
    def name(loss, **options):
        return tasks.loss_name(tasks.Targets(jnp.zeros(3), loss), **options)

    assert tasks.loss_name(jnp.arange(3), stored=True) == "cross_entropy"
    assert name(tasks.mse, stored=True) == "mse"
    own = f"{_weighted.__module__}._weighted"
    assert name(_weighted, stored=True) == own
    two, three = (functools.partial(_weighted, scale=scale) for scale in (2, 3))
    assert name(two, stored=True) == f"{own}['scale', 2]" != name(three)
    assert name(functools.partial(two, 1.5), stored=True) == f"{own}[1.5, 'scale', 2]"
    assert "<lambda>" in name(lambda outputs, labels: outputs)
    for nameless in (lambda outputs, labels: outputs, functools.partial(_weighted, jnp.ones(3))):
        with pytest.raises(ValueError, match="A store knows a loss by its name"):
            name(nameless, stored=True)
