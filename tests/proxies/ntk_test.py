import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import Batch, gradients, proxies, score
from jaxnas.kernels import empirical
from jaxnas.network.linen import LinenNetwork
from jaxnas.proxies import measures, ntk
from jaxnas.proxies.ntk import Kernel
from jaxnas.spaces import nasbench201

ARCH = np.array([0, 0, 0, 2, 0, 0])  # one convolution a cell: the fewest kernels to compile
EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps
FACTORIES = [ntk.ntk_trace, ntk.ntk_condition, ntk.ntk_mean]
NAMES = [
    name
    for name, proxy in proxies.BY_NAME.items()
    if name.startswith("ntk_") or proxy == ntk.kernel_alignment()
]


def _kernel(product, labels=None, eps=EPS64):
    product = np.asarray(product, np.float64)
    labels = np.arange(len(product)) if labels is None else np.array(labels)
    return Kernel(product, np.float64(eps), labels)


# The formulas, by hand.

# Gradients (2, 0), (1, 2), (0, 1).
THREE = _kernel([[4, 2, 0], [2, 5, 2], [0, 2, 1]])


def test_trace_and_mean_by_hand():
    # sqrt((4 + 5 + 1) / 3), and the mean gradient (1, 1) squared.
    with jax.enable_x64(True):
        np.testing.assert_allclose(ntk.ntk_trace().reduce(THREE), (10 / 3) ** 0.5, rtol=1e-12)
        np.testing.assert_allclose(ntk.ntk_mean().reduce(THREE), 2, rtol=1e-12)


def test_condition_by_hand():
    # Eigenvalues 5 -+ 3: kappa is 4.
    with jax.enable_x64(True):
        found = ntk.ntk_condition().reduce(_kernel([[5, 3], [3, 5]]))
        np.testing.assert_allclose(found, -4, rtol=1e-12)


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        # Less their means, 9/4 and 1/2: (7, -5, -5, 3) / 4 and (2, -2, -2, 2) / 4: the product is
        # (14 + 10 + 10 + 6) / 16, the norms sqrt(108) / 4 and 4 / 4.
        ([[4, 1], [1, 3]], 2.5 / (108**0.5 / 4)),
        ([[7, 2], [2, 7]], 1),
        ([[1, 3], [3, 1]], -1),  # not positive semi-definite, but the other end
    ],
    ids=["golden", "the label kernel", "its opposite"],
)
def test_alignment_by_hand(product, expected):
    with jax.enable_x64(True):
        found = ntk.kernel_alignment().reduce(_kernel(product))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_alignment_is_the_correlation_of_the_entries():
    rows = np.random.default_rng(0).normal(size=(5, 7))
    labels = np.array([0, 2, 0, 1, 2])
    signs = np.where(labels[:, None] == labels[None, :], 1, -1)
    with jax.enable_x64(True):
        found = ntk.kernel_alignment().reduce(_kernel(rows @ rows.T, labels))
        expected = np.corrcoef((rows @ rows.T).ravel(), signs.ravel())[0, 1]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_scale_laws(name):
    # Gradients times 3: the mean times 9, the root of the trace times 3, the others as they were.
    rows = np.random.default_rng(0).normal(size=(4, 6))
    labels = [0, 1, 1, 2]
    factor = 9 if name == "ntk_mean" else 3 if name.startswith("ntk_trace") else 1
    reduce = proxies.BY_NAME[name].reduce
    with jax.enable_x64(True):
        once, thrice = (reduce(_kernel(c * rows @ rows.T, labels)) for c in (1, 9))
        np.testing.assert_allclose(thrice, factor * once, rtol=1e-10)


# What cannot be ranked.


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_is_nothing_to_score(name):
    assert proxies.BY_NAME[name].reduce(_kernel(np.zeros((3, 3)))) == -jnp.inf


@pytest.mark.parametrize("name", NAMES)
def test_nan_says_that_the_network_is_not_finite(name):
    spoilt = THREE.gram + np.where(np.eye(3)[0], np.nan, 0)
    assert jnp.isnan(proxies.BY_NAME[name].reduce(THREE._replace(gram=spoilt)))


