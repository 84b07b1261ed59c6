import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jaxnas import Batch, gradients, proxies
from jaxnas.network.linen import LinenNetwork
from jaxnas.proxies import gradient_statistics, measures, saliency
from jaxnas.spaces import nasbench201

OF_ONE_PASS = [
    *("grad_norm", "grad_norm_global", "snip", "snip_total", "plain", "fisher", "l2_norm"),
    *("zico", "gradsign"),
]
NAMES = [*OF_ONE_PASS, "grasp", "grasp_signed"]
LOG3 = math.log(3)


def _linear(params, inputs):
    return inputs @ params["w"]


# Two weights (1 + log 3, 1), of which the softmax sees the difference: of inputs 1 and 2 it is
# (3/4, 1/4) and (9/10, 1/10). Both of label 1, g is (3/4, -3/4) and 2 (9/10, -9/10): mean 1.275.
# With label 0 for the second it is 2 (-1/10, 1/10): mean 0.275.
# H is p0 p1 x^2 (1, -1)(1, -1)': 3/16 and 4 x 9/100, mean h = 0.27375. So H g is 2 h m (1, -1) of
# g = m (1, -1), and -theta H g is -2 h m log 3.
def _goldens(mean, **found):
    return {
        "grad_norm": mean * 2**0.5,
        "grad_norm_global": mean * 2**0.5,
        "snip": mean * (2 + LOG3),
        "snip_total": mean * LOG3,
        "plain": mean * LOG3,
        "l2_norm": ((1 + LOG3) ** 2 + 1) ** 0.5,
        "grasp": 2 * 0.27375 * mean * LOG3,
        "grasp_signed": -2 * 0.27375 * mean * LOG3,
    } | found


GOLDENS = {
    # Of each weight the mean is 1.275, the deviation (1.8 - 0.75) / 2 = 0.525.
    # Fisher: half the mean of (theta g / 2)^2, g / 2 of squares .75^2 / 4 and 1.8^2 / 4.
    (1, 1): _goldens(
        1.275,
        zico=math.log(2 * 1.275 / 0.525),
        gradsign=2 + 2,
        fisher=((1 + LOG3) ** 2 + 1) * (0.75**2 + 1.8**2) / 4 / 2 / 2,
    ),
    # The mean of 0.75 and |-0.2| is 0.475, and so is the deviation.
    (1, 0): _goldens(
        0.275,
        zico=math.log(2),
        gradsign=0,
        fisher=((1 + LOG3) ** 2 + 1) * (0.75**2 + 0.2**2) / 4 / 2 / 2,
    ),
}


@pytest.mark.parametrize("labels", GOLDENS)
@pytest.mark.parametrize("name", NAMES)
def test_two_weights_by_hand(name, labels):
    with jax.enable_x64(True):
        params = {"w": jnp.array([[1 + LOG3, 1.0]])}
        batch = Batch(jnp.array([[1.0], [2.0]]), jnp.array(labels))
        found = proxies.BY_NAME[name](_linear, params, batch)
        np.testing.assert_allclose(found, GOLDENS[labels][name], rtol=1e-12)


REDUCED = {
    # Squared norms 9 and 16: 3 + 4, and 5.
    "grad_norm": ([9, 16, 0], 7),
    "grad_norm_global": ([9, 16, 0], 5),
    "snip": ([1, 2, 0], 3),
    "snip_total": ([1, -3, 0], 2),
    "plain": ([1, -3, 0], -2),
    "fisher": ([1, 2, 0], 3),
    "l2_norm": ([1, 2, 0], 3),
    "grasp": ([1, -3, 0], 2),
    "grasp_signed": ([1, -3, 0], -2),
    # Sums and largest gradients: the third has no deviation, the fourth is rounding of the others.
    "zico": ([[5, 1], [2, 0.1], [0, 1], [7, 1e-9]], math.log(10)),
    "gradsign": ([[5, 1], [2, 0.1], [0, 1], [7, 1e-9]], 7),
}


@pytest.mark.parametrize("name", NAMES)
def test_reduced_by_hand(name):
    measured, expected = REDUCED[name]
    with jax.enable_x64(True):
        found = proxies.BY_NAME[name].reduce(jnp.array(measured, float))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


