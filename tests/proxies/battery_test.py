"""What every proxy must do, on the search space and on a plain network."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, Scorer, proxies, score
from jaxnas.benchmarks.transformers import Choice
from jaxnas.network import operations as ops
from jaxnas.proxies import measures
from jaxnas.spaces.autoformer_space import AutoFormer
from jaxnas.spaces.bert_space import Bert
from jaxnas.spaces.image_space import factory
from jaxnas.spaces.nasbench201_space import NASBench201, cell, network
from jaxnas.spaces.pit_space import PiT
from jaxnas.spaces.transformer.space import space_of

NAMES = list(proxies.BY_NAME)
OF_THE_FIRST = {"meco", "channel_independence", "channel_entropy"}
ORDER_MATTERS = {"split_half", "knas_published", "knas_published_aliased", "zico"} | OF_THE_FIRST
# They compare the blocks of a network, which a plain one does not show.
OF_BLOCKS = {"expressivity", "progressivity", "trainability"}
OF_MAPS = {"meco"}
ON_A_PLAIN_NETWORK = [name for name in NAMES if name not in OF_BLOCKS | OF_MAPS]
# The last see a ReLU whether it is chosen or not.
OF_RELUS = {"naswot", "linear_regions", "swap", "zen", "channel_independence", "channel_entropy"}
BLIND_TO_ACTIVATIONS = {"params", "flops", "l2_norm"} | OF_RELUS
# Six examples lie in six regions, or a network is not alive.
SATURATED = {"linear_regions"}
# Of as many convolutions: what collects their statistics is compiled for a number of tensors.
CELLS = [(2, 3, 4), (3, 1, 2)]


def _tolerance(name):
    """In float64; but what rounding leaves in float32 is of an order, and not a number."""
    return 1 if name == "knas_published_aliased" else 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_keyed_by_name(name):
    assert proxies.BY_NAME[name].name == name
    assert name.isidentifier()
    assert proxies.resolve([name]) == proxies.resolve(name) == (proxies.BY_NAME[name],)


@pytest.mark.parametrize(
    "name",
    [
        *("grad_norm", "fisher", "l2_norm", "zico", "gradsign", "knas_published", "synflow", "zen"),
        *("naswot", "linear_regions", "swap", "expressivity", "trainability", "meco", "epe_nas"),
        "ntk_condition",
    ],
)
def test_what_differs_from_released_code_is_said(name):
    (factory,) = (
        getattr(module, name)
        for module in vars(proxies).values()
        if inspect.ismodule(module) and callable(getattr(module, name, None))
    )
    assert "Differs from the released code: " in inspect.getdoc(factory)


# A plain network with an architecture: which activation it has.


def _plain(arch, params, inputs):
    hidden = inputs @ params["first"] + params["shift"][None]
    return jnp.where(arch == 0, jnp.tanh(hidden), jax.nn.relu(hidden)) @ params["second"]


@pytest.fixture(scope="module")
def plain(draw_batch):
    """The scores of two architectures by name, eagerly and in `jit`; and how often it traced."""
    rng = np.random.default_rng(0)
    traces = []

    def score_all(arch, params, batch):
        def network(params, inputs):
            return _plain(arch, params, inputs)

        traces.append(None)
        chosen = proxies.resolve(ON_A_PLAIN_NETWORK)
        shared = list(dict.fromkeys(each.measure for each in chosen))
        measured = measures.measure_all(shared, network, params, batch, jax.random.key(0))
        by_measure = dict(zip(shared, measured, strict=True))
        return {each.name: each.reduce(by_measure[each.measure]) for each in chosen}

    with jax.enable_x64(True):
        params = {
            "first": jnp.asarray(rng.normal(size=(8, 9))),
            "second": jnp.asarray(rng.normal(size=(9, 4))),
            "shift": jnp.asarray(rng.normal(size=9)),
        }
        batch = draw_batch(0, (6, 8), 4)
        eager = [score_all(jnp.int32(arch), params, batch) for arch in (0, 1)]
        traces.clear()
        jitted = jax.jit(score_all)
        return eager, [jitted(jnp.int32(arch), params, batch) for arch in (0, 1)], len(traces)


def test_one_trace_for_two_architectures(plain):
    assert plain[2] == 1


@pytest.mark.parametrize("name", ON_A_PLAIN_NETWORK)
def test_jit_changes_nothing_on_a_plain_network(plain, name):
    eager, jitted = ([float(scores[name]) for scores in way] for way in plain[:2])
    assert all(scores[name].shape == () for scores in plain[1])
    assert np.isfinite(eager).all()
    assert (eager[0] == eager[1]) == (name in BLIND_TO_ACTIVATIONS)
    np.testing.assert_allclose(jitted, eager, rtol=_tolerance(name))


COMPARES = {
    *("naswot", "linear_regions", "swap", "jacob_cov", "epe_nas", "zico", "gradsign"),
    *("knas_published", "knas_published_aliased", "offdiagonal", "split_half", "unified_kernel"),
    *("gradient_diversity", "gradient_diversity_mean", "kernel_alignment"),
    *(name for name in NAMES if name.startswith(("gradient_correlation", "ntk_condition"))),
}
SMALL = {
    "first": jnp.asarray(np.random.default_rng(0).normal(size=(8, 9)), jnp.float32),
    "shift": jnp.zeros(9, jnp.float32),
    "second": jnp.asarray(np.random.default_rng(1).normal(size=(9, 4)), jnp.float32),
}


def _rectified(params, inputs):
    return jax.nn.relu(inputs @ params["first"] + params["shift"][None]) @ params["second"]


@pytest.mark.parametrize("name", ON_A_PLAIN_NETWORK)
def test_one_example_has_a_score_unless_it_compares(name):
    batch = Batch(jnp.ones((1, 8), jnp.float32), jnp.array([1]))
    if name in COMPARES:
        with pytest.raises(ValueError, match=r"^\w+ (compares|needs an) example"):
            score(_rectified, SMALL, batch, [name])
    else:
        assert np.isfinite(score(_rectified, SMALL, batch, [name])[name])


def _deep(params, inputs):
    for tensor in params["hidden"]:
        inputs = jax.nn.relu(inputs @ tensor)
    return inputs @ params["last"]


def _normalized(params, inputs):
    hidden = jax.nn.relu(inputs @ params["first"] + params["shift"][None])
    centered = hidden - hidden.mean(1, keepdims=True)
    return centered / jnp.sqrt(centered.var(1, keepdims=True) + 1e-6) @ params["second"]


def _scaled(factor):
    return {name: factor * tensor for name, tensor in SMALL.items()}


DEEP = {
    "hidden": [
        jnp.asarray(
            np.random.default_rng(seed).normal(0, (2 / rows) ** 0.5, (rows, 256)), "float32"
        )
        for seed, rows in enumerate([8, *[256] * 29])
    ],
    "last": jnp.asarray(np.random.default_rng(0).normal(0, 0.1, (256, 4)), "float32"),
}
IMAGES = jnp.asarray(np.random.default_rng(2).normal(size=(6, 8)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 0, 1, 2])
ADVERSARIAL = {
    "6 layers": (_deep, DEEP | {"hidden": DEEP["hidden"][:6]}, IMAGES, LABELS),
    "30 layers": (_deep, DEEP, IMAGES, LABELS),
    "layer normalization": (_normalized, SMALL, IMAGES, LABELS),
    "layer normalization of black images": (_normalized, SMALL, 0 * IMAGES, LABELS),
    "small weights": (_rectified, _scaled(1e-12), IMAGES, LABELS),
    "large weights": (_rectified, _scaled(1e4), IMAGES, LABELS),
    "weights of 0": (_rectified, _scaled(0), IMAGES, LABELS),
    "equal images": (_rectified, SMALL, jnp.ones((6, 8), jnp.float32), LABELS),
    "small images": (_rectified, SMALL, 1e-12 * IMAGES, LABELS),
    "one class": (_rectified, SMALL, IMAGES, 0 * LABELS),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case == "30 layers" else ())
        for case in ADVERSARIAL
    ],
)
def test_finite_networks_have_no_score_of_nan(case):
    network, params, images, labels = ADVERSARIAL[case]
    assert jnp.isfinite(network(params, images)).all()
    found = score(network, params, Batch(images, labels), ON_A_PLAIN_NETWORK)
    assert [name for name, each in found.items() if np.isnan(each) or each == np.inf] == []


# The search space.


class OneCell(NASBench201):
    """One cell of three nodes up to a reduction: all scores of all networks compile for minutes."""

    num_choices = cell.NUM_CHOICES[:3]

    def forward(self, net, x, arch):
        x = net.stage("stem", ops.conv_norm(features=self.channels), x)
        x = net.stage("cell", functools.partial(_cell_of_three_nodes, arch), x)
        x = net.stage("reduction", functools.partial(network.reduction, 2 * self.channels), x)
        x = net.stage("norm", ops.norm_relu_pool(), x)
        return net.stage("classifier", ops.dense(features=self.classes), x)


def _cell_of_three_nodes(arch, net, x):
    offered = {
        "none": ops.NONE,
        "skip_connect": ops.IDENTITY,
        "nor_conv_1x1": ops.relu_conv_norm(features=x.shape[-1], size=1),
        "nor_conv_3x3": ops.relu_conv_norm(features=x.shape[-1]),
        "avg_pool_3x3": ops.average_pool(),
    }
    middle = net.choose("edge_0", offered, arch[0], x)
    direct = net.choose("edge_1", offered, arch[1], x)
    return net.add(direct, net.choose("edge_2", offered, arch[2], middle))


def _is_connected(arch):
    return bool(arch[1] or (arch[0] and arch[2]))


@pytest.fixture(scope="module")
def space(drawn):
    """Of two channels, each example on its own."""
    networks = factory(
        OneCell, notation="{}{}{}", is_connected=_is_connected, representative=np.asarray
    )
    return drawn(networks(channels=2, norm="instance"))


@pytest.fixture(scope="module")
def scored(space, draw_batch):
    """`scored(plan, cells, order)`: the scores of cells by name, in float64."""

    def scores(plan, cells=CELLS, order=range(6)):
        with jax.enable_x64(True):
            batch = Batch(*(each[jnp.array(order)] for each in draw_batch(0)))
            found = Scorer(space, batch, NAMES, plan=plan)(np.array(cells)).scores
        return [{name: found[name][0, at] for name in NAMES} for at in range(len(cells))]

    return scores


@pytest.fixture(scope="module")
def traced(scored):
    return scored("compiled")


@pytest.fixture(scope="module")
def turned(scored):
    return scored("compiled", order=(5, 2, 0, 3, 1, 4))


@pytest.fixture(scope="module")
def eager(scored):
    return scored("eager")


@pytest.fixture(scope="module")
def of_random_cells(scored, space):
    cells = np.random.default_rng(0).integers(5, size=(30, 3))
    return scored("compiled", [cell for cell in cells if space.is_connected(cell)])


@pytest.mark.parametrize("name", NAMES)
def test_connected_cells_have_finite_scores(of_random_cells, name):
    found = [scores[name] for scores in of_random_cells]
    assert len(found) > 10
    assert np.isfinite(found).all()
    assert (np.ptp(found) > 0) == (name not in SATURATED)


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_is_a_walk(traced, eager, name):
    for found, other in zip(eager, traced, strict=True):
        np.testing.assert_allclose(other[name], found[name], rtol=_tolerance(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_examples_matters_to_few(traced, turned, name):
    found, other = ([scores[name] for scores in each] for each in (traced, turned))
    if name in ORDER_MATTERS:
        assert not np.isclose(found, other, rtol=1e-3, atol=0).any()
    else:
        np.testing.assert_allclose(other, found, rtol=_tolerance(name))


def test_the_mean_of_the_gram_matrix_is_the_square_of_the_batch_gradient(traced, eager):
    # Each image is normalized by itself, so that two different backward passes must agree.
    for scores in traced + eager:
        mean = scores["gradient_values"] / 6 + (1 - 1 / 6) * scores["offdiagonal"]
        np.testing.assert_allclose(mean, scores["mgm"], rtol=1e-12)


# Transformers of a space, as small as they can be.


class TinyPiT(PiT):
    choices = tuple(
        Choice(name, (value,))
        for name, value in {"base_dim": 4, "mlp_ratio": 2, "heads": "1/1/2"}.items()
    ) + tuple(Choice(f"depth_{stage}", (1,)) for stage in (1, 2, 3))


class TinyAutoFormer(AutoFormer):
    choices = (
        *(Choice("hidden_dim", (8,)), Choice("depth", (2,))),
        *(Choice("mlp_ratio", (2,), 2), Choice("num_heads", (2,), 2)),
    )


class TinyBert(Bert):
    choices = (
        *(Choice("hidden_size", (8,)), Choice("layers", (2,)), Choice("heads", (2,), 2)),
        *(Choice("num_feed_forward", (1,), 2), Choice("feed_forward_dimension", (1,), 2)),
    )

    def representative(self, arch):
        return np.array(arch)


TRANSFORMERS = {
    "pit": TinyPiT(image_size=32, classes=4),
    "autoformer": TinyAutoFormer(image_size=32, classes=4),
    "bert": TinyBert(classes=4, vocabulary=30, positions=8),
}
# Tokens cannot be moved a little, nor differentiated by.
NOT_OF_TOKENS = {"zen", "jacob_cov", "epe_nas"}


# What only counts, and what reads the weights, the batch, each example, activations and directions.
OF_TRANSFORMERS = [
    "params",
    "flops",
    "synflow",
    "grad_norm",
    "mgm",
    "naswot",
    *sorted(NOT_OF_TOKENS),
]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        pytest.param("bert", OF_TRANSFORMERS, id="bert"),
        *(
            pytest.param(name, NAMES, id=f"{name}, all", marks=pytest.mark.slow)
            for name in TRANSFORMERS
        ),
    ],
)
def test_transformers_have_all_scores(name, names, draw_batch):
    space = space_of(TRANSFORMERS[name])
    batch = draw_batch(0, (6, 32, 32, 3), 4)
    if name == "bert":
        tokens = np.random.default_rng(0).integers(0, 30, (6, 2, 8))
        tokens[:, 1] = np.where(np.arange(8) < np.arange(3, 9)[:, None], 0, -1)
        batch = Batch(jnp.asarray(tokens, jnp.int32), batch.labels)
    found = Scorer(space, batch, names)(np.zeros((1, len(space.num_choices)), int))
    missing = {each for each in names if found.status[each].item() != "ok"}
    assert missing == (NOT_OF_TOKENS if name == "bert" else set())
    assert np.isfinite([found.scores[each].item() for each in names if each not in missing]).all()