@pytest.mark.parametrize("name", NAMES)
def test_an_overflow_is_not_finite(name):
    overflown = jax.tree.map(jnp.asarray, _kernel([[np.inf, 1], [1, 2]]))
    found = proxies.BY_NAME[name].reduce(overflown)
    assert found == jnp.inf or jnp.isnan(found)


def test_the_precision_of_the_measurement_decides_what_is_singular():
    # Two eigenvalues, 2 and 1e-8: 5e7 is a condition number in float64, and rounding in float32.
    product = [[1 + 5e-9, 1 - 5e-9], [1 - 5e-9, 1 + 5e-9]]
    with jax.enable_x64(True):
        condition, alignment = ntk.ntk_condition().reduce, ntk.kernel_alignment().reduce
        np.testing.assert_allclose(condition(_kernel(product)), -2e8, rtol=1e-6)
        np.testing.assert_allclose(alignment(_kernel(product)), 1, rtol=1e-6)
        assert condition(_kernel(product, eps=EPS32)) == -jnp.inf
        assert alignment(_kernel(product, eps=EPS32)) == -jnp.inf


def test_labels_of_one_class_align_with_nothing():
    assert ntk.kernel_alignment().reduce(_kernel(THREE.gram, [2, 2, 2])) == -np.inf


def test_the_kernel_of_te_nas_is_without_biases():
    # Of logits W x + b and their sum the rows are x for each logit, and ones for the biases.
    x = np.random.default_rng(0).normal(size=(3, 5)) + 1
    params = {"layer": {"kernel": jnp.ones((5, 2)), "bias": jnp.ones(2)}}

    def network(params, inputs):
        return inputs @ params["layer"]["kernel"] + params["layer"]["bias"][None]

    batch = Batch(jnp.asarray(x), jnp.array([0, 1, 1]))
    whole = proxies.BY_NAME["ntk_mean"]._replace(measure=ntk.CoupledKernel(ntk._COTANGENTS["sum"]))
    of_weights = proxies.BY_NAME["ntk_condition_sum_exact_weights"]
    np.testing.assert_allclose(whole(network, params, batch), 2 * (x @ x.T + 1).mean(), rtol=1e-5)
    expected = -np.linalg.cond(x @ x.T)
    np.testing.assert_allclose(of_weights(network, params, batch), expected, rtol=1e-3)
    with pytest.raises(ValueError, match="use mode='exact'"):
        ntk.ntk_condition(biases=False)


@pytest.mark.parametrize("proxy", [ntk.ntk_condition(), ntk.kernel_alignment()])
def test_one_example_is_refused(proxy):
    with pytest.raises(ValueError, match=rf"^{proxy.name} compares examples: got .*; use 2 or"):
        proxy.reduce(_kernel([[1]]))


@pytest.mark.parametrize("factory", FACTORIES)
def test_unknown_options_are_refused(factory):
    with pytest.raises(ValueError, match=r"^Unknown logit 'max': use label, sum or random\.$"):
        factory(logit="max")
    with pytest.raises(ValueError, match=r"^Unknown mode 'hook': use split or exact\.$"):
        factory(mode="hook")


@pytest.mark.parametrize("factory", FACTORIES)
def test_names_say_what_is_computed(factory):
    assert factory().name == factory.__name__
    assert factory(logit="random").name == f"{factory.__name__}_random"
    assert factory(logit="sum", mode="exact").name == f"{factory.__name__}_sum_exact"
    assert ntk.kernel_alignment(mode="exact").name == "kernel_alignment_exact"


# What is measured.


def test_the_random_direction_is_fixed_and_of_length_1():
    with jax.enable_x64(True):
        rows = ntk.random_cotangent(jnp.zeros((4, 10)), jnp.arange(4))
        assert rows.dtype == jnp.float64
        np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-12)
        np.testing.assert_array_equal(rows[0], rows[3])
        others = ntk.random_cotangent(jnp.ones((4, 10)), jnp.arange(4) + 1)
        np.testing.assert_array_equal(rows, others)