# A second derivation, by loops and a whole Hessian.


def _perceptron(params, inputs):
    return jnp.tanh(inputs @ params["first"] + params["shift"][None]) @ params["second"]


@pytest.fixture
def problem(draw_batch):
    """Parameters and a batch for `_perceptron`, in float64."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = {
            "first": jnp.asarray(rng.normal(size=(3, 4))),
            "second": jnp.asarray(rng.normal(size=(4, 3))),
            "shift": jnp.asarray(rng.normal(size=4)),
        }
        yield params, draw_batch(0, (7, 3), 3)


def _loss(params, batch):
    log_probabilities = jax.nn.log_softmax(_perceptron(params, batch.inputs))
    return -log_probabilities[jnp.arange(len(batch.labels)), batch.labels].mean()


def _by_example(params, batch):
    """The gradients of each example alone, NumPy dictionaries."""
    gradient = jax.jit(jax.grad(_loss))
    alone = [Batch(batch.inputs[i : i + 1], batch.labels[i : i + 1]) for i in range(7)]
    return [jax.tree.map(np.asarray, gradient(params, one)) for one in alone]


def _variation_by_loop(singles, parts):
    total = 0.0
    for name in ("first", "second"):
        layer = 0.0
        for at in np.ndindex(singles[0][name].shape):
            values = np.array([single[name][at] for single in singles])
            size = len(values) // parts
            means = values[: parts * size].reshape(parts, size).mean(1)
            layer += np.abs(means).mean() / np.sqrt(np.square(means - means.mean()).mean())
        total += np.log(layer)
    return total


def test_by_loops_over_examples_and_weights(problem):
    params, batch = problem
    singles = _by_example(params, batch)
    mean = {name: sum(each[name] for each in singles) / 7 for name in params}
    weights = {name: np.asarray(params[name]) for name in ("first", "second")}
    products = [(weight * mean[name]).ravel() for name, weight in weights.items()]
    together = np.concatenate(products)
    signs = [np.sign(np.stack([each[name] for each in singles])).sum(0) for name in weights]
    expected = {
        "grad_norm": sum(np.sqrt(np.square(each).sum()) for each in mean.values()),
        "grad_norm_global": np.sqrt(sum(np.square(each).sum() for each in mean.values())),
        "snip": np.abs(together).sum(),
        "snip_total": np.abs(together.sum()),
        "plain": together.sum(),
        "fisher": sum(
            weight.shape[0] * np.square((weight * single[name]).sum(0)).sum() / 2 / 7**3
            for single in singles
            for name, weight in weights.items()
        ),
        "l2_norm": sum(np.sqrt(np.square(weight).sum()) for weight in weights.values()),
        "zico": _variation_by_loop(singles, 2),
        "gradsign": sum(np.abs(each).sum() for each in signs),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            proxies.BY_NAME[name](_perceptron, params, batch), value, rtol=1e-10, err_msg=name
        )
    found = gradient_statistics.zico(parts=3)
    assert found.name == "zico_3"
    np.testing.assert_allclose(
        found(_perceptron, params, batch), _variation_by_loop(singles, 3), rtol=1e-10
    )
    assert expected["grad_norm_global"] < expected["grad_norm"]
    assert expected["snip_total"] < expected["snip"]


def test_grasp_by_a_whole_hessian(problem):
    params, batch = problem
    flat, restore = ravel_pytree(params)
    is_weight, _ = ravel_pytree(
        jax.tree.map(lambda x: jnp.full(x.shape, x.ndim > 1, float), params)
    )
    gradient = jax.grad(lambda leaf: _loss(restore(leaf), batch))(flat)
    hessian = jax.jit(jax.hessian(lambda leaf: _loss(restore(leaf), batch)))(flat)
    expected = -(is_weight * flat) @ hessian @ (is_weight * gradient)
    signed = saliency.grasp(sign="signed")
    np.testing.assert_allclose(signed(_perceptron, params, batch), expected, rtol=1e-10)
    np.testing.assert_allclose(
        saliency.grasp()(_perceptron, params, batch), abs(expected), rtol=1e-10
    )


class _Normalized(nn.Module):
    """A network of another's, with a normalization that couples the examples."""

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(5)(inputs)))
        return nn.Dense(3)(hidden)


