"""Both plans of the network against a plain Flax network that builds only the chosen operations.

The reference runs in float64, operation by operation: compiled, each of its networks takes longer.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import Batch, Scorer, proxies
from jaxnas.network import Bucket
from jaxnas.spaces import transnas
from jaxnas.types import PerExampleDifferentiable, Statistic

CHANNELS, CLASSES, SHAPE = 2, 3, (2, 64, 64, 3)
ARCHS = {
    "every operation": (3, 1, 2, 0, 1, 3),
    "dead edges": (2, 3, 0, 1, 0, 0),  # nodes 1 and 2 lead nowhere
    "fed by a cut node": (0, 0, 3, 1, 0, 2),  # node 1 is cut, and edge 2 a convolution
    "disconnected": (0, 2, 0, 0, 3, 0),  # the output is the bias of edge 4
    "all none": (0,) * 6,
    "all skip": (1,) * 6,
    "all conv_3x3": (3,) * 6,
}
NORMS = ("batch", "instance", "eval", "none")
SPACES = {norm: transnas(channels=CHANNELS, classes=CLASSES, norm=norm) for norm in NORMS}


# The reference: nothing but Flax layers, one operation an edge.


class Norm(nn.Module):
    mode: str

    @nn.compact
    def __call__(self, x):
        if self.mode == "none":
            return x
        axes = {"batch": (0, 1, 2), "instance": (1, 2)}.get(self.mode)
        mean = x.mean(axes, keepdims=True) if axes else 0
        var = x.var(axes, keepdims=True) if axes else 1
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        normalized = (x - mean) / jnp.sqrt(var + 1e-5)
        return normalized * scale[None, None, None] + bias[None, None, None]


class ConvNorm(nn.Module):
    width: int
    size: int
    mode: str
    stride: int = 1
    relu: bool = True

    @nn.compact
    def __call__(self, x):
        conv = nn.Conv(
            self.width,
            (self.size, self.size),
            (self.stride, self.stride),
            padding=[(self.size // 2, self.size // 2)] * 2,
            use_bias=False,
            name="conv",
        )
        return Norm(self.mode, name="norm")(conv(nn.relu(x) if self.relu else x))


class FactorizedReduction(nn.Module):
    width: int
    mode: str

    @nn.compact
    def __call__(self, x):
        x = nn.relu(x)
        conv = functools.partial(
            nn.Conv, self.width // 2, (1, 1), (2, 2), use_bias=False, padding="VALID"
        )
        halves = [conv(name="conv_a")(x), conv(name="conv_b")(x[:, 1:, 1:])]
        return Norm(self.mode, name="norm")(jnp.concatenate(halves, -1))


class Edge(nn.Module):
    operation: int
    width: int
    stride: int
    mode: str

    @nn.compact
    def __call__(self, x):
        if self.operation == 0:
            batch, height, width, _ = x.shape
            return jnp.zeros((batch, height // self.stride, width // self.stride, self.width))
        if self.operation == 1:
            reduction = FactorizedReduction(self.width, self.mode, name="skip")
            return x if self.stride == 1 else reduction(x)
        size = {2: 1, 3: 3}[self.operation]
        name = f"conv_{size}x{size}"
        return ConvNorm(self.width, size, self.mode, self.stride, name=name)(x)


class Cell(nn.Module):
    arch: tuple[int, ...]
    stride: int
    mode: str

    @nn.compact
    def __call__(self, x):
        def edge(number, node, stride=1):
            width = self.stride * x.shape[-1]
            return Edge(self.arch[number], width, stride, self.mode, name=f"edge_{number}")(node)

        first = edge(0, x, self.stride)
        second = edge(1, x, self.stride) + edge(2, first)
        return edge(3, x, self.stride) + edge(4, first) + edge(5, second)


class Reference(nn.Module):
    arch: tuple[int, ...]
    mode: str

    @nn.compact
    def __call__(self, x):
        stem = functools.partial(ConvNorm, size=3, mode=self.mode, stride=2)
        x = stem(CHANNELS // 2, relu=False, name="00_stem")(x)
        x = stem(CHANNELS, name="01_stem")(x)
        for number, stride in enumerate((2, 1, 1, 1, 2, 1, 1, 1, 2, 1), start=2):
            name = f"{number:02d}_{'halving' if stride == 2 else 'cell'}"
            x = Cell(self.arch, stride, self.mode, name=name)(x)
        features = x.mean((1, 2))
        return nn.Dense(CLASSES, name="13_classifier")(features), features


def _to_flax(params):
    """Return the space's parameters as Flax's layers name them; the rest is left alone."""
    if any(name.startswith("kernel") for name in params):
        kernels = {name: each for name, each in params.items() if name.startswith("kernel")}
        convs = {name.replace("kernel", "conv"): {"kernel": each} for name, each in kernels.items()}
        return convs | {
            "norm": {name: each for name, each in params.items() if name not in kernels}
        }
    return {
        name: each if name.endswith("classifier") or not isinstance(each, dict) else _to_flax(each)
        for name, each in params.items()
    }


# What is compared: outputs, and gradients of a cross-entropy and of a function of the features.


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def _drawn(norm):
    """Return random parameters of the whole space, scales and biases too, and random images."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=SHAPE))

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "scale":
            values = 1 + 0.3 * values
        elif path[-1].key.startswith("kernel"):
            values = values * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(values)

    shapes = jax.eval_shape(SPACES[norm].init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(draw, shapes), images


def _differentiate(forward, params, images):
    """Return logits and features, and the gradients of a function of both."""
    labels = jnp.arange(len(images)) % CLASSES

    def loss(params, images):
        logits, features = forward(params, images)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return losses.mean() + jnp.tanh(features).sum(), (logits, features)

    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, images)
    return outputs, gradients