def _plain(params, inputs):
    return jnp.tanh(inputs @ params["first"]) @ params["second"]


def _coupled(params, inputs):
    """Hidden units of which the batch takes out the mean."""
    hidden = inputs @ params["first"]
    return jnp.tanh(hidden - hidden.mean(0, keepdims=True)) @ params["second"]


def _of_plain(seed):
    rng = np.random.default_rng(seed)
    return {
        "first": jnp.asarray(rng.normal(size=(6, 4))),
        "second": jnp.asarray(rng.normal(size=(4, 3))),
    }


def _by_jacobian(apply_fn, params, batch, of):
    """`J J^T` of the coupled batch, `[B, B]`."""

    def scalars(found):
        logits = gradients.outputs(apply_fn, found, batch.inputs).logits
        return (logits * of(logits, batch.labels)).sum(1)

    rows = [
        np.reshape(leaf, (batch.labels.size, -1))
        for leaf in jax.tree.leaves(jax.jit(jax.jacrev(scalars))(params))
    ]
    return sum(row @ row.T for row in rows)


LOGITS = {
    "label": empirical.label_cotangent,
    "sum": empirical.sum_cotangent,
    "random": ntk.random_cotangent,
}


@pytest.mark.parametrize("logit", LOGITS)
def test_exact_rows_of_a_plain_network_are_those_of_the_whole_batch(draw_batch, logit):
    with jax.enable_x64(True):
        params, batch = _of_plain(0), draw_batch(0, (5, 6), 3)
        proxy = ntk.ntk_trace(logit=logit, mode="exact")
        found = proxy.measure(_coupled, params, batch, None)
        expected = _by_jacobian(_coupled, params, batch, LOGITS[logit])
        np.testing.assert_allclose(found.gram, expected, rtol=1e-10, atol=1e-12)
        assert found.eps == EPS64


@pytest.fixture(scope="module")
def eager(small_space, draw_batch):
    """`eager(norm)`: the network of `ARCH` in a mode, its weights, and a batch, in float64."""

    def bind(norm):
        batch = draw_batch(0)
        params = small_space.init(jax.random.key(0), batch.inputs)
        space = nasbench201(channels=2, cells=1, norm=norm)
        return *space.bind(ARCH, params), batch, None

    return bind


def test_exact_rows_are_those_of_the_coupled_batch(eager, monkeypatch):
    with jax.enable_x64(True):
        network, params, batch, _ = eager("batch")
        expected = _by_jacobian(network, params, batch, empirical.label_cotangent)
        exact = ntk.ntk_trace(mode="exact").measure(network, params, batch, None).gram
        np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-9)

        # The contributions of the examples are others, and sum to the same gradient of the batch.
        split = ntk.ntk_trace().measure(network, params, batch, None).gram
        assert not np.isclose(np.trace(split), np.trace(exact), rtol=0.01)
        np.testing.assert_allclose(split.sum(), exact.sum(), rtol=1e-9)

        # Tensor by tensor, if they are too large.
        monkeypatch.setattr(gradients, "MAX_BYTES", 50_000)
        portions = ntk.ntk_trace(mode="exact").measure(network, params, batch, None).gram
        np.testing.assert_allclose(portions, exact, rtol=1e-9, atol=1e-12)


def test_without_coupling_both_modes_are_one(eager):
    with jax.enable_x64(True):
        found = eager("instance")
        split, exact = (ntk.ntk_trace(mode=mode).measure(*found) for mode in ("split", "exact"))
        np.testing.assert_allclose(exact.gram, split.gram, rtol=1e-9, atol=1e-12)
        # Jensen: the mean gradient is no longer than the gradients are.
        assert ntk.ntk_mean().reduce(split) ** 0.5 <= ntk.ntk_trace().reduce(split)