def test_grasp_of_a_flax_module(problem):
    _, batch = problem
    module = _Normalized()
    variables = module.init(jax.random.key(0), batch.inputs)
    params = variables["params"]
    rest = {"batch_stats": variables["batch_stats"]}

    def bare(params, inputs):
        return module.apply({"params": params, **rest}, inputs, mutable=["batch_stats"])[0]

    layered = LinenNetwork(module, rest)
    for proxy in (saliency.grasp(), saliency.grasp(sign="signed")):
        found = proxy(bare, params, batch)
        assert found != 0
        np.testing.assert_allclose(proxy(layered, params, batch), found, rtol=1e-9)


# What a normalization by the statistics of the batch does: NAS-Bench-201.


@pytest.fixture(scope="module")
def normalized(draw_batch):
    """An eager network in `batch` mode, its parameters, a batch, and the names of the weights."""
    space = nasbench201(channels=2, cells=1, norm="batch")
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        batch = draw_batch(0)
        shapes = jax.eval_shape(space.init, jax.random.key(0), batch.inputs)

        def draw(shape):
            # Large filters, beside which the epsilon of the normalization is nothing.
            scale = 30 if len(shape.shape) == 4 else 0.5
            return jnp.asarray(rng.normal(0, scale, shape.shape))

        network, params = space.bind(np.array([2, 3, 1, 3, 0, 3]), jax.tree.map(draw, shapes))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path) for path, each in leaves if each.ndim > 1]
    free = np.array(["shortcut" in name or "classifier" in name for name in names])
    assert free.sum() == 3
    assert (~free).sum() > 12
    return network, params, batch, free


def test_normalized_filters_cancel_in_the_total(normalized):
    network, params, batch, free = normalized
    with jax.enable_x64(True):
        products = saliency.plain().measure(network, params, batch, None)
        magnitudes = saliency.snip().measure(network, params, batch, None)
        assert (np.abs(products[~free]) < 1e-5 * magnitudes[~free]).all()
        assert (np.abs(products[free]) > 1e-3 * magnitudes[free]).all()
        total = saliency.snip(form="total").reduce(products)
        np.testing.assert_allclose(total, abs(products[free].sum()), rtol=1e-4)
        assert total == abs(saliency.plain().reduce(products))


def test_the_curvature_of_a_normalized_filter_is_its_squared_gradient(normalized):
    network, params, batch, free = normalized
    with jax.enable_x64(True):
        curvatures = saliency.grasp().measure(network, params, batch, None)
        gradient = gradients.loss_gradient(network, params, batch)
        squares = np.array([jnp.square(g).sum() for g in jax.tree.leaves(gradient) if g.ndim > 1])
        np.testing.assert_allclose(curvatures[~free], squares[~free], rtol=5e-3)
        assert not np.isclose(curvatures[free], squares[free], rtol=0.1).any()