def _network(norm, arch):
    def forward(params, images):
        network, tensors = SPACES[norm].bind(arch, params)
        outputs = network(tensors, images)
        return outputs.logits, outputs.features

    return forward


@functools.cache
def _expected(norm, arch):
    def forward(params, images):
        return Reference(arch, norm).apply({"params": _to_flax(params)}, images)

    return _differentiate(forward, *_drawn(norm))


def _eager(norm, arch):
    return _differentiate(_network(norm, arch), *_drawn(norm))


@functools.cache
def _program(norm):
    chex.clear_trace_counter()

    @jax.jit
    @functools.partial(chex.assert_max_traces, n=1)
    def run(arch, params, images):
        return _differentiate(_network(norm, arch), params, images)

    return run


def _compiled(norm, arch):
    return _program(norm)(jnp.array(arch, jnp.int32), *_drawn(norm))


def _assert_close(found, expected, tolerance):
    def close(path, a, b):
        bound = tolerance * max(1, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, found, expected)


@pytest.mark.parametrize(
    ("plan", "norm", "arch"),
    [
        # Each mode and each architecture once, and one mode compiled (the statistics of another
        # are below); the rest of their product is slow.
        pytest.param(
            plan,
            norm,
            arch,
            marks=()
            if norm == "batch" or (arch == "every operation" and plan is _eager)
            else pytest.mark.slow,
        )
        for plan in (_eager, _compiled)
        for norm in NORMS
        for arch in ARCHS
    ],
)
def test_outputs_and_gradients_of_the_static_network(norm, arch, plan):
    found = plan(norm, ARCHS[arch])
    _assert_close(found, _expected(norm, ARCHS[arch]), 1e-9)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float64"}


def test_gradients_say_something():
    """Or the comparisons above would hold for zeros."""
    _, (params, images) = _expected("batch", ARCHS["every operation"])
    assert float(jnp.abs(images).max()) > 1e-3
    halving = params["10_halving"]
    assert float(jnp.abs(halving["edge_1"]["skip"]["kernel_b"]).max()) > 1e-3
    assert not halving["edge_1"]["conv_3x3"]["kernel"].any()


def test_a_bucket_is_the_loop():
    """Under vmap too, where those with one pattern take the heavy operations together."""
    params, images = _drawn("none")
    space = SPACES["none"]
    archs = np.array([(3, 1, 1, 2, 0, 1), (3, 1, 0, 2, 1, 1), (3, 1, 1, 2, 1, 0)], np.int32)
    pattern = space.pattern(archs)
    np.testing.assert_array_equal(pattern, [(3, 1, 0, 2, 0, 0)] * 3)

    @jax.jit
    def logits(decisions, pattern):
        network, tensors = space.bind(Bucket(decisions, pattern), params)
        return network(tensors, images).logits

    found = jax.vmap(logits, (0, None))(jnp.array(archs), jnp.array(pattern[0]))
    loop = [_network("none", tuple(arch.tolist()))(params, images)[0] for arch in archs]
    _assert_close(found, jnp.stack(loop), 1e-10)


# Per-example statistics.


def keep(tensor, gradients):
    return gradients


KEEP = Statistic(keep)