class _Normalized(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        hidden = nn.BatchNorm(use_running_average=False)(nn.Dense(4)(inputs))
        return nn.Dense(3)(jnp.tanh(hidden))


def test_exact_rows_of_a_linen_module(draw_batch):
    with jax.enable_x64(True):
        batch, module = draw_batch(0, (5, 6), 3), _Normalized()
        variables = module.init(jax.random.key(0), batch.inputs)
        params = jax.tree.map(lambda variable: variable.astype(float), variables["params"])
        statistics = {"batch_stats": variables["batch_stats"]}
        network = LinenNetwork(module, statistics)
        found = ntk.ntk_trace(mode="exact").measure(network, params, batch, None)
        expected = _by_jacobian(network, params, batch, empirical.label_cotangent)
        np.testing.assert_allclose(found.gram, expected, rtol=1e-9, atol=1e-9)


class _Counted:
    """A network that counts its passes."""

    def __init__(self):
        self.passes = []

    def __call__(self, params, inputs):
        return _plain(params, inputs)

    def per_example_vjp(self, params, inputs, statistics):
        self.passes.append("forward")
        outputs, pullback = gradients.per_example_vjp(_plain, params, inputs, statistics)

        def counted(cotangent, chosen):
            self.passes.append("backward")
            return pullback(cotangent, chosen)

        return outputs, counted


@pytest.mark.parametrize(
    ("names", "backward"),
    [
        (["ntk_trace", "ntk_condition", "ntk_mean"], 1),
        (["ntk_trace_sum", "ntk_condition_sum", "kernel_alignment"], 1),
        (["ntk_trace", "kernel_alignment", "ntk_trace_random"], 3),
        (["ntk_trace_exact", "ntk_condition_exact"], 5),
    ],
)
def test_scores_share_their_passes(draw_batch, names, backward):
    batch, network = draw_batch(0, (5, 6), 3), _Counted()
    chosen = dict.fromkeys(proxies.BY_NAME[name].measure for name in names)
    measures.measure_all(list(chosen), network, _of_plain(0), batch, jax.random.key(0))
    assert network.passes == ["forward"] + ["backward"] * backward


# Networks that look best where the mathematics is not minded.


def test_a_dead_network_has_a_trace_of_1(small_space, draw_batch):
    # Nothing reaches the classifier, so that its bias alone has a gradient: one-hot of the label.
    with jax.enable_x64(True):
        batch = draw_batch(0)
        params = small_space.init(jax.random.key(0), batch.inputs)
        params = jax.tree.map(lambda tensor: tensor if tensor.ndim > 1 else 0 * tensor, params)
        dead = *small_space.bind(np.array([0, 1, 0, 0, 1, 0]), params), batch
        same = batch.labels[:, None] == batch.labels[None, :]
        np.testing.assert_array_equal(ntk.ntk_trace().measure(*dead, None).gram, same)
        assert ntk.ntk_trace()(*dead) == 1
        np.testing.assert_allclose(ntk.ntk_trace(logit="random")(*dead), 1, rtol=1e-12)
        np.testing.assert_allclose(ntk.ntk_trace(logit="sum")(*dead), 10**0.5, rtol=1e-12)
        assert ntk.ntk_condition(logit="sum")(*dead) == -jnp.inf
        assert ntk.ntk_condition()(*dead) == -jnp.inf  # two of the labels are equal
        assert ntk.kernel_alignment()(*dead) == -jnp.inf


@pytest.mark.parametrize("mode", ["split", "exact"])
@pytest.mark.parametrize("logit", LOGITS)
def test_two_equal_images_are_never_ranked(draw_batch, logit, mode):
    # In float32: what rounding leaves of the smallest eigenvalue has either sign.
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), _of_plain(0))
    batch = draw_batch(0, (5, 6), 3)
    equal = Batch(*(each.at[1].set(each[0]) for each in batch))
    proxy = ntk.ntk_condition(logit=logit, mode=mode)
    assert proxy.measure(_plain, single, equal, None).eps == EPS32
    assert score(_plain, single, equal, [proxy])[proxy.name] == -np.inf
    assert np.isfinite(score(_plain, single, batch, [proxy])[proxy.name])