def test_grasp_of_a_walk_by_finite_differences(normalized):
    network, params, batch, _ = normalized
    with jax.enable_x64(True):
        gradient = functools.partial(gradients.loss_gradient, network, batch=batch)
        along = jax.tree.map(
            lambda leaf: leaf if leaf.ndim > 1 else jnp.zeros_like(leaf), gradient(params)
        )

        def step(size):
            return gradient(jax.tree.map(lambda tensor, g: tensor + size * g, params, along))

        change = jax.tree.map(lambda up, down: (up - down) / 2e-5, step(1e-5), step(-1e-5))
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(change), strict=True)
        expected = -sum((each * new).sum() for each, new in pairs if each.ndim > 1)
        found = saliency.grasp(sign="signed")(network, params, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


# Laws, sharing, and what is nothing.


@pytest.mark.parametrize(
    ("name", "factor"),
    [("snip", 3), ("plain", 3), ("fisher", 9), ("l2_norm", 1), ("zico", 1), ("gradsign", 1)],
)
def test_scale_laws(name, factor):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        tensor, examples = (
            jnp.asarray(rng.normal(size=(2, 3))),
            jnp.asarray(rng.normal(size=(4, 2, 3))),
        )
        statistic = proxies.BY_NAME[name].measure.statistic
        found = examples if statistic.per_example else examples.sum(0)
        once, thrice = (np.ravel(statistic.keep(tensor, scale * found))[0] for scale in (1, 3))
        np.testing.assert_allclose(thrice, factor * once, rtol=1e-12)


def test_examples_twice_change_nothing_but_the_count(problem):
    params, batch = problem
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), batch)
    for name in set(NAMES) - {"zico"}:
        proxy = proxies.BY_NAME[name]
        # Fisher squares the share of an example in the mean.
        factor = {"gradsign": 2, "fisher": 1 / 4}.get(name, 1)
        once = proxy(_perceptron, params, batch) * factor
        np.testing.assert_allclose(proxy(_perceptron, params, twice), once, rtol=1e-10)
    # The two parts are the same, and nothing varies.
    assert proxies.BY_NAME["zico"](_perceptron, params, twice) == -jnp.inf


def test_all_but_grasp_share_one_pass(problem, monkeypatch):
    reads, read = [], gradients.read

    def counted(*args, **options):
        reads.append(None)
        return read(*args, **options)

    monkeypatch.setattr(gradients, "read", counted)
    found = list(dict.fromkeys(proxies.BY_NAME[name].measure for name in OF_ONE_PASS))
    measures.measure_all(found, _perceptron, *problem, jax.random.key(0))
    assert len(reads) == 1
    assert gradient_statistics.zico(parts=2).measure is proxies.BY_NAME["zico"].measure


def test_gradients_of_rounding_are_none():
    # The second weight's are a billionth of the first's, of any sign.
    tensor = jnp.ones((1, 2))
    per_example = jnp.array([[[1.0, 1e-9]], [[3.0, -2e-9]]])
    zico, gradsign = (proxies.BY_NAME[name].measure.statistic.keep for name in ("zico", "gradsign"))
    np.testing.assert_allclose(zico(tensor, per_example), [2 / 1, 3], rtol=1e-6)
    np.testing.assert_allclose(gradsign(tensor, per_example), [2, 3], rtol=1e-6)


@pytest.mark.parametrize(("factor", "expected"), [(0, -np.inf), (np.nan, np.nan)])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_and_nan(problem, name, factor, expected):
    params, batch = problem
    found = proxies.BY_NAME[name](
        lambda params, inputs: factor * _perceptron(params, inputs), params, batch
    )
    np.testing.assert_equal(float(found), expected)


@pytest.mark.parametrize("name", ["zico", "gradsign"])
def test_infinite_gradients_are_not_finite(name):
    assert jnp.isnan(proxies.BY_NAME[name].reduce(jnp.array([[1.0, 2.0], [1.0, jnp.inf]])))


@pytest.mark.parametrize("name", ["snip", "plain", "l2_norm", "grasp", "zico", "gradsign"])
def test_a_network_without_weights_is_refused(name, draw_batch):
    with pytest.raises(ValueError, match=r"^The score reads weights, .*: got none; score another"):
        proxies.BY_NAME[name](
            lambda params, x: x * params["scale"][None],
            {"scale": jnp.ones(3)},
            draw_batch(0, (2, 3), 3),
        )


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: saliency.grad_norm(aggregate="mean"), r"^Unknown aggregate 'mean': use sum or gl"),
        (lambda: saliency.snip(form="abs"), r"^Unknown form 'abs': use elementwise or total\.$"),
        (lambda: saliency.grasp(sign="plus"), r"^Unknown sign 'plus': use abs or signed\.$"),
        (lambda: gradient_statistics.zico(parts=1), r"got parts=1; use 2 or more\.$"),
    ],
)
def test_bad_options_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_fewer_examples_than_parts_are_refused(problem):
    with pytest.raises(
        ValueError, match=r"^ZiCo needs an example for each of 8 parts: got a batch"
    ):
        gradient_statistics.zico(parts=8)(_perceptron, *problem)