def _statistics(norm, arch, params, images):
    """Return the gradients of each example of a sum of weighted logits."""
    network, tensors = SPACES[norm].bind(arch, params)
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=(SHAPE[0], CLASSES)))
    assert isinstance(network, PerExampleDifferentiable)
    return network.per_example_vjp(tensors, images, (KEEP,))[1](cotangent, (KEEP,))[0]


@functools.cache
def _loop(norm, arch):
    """Return the gradients of each example alone, by the reference.

    Of an example alone, instance mode is the batch mode.
    """
    params, images = _drawn(norm)
    mode = "batch" if norm == "instance" else norm
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=(SHAPE[0], CLASSES)))

    def weighted(params, image, weights):
        logits, _ = Reference(arch, mode).apply({"params": _to_flax(params)}, image[None])
        return (logits[0] * weights).sum()

    return jax.jit(jax.vmap(jax.grad(weighted), (None, 0, 0)))(params, images, cotangent)


def _chosen(tree, names):
    """Return what a tree has under the names of another."""
    if not isinstance(names, dict):
        return tree
    return {name: _chosen(tree[name], below) for name, below in names.items()}


@pytest.mark.parametrize("arch", ["every operation", "dead edges"])
@pytest.mark.parametrize("norm", ["instance", "eval"])
def test_eager_statistics_are_those_of_a_loop(norm, arch):
    found = _statistics(norm, ARCHS[arch], *_drawn(norm))
    chosen = SPACES[norm].bind(ARCHS[arch], _drawn(norm)[0])[1]
    expected = _chosen(_loop(norm, ARCHS[arch]), chosen)
    _assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("norm", ["instance", pytest.param("eval", marks=pytest.mark.slow)])
def test_compiled_statistics_are_those_of_a_loop(norm):
    statistics = jax.jit(functools.partial(_statistics, norm))
    for arch in ("every operation", "dead edges"):
        found = statistics(jnp.array(ARCHS[arch]), *_drawn(norm))
        _assert_close(found, _loop(norm, ARCHS[arch]), 1e-9)


def test_in_instance_mode_the_features_are_biases():
    """The mean over the pixels of what was normalized over the pixels; no gradient passes it."""
    (_, features), (_, images) = _expected("instance", ARCHS["every operation"])
    _assert_close(features[0], features[1], 1e-12)
    assert float(jnp.abs(images).max()) < 1e-12
    (_, features), _ = _expected("eval", ARCHS["every operation"])
    assert float(jnp.abs(features[0] - features[1]).max()) > 1e-3


def test_the_modes_differ():
    """Gradients of examples that the batch couples are other ones than those of examples alone."""
    params, images = _drawn("instance")

    def squares(norm):
        kept = _statistics(norm, ARCHS["every operation"], params, images)
        return sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(kept))

    batch, instance, evaluation = (squares(norm) for norm in ("batch", "instance", "eval"))
    assert len({f"{each:.3g}" for each in (batch, instance, evaluation)}) == 3


# Facts of the space.


def test_number_of_parameters_by_hand():
    def conv(inputs, outputs, size=3):
        return size**2 * inputs * outputs + 2 * outputs  # with scale and bias

    space = transnas()
    outside = conv(3, 32) + conv(32, 64) + 512 * 10 + 10
    assert space.num_params((0,) * 6) == outside
    # A factorized reduction has as many weights as one 1x1 convolution.
    reductions = conv(64, 128, 1) + conv(128, 256, 1) + conv(256, 512, 1)
    assert space.num_params((1, 0, 0, 0, 0, 0)) == outside + reductions
    assert space.num_params((2, 0, 0, 0, 0, 0)) == (
        outside + reductions + 3 * conv(128, 128, 1) + 3 * conv(256, 256, 1) + conv(512, 512, 1)
    )
    inner = 4 * conv(128, 128) + 4 * conv(256, 256) + 2 * conv(512, 512)
    assert space.num_params((0, 0, 3, 0, 0, 0)) == outside + inner
    params = _drawn("batch")[0]
    for arch in ARCHS.values():
        tensors = SPACES["batch"].bind(arch, params)[1]
        count = sum(leaf.size for leaf in jax.tree.leaves(tensors))
        assert count == SPACES["batch"].num_params(arch)


def test_the_notation_is_the_benchmarks():
    space = SPACES["batch"]
    arch = space.from_string("64-41414-1_02_333")
    np.testing.assert_array_equal(arch, [1, 0, 2, 3, 3, 3])
    assert arch.dtype == np.int32
    for each in ARCHS.values():
        assert space.to_string(space.from_string(space.to_string(each))) == space.to_string(each)


@pytest.mark.parametrize(
    "string",
    [
        *("", "64-41414-1_02_334", "64-41414-1_02_33", "64-41414-1_02_333\n", "64-41414-basic"),
        *("32-41414-1_02_333", "64-41414-1_02_33\u0663", "1_02_333", "64-41414-{}_{}{}_{}{}{}"),
    ],
)
def test_other_strings_are_refused(string):
    message = r"written 64-41414-\{\}_.*with a digit 0 to 3 for each"
    with pytest.raises(ValueError, match=message):
        SPACES["batch"].from_string(string)


def test_dead_edges_vanish():
    space = SPACES["batch"]
    for arch, expected in [
        ((2, 3, 0, 1, 0, 0), (0, 0, 0, 1, 0, 0)),
        ((0, 0, 1, 2, 0, 3), (0, 0, 0, 2, 0, 3)),  # edge 5 gives its bias
        ((1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1)),
        ((3, 0, 0, 0, 0, 2), (0, 0, 0, 0, 0, 2)),
    ]:
        found = space.representative(arch)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32
        params, images = _drawn("batch")
        logits = [_network("batch", each)(params, images)[0] for each in (arch, expected)]
        _assert_close(logits[0], logits[1], 1e-12)


def test_connectedness_is_that_of_the_gradient():
    for name, arch in ARCHS.items():
        _, (_, images) = _expected("none", arch)
        connected = SPACES["none"].is_connected(arch)
        assert bool(connected) == bool(images.any()) == (name not in {"disconnected", "all none"})
        assert jax.jit(SPACES["none"].is_connected)(jnp.array(arch)) == connected


@pytest.mark.parametrize("call", ["bind", "is_connected", "representative", "pattern", "to_string"])
def test_operations_of_other_spaces_are_refused(call):
    functions = {"bind": lambda arch: SPACES["batch"].bind(arch, {})}
    with pytest.raises(ValueError, match=r"Decision 2 must be in \[0, 4\): got 4"):
        functions.get(call, getattr(SPACES["batch"], call))([0, 1, 4, 0, 0, 0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channels": 0}, ValueError, "channels must be an integer from 1"),
        ({"channels": 2.5}, ValueError, "channels must be an integer from 1"),
        ({"classes": 1}, ValueError, "classes must be an integer from 2"),
        ({"norm": "layer"}, ValueError, "norm must be one of batch, .*: got 'layer'"),
        ({"cells": 2}, TypeError, "unexpected keyword argument 'cells'"),
    ],
)
def test_bad_options(options, error, message):
    assert list(inspect.signature(transnas).parameters) == ["norm", "colors", "channels", "classes"]
    with pytest.raises(error, match=message):
        transnas(**options)


@pytest.mark.parametrize("shape", [(2, 48, 64, 3), (2, 64, 16, 3), (64, 64, 3), (0, 64, 64, 3)])
def test_bad_images(shape):
    network, tensors = SPACES["batch"].bind(ARCHS["all skip"], _drawn("batch")[0])
    with pytest.raises(ValueError, match=r"divisible by 32: got shape \(.*\); resize or pad"):
        network(tensors, jnp.zeros(shape))


def test_images_of_one_last_pixel_are_refused_in_instance_mode():
    network, tensors = SPACES["instance"].bind(ARCHS["all skip"], _drawn("instance")[0])
    with pytest.raises(ValueError, match="got images 32x32; use 64x64 or larger"):
        network(tensors, jnp.zeros((2, 32, 32, 3)))


# Scores.


@pytest.mark.parametrize(
    "names",
    [
        ["grad_norm", "mgm", "layer_balance", "naswot", "params", "flops"],
        pytest.param(list(proxies.BY_NAME), marks=pytest.mark.slow),  # a minute
    ],
    ids=["some", "all"],
)
def test_every_score_of_connected_cells_is_finite(names):
    rng = np.random.default_rng(1)
    batch = Batch(jnp.asarray(rng.normal(size=(4, *SHAPE[1:]))), jnp.array([0, 1, 2, 0]))
    space = SPACES["batch"]._replace(init=lambda key, inputs: _drawn("batch")[0])
    cells = [(3, 1, 2, 0, 1, 3), (2, 3, 1, 1, 0, 3)]
    status = Scorer(space, batch, names, plan="eager")(cells).status
    assert status.keys() == set(names)
    assert [name for name in names if (status[name] != "ok").any()] == []
