"""Both plans of the network against a plain Flax network that builds only the chosen operations.

The reference runs in float64.
"""

import functools
import logging
import re
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from jaxnas import gradients
from jaxnas.network import Architecture, StaticArch
from jaxnas.spaces import nasbench201
from jaxnas.spaces.nasbench201_space import NASBench201, cell
from jaxnas.types import PerExampleDifferentiable, Statistic

CLASSES = 3
ARCHS = {
    "every operation": (3, 2, 4, 1, 0, 3),
    "dead edges": (3, 1, 0, 2, 0, 4),  # node 1 leads nowhere
    "fed by a cut node": (0, 0, 3, 1, 4, 2),  # node 1 is cut, and edge 2 a convolution
    "disconnected": (0, 1, 0, 0, 3, 0),  # the output is the bias of edge 4
    "all cut": (0,) * 6,
    "all skip_connect": (1,) * 6,
    "all nor_conv_3x3": (3,) * 6,
}
CELLS = {"batch": 2, "instance": 2, "eval": 1, "none": 1}  # two are scanned in the traced plan
SPACES = {
    norm: nasbench201(channels=2, cells=cells, classes=CLASSES, norm=norm)
    for norm, cells in CELLS.items()
}


# The reference: nothing but Flax layers, one operation an edge.


class Norm(nn.Module):
    mode: str

    @nn.compact
    def __call__(self, x):
        if self.mode == "none":
            return x
        channels = x.shape[-1:]
        if self.mode == "eval":
            mean = self.get_variable("running", "mean", jnp.zeros(channels, x.dtype))
            var = self.get_variable("running", "var", jnp.ones(channels, x.dtype))
        else:
            mean, var = _moments(x, {"batch": (0, 1, 2), "instance": (1, 2)}[self.mode])
            self._show("mean", mean.mean(0))
            self._show("var", var.mean(0))
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        return _standardize(x, mean, var, scale, bias)

    def _show(self, name, value):
        self.sow("statistics", name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)


@functools.partial(jax.jit, static_argnames="axes")
def _moments(x, axes):
    mean, var = x.mean(axes), x.var(axes)
    return mean.reshape(-1, x.shape[-1]), var.reshape(-1, x.shape[-1])


@jax.jit
def _standardize(x, mean, var, scale, bias):
    mean, var, scale, bias = (
        each.reshape(-1, 1, 1, x.shape[-1]) for each in (mean, var, scale, bias)
    )
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


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


class Edge(nn.Module):
    operation: str
    mode: str

    @nn.compact
    def __call__(self, x):
        if self.operation == "skip_connect":
            return x
        if self.operation == "avg_pool_3x3":
            return nn.avg_pool(x, (3, 3), padding=[(1, 1)] * 2, count_include_pad=False)
        size = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[self.operation]
        return ConvNorm(x.shape[-1], size, self.mode, name=self.operation)(x)


class Cell(nn.Module):
    arch: tuple[int, ...]
    mode: str

    @nn.compact
    def __call__(self, x):
        names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
        nodes, edge = [x], 0
        for target in (1, 2, 3):
            node = jnp.zeros_like(x)
            for source in range(target):
                operation = names[self.arch[edge]]
                if operation != "none":
                    node = node + Edge(operation, self.mode, name=f"edge_{edge}")(nodes[source])
                edge += 1
            nodes.append(node)
        return nodes[3]


class Reduction(nn.Module):
    mode: str

    @nn.compact
    def __call__(self, x):
        width = 2 * x.shape[-1]
        y = ConvNorm(width, 3, self.mode, stride=2, name="conv_a")(x)
        y = ConvNorm(width, 3, self.mode, name="conv_b")(y)
        pooled = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return y + ConvNorm(width, 1, "none", relu=False, name="shortcut")(pooled)


class Reference(nn.Module):
    arch: tuple[int, ...]
    mode: str
    cells: int

    @nn.compact
    def __call__(self, x):
        x = ConvNorm(2, 3, self.mode, relu=False, name="00_stem")(x)
        stage = ["cell"] * self.cells
        parts = [*stage, "reduction", *stage, "reduction", *stage]
        for position, kind in enumerate(parts, start=1):
            name = f"{position:02d}_{kind}"
            if kind == "cell":
                x = Cell(self.arch, self.mode, name=name)(x)
            else:
                x = Reduction(self.mode, name=name)(x)
        last = len(parts) + 1
        features = nn.relu(Norm(self.mode, name=f"{last:02d}_norm")(x)).mean((1, 2))
        return nn.Dense(CLASSES, name=f"{last + 1:02d}_classifier")(features), features


def _to_flax(params):
    """Return the space's parameters as Flax's layers name them; the rest is left alone."""
    if "kernel" in params:
        norm = {name: tensor for name, tensor in params.items() if name != "kernel"}
        return {"conv": {"kernel": params["kernel"]}, "norm": norm}
    return {
        name: _to_flax(tensor)
        if isinstance(tensor, dict) and not name.endswith("classifier")
        else tensor
        for name, tensor in params.items()
    }


def _reference(arch, norm, params, images, running=None, cells=None):
    """Return logits and features, and the batch statistics by path."""
    variables = {"params": _to_flax(params), "running": running or {}}
    module = Reference(arch, norm, cells or CELLS[norm])
    outputs, state = module.apply(variables, images, mutable=["statistics"])
    return outputs, traverse_util.flatten_dict(state.get("statistics", {}), sep="/")


def _path_in_space(path):
    """The space names statistics by operation, without the layers inside."""
    return re.sub(r"/norm(?=/)", "", path)


# What is compared: outputs, and gradients of a cross-entropy and of a function of the features.


class Setting(NamedTuple):
    norm: str
    shape: tuple[int, ...] = (2, 8, 12, 3)
    dtype: str = "float64"

    @property
    def tolerance(self):
        return {"float64": 1e-10, "float32": 1e-5}[self.dtype]

    def __str__(self):
        return "-".join([self.norm, "x".join(map(str, self.shape)), self.dtype])


BATCH, INSTANCE, EVAL = Setting("batch"), Setting("instance"), Setting("eval")
# One shape, so that they share what is compiled.
SETTINGS = [BATCH, INSTANCE, EVAL, Setting("none"), Setting("batch", dtype="float32")]
# Where a normalization divides by the root of epsilon, because an image is constant: float32 is
# not exact enough to compare.
ILL_CONDITIONED = {"fed by a cut node", "disconnected"}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def _drawn(setting):
    """Return random parameters of the whole space, scales and biases too, and random images.

    Without the space's own `init`, which compiles for as long as a network does.
    """
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=setting.shape).astype(np.float32), float)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "scale":
            values = 1 + 0.3 * values
        elif path[-1].key == "kernel":
            values = values * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(values.astype(np.float32), float)  # exact in both precisions

    shapes = jax.eval_shape(SPACES[setting.norm].init, jax.random.key(0), images)
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return jax.tree.map(lambda leaf: leaf.astype(setting.dtype), (params, images))


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
        network, read = SPACES[norm].bind(arch, params)
        outputs = network(read, images)
        return outputs.logits, outputs.features

    return forward


@functools.cache
def _expected(setting, arch):
    def forward(params, images):
        return _reference(arch, setting.norm, params, images)[0]

    return _differentiate(forward, *_drawn(setting._replace(dtype="float64")))


def _eager(setting, arch):
    return _differentiate(_network(setting.norm, arch), *_drawn(setting))


@functools.cache
def _program(setting):
    chex.clear_trace_counter()

    @jax.jit
    @functools.partial(chex.assert_max_traces, n=1)
    def run(arch, params, images):
        return _differentiate(_network(setting.norm, arch), params, images)

    return run


@functools.partial(jax.jit, static_argnames="norm")
def _outputs(norm, arch, params, images):
    return _network(norm, arch)(params, images)


def _compiled(setting, arch):
    return _program(setting)(jnp.array(arch, jnp.int32), *_drawn(setting))


def _assert_close(found, expected, tolerance):
    def close(path, a, b):
        bound = tolerance * max(1, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, found, expected)


@pytest.mark.parametrize(
    ("setting", "arch", "plan"),
    [
        # Each architecture once, and each setting; compiled those that couple examples or look at
        # each alone. The rest of their product is slow.
        pytest.param(
            setting,
            arch,
            plan,
            marks=()
            if setting == BATCH
            or (arch == "every operation" and (plan is _eager or setting == INSTANCE))
            else pytest.mark.slow,
        )
        for plan in (_eager, _compiled)
        for setting in SETTINGS
        for arch in ARCHS
        if setting.dtype == "float64" or arch not in ILL_CONDITIONED
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_outputs_and_gradients_of_the_static_network(setting, arch, plan):
    found = plan(setting, ARCHS[arch])
    _assert_close(found, _expected(setting, ARCHS[arch]), setting.tolerance)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {setting.dtype}


@pytest.mark.parametrize("plan", ["eager", "compiled"])
def test_a_batch_of_one(plan):
    setting = Setting("none", (1, 12, 12, 3))
    for arch in ("every operation", "dead edges"):
        expected, _ = _reference(ARCHS[arch], "none", *_drawn(setting))
        if plan == "eager":
            found = _network("none", ARCHS[arch])(*_drawn(setting))
        else:
            found = _outputs("none", jnp.array(ARCHS[arch]), *_drawn(setting))
        _assert_close(found, expected, 1e-10)


def test_gradients_say_something():
    """Or the comparisons above would hold for zeros."""
    _, (params, images) = _expected(BATCH, ARCHS["every operation"])
    assert float(jnp.abs(images).max()) > 1e-3
    chosen = params["07_cell"]["edge_5"]
    assert float(jnp.abs(chosen["nor_conv_3x3"]["kernel"]).max()) > 1e-3
    assert not chosen["nor_conv_1x1"]["kernel"].any()


def test_the_eager_plan_inside_jit():
    arch = ARCHS["every operation"]
    run = jax.jit(functools.partial(_differentiate, _network("batch", arch)))
    _assert_close(run(*_drawn(BATCH)), _expected(BATCH, arch), 1e-10)


@pytest.mark.parametrize("arch", ["every operation", "dead edges", "fed by a cut node"])
@pytest.mark.parametrize("setting", [BATCH, INSTANCE], ids=str)
def test_statistics_are_those_of_the_batch(setting, arch):
    params, images = _drawn(setting)
    network, read = SPACES[setting.norm].bind(ARCHS[arch], params)
    found = traverse_util.flatten_dict(network(read, images).statistics, sep="/")
    found = {path: leaf for path, leaf in found.items() if leaf is not None}
    _, expected = _reference(ARCHS[arch], setting.norm, params, images)
    dead = {f"edge_{edge}" for edge in range(6)} - {
        f"edge_{edge}" for edge in cell.live_edges(ARCHS[arch])
    }
    expected = {
        _path_in_space(path): leaf
        for path, leaf in expected.items()
        if not dead & set(path.split("/"))
    }
    assert found.keys() == expected.keys()
    _assert_close(found, expected, setting.tolerance)


def test_running_statistics():
    arch = ARCHS["every operation"]
    params, images = _drawn(EVAL)
    _, statistics = _reference(arch, "batch", params, images, cells=CELLS["eval"])
    rng = np.random.default_rng(1)
    running = {
        path: jnp.asarray(rng.uniform(0.5, 2, leaf.shape) if "var" in path else 3 * leaf)
        for path, leaf in statistics.items()
    }
    expected, _ = _reference(
        arch, "eval", params, images, traverse_util.unflatten_dict(running, sep="/")
    )
    own_running = traverse_util.unflatten_dict(
        {_path_in_space(path): leaf for path, leaf in running.items()}, sep="/"
    )
    network, read = SPACES["eval"].bind(arch, params)
    outputs = network(read, images, own_running)
    _assert_close((outputs.logits, outputs.features), expected, 1e-10)
    assert float(jnp.abs(outputs.logits - network(read, images).logits).max()) > 1e-3
    kept = traverse_util.flatten_dict(outputs.statistics, sep="/")
    for path, leaf in running.items():
        np.testing.assert_array_equal(kept[_path_in_space(path)], leaf)


# Per-example gradients.


def keep(tensor, gradients):
    return gradients


def total(tensor, gradients):
    return gradients.sum(0)


KEEP, TOTAL = Statistic(keep), Statistic(total)


def _cotangent(images):
    return jnp.asarray(np.random.default_rng(2).normal(size=(len(images), CLASSES)))


def _summed(norm, arch, cotangent):
    def summed_logits(params, images):
        return (_network(norm, arch)(params, images)[0] * cotangent).sum()

    return jax.grad(summed_logits)


@functools.cache
def _loop(arch):
    """Return the gradients of each example alone, in batch mode, for the instance setting."""
    params, images = _drawn(INSTANCE)
    cotangent = _cotangent(images)
    alone = [
        _summed("batch", arch, cotangent[i : i + 1])(params, images[i : i + 1])
        for i in range(len(images))
    ]
    return jax.tree.map(lambda *rows: jnp.stack(rows), *alone)


def _chosen(tree, names):
    """Return what a tree has under the names of another."""
    if not isinstance(names, dict):
        return tree
    return {name: _chosen(tree[name], below) for name, below in names.items()}


@pytest.mark.parametrize("arch", ["every operation", "dead edges", "fed by a cut node"])
def test_statistics_of_the_eager_plan_are_those_of_a_loop(arch):
    params, images = _drawn(INSTANCE)
    network, read = SPACES["instance"].bind(ARCHS[arch], params)
    assert isinstance(network, PerExampleDifferentiable)
    outputs, pullback = network.per_example_vjp(read, images, (KEEP,))
    expected = _chosen(_loop(ARCHS[arch]), read)
    _assert_close(pullback(_cotangent(images), (KEEP,))[0], expected, 1e-10)
    _assert_close(outputs.logits, network(read, images).logits, 1e-12)


def test_statistics_of_the_compiled_plan_are_those_of_a_loop():
    params, images = _drawn(INSTANCE)

    @jax.jit
    def kept(arch, params, images, cotangent):
        network, read = SPACES["instance"].bind(arch, params)
        return network.per_example_vjp(read, images, (KEEP,))[1](cotangent, (KEEP,))[0]

    for arch in ("every operation", "dead edges", "fed by a cut node"):
        found = kept(jnp.array(ARCHS[arch]), params, images, _cotangent(images))
        _assert_close(found, _loop(ARCHS[arch]), 1e-10)


@pytest.mark.parametrize("arch", ["every operation", "disconnected"])
def test_statistics_in_batch_mode_sum_to_the_gradient_of_the_batch(arch):
    params, images = _drawn(BATCH)
    cotangent = _cotangent(images)
    network, read = SPACES["batch"].bind(ARCHS[arch], params)
    statistics = (TOTAL, gradients.GRADIENT)
    pullback = network.per_example_vjp(read, images, statistics)[1]
    expected = _summed("batch", ARCHS[arch], cotangent)(read, images)
    for found in pullback(cotangent, statistics):
        _assert_close(found, expected, 1e-10)


def test_the_modes_differ():
    """Gradients of examples that the batch couples are other ones than those of examples alone."""
    params, images = _drawn(INSTANCE)

    def squares(norm):
        cells = nasbench201(channels=2, cells=2, classes=CLASSES, norm=norm)
        network, read = cells.bind(ARCHS["every operation"], params)
        kept = network.per_example_vjp(read, images, (KEEP,))[1](_cotangent(images), (KEEP,))[0]
        return sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(kept))

    found = [squares(norm) for norm in ("batch", "instance", "eval")]
    assert len({round(each, 6) for each in found}) == 3


def test_a_flax_module():
    """The module takes the architecture as data, also under vmap; running statistics are Flax's."""
    arch, (params, images) = ARCHS["every operation"], _drawn(BATCH)
    module = NASBench201(channels=2, cells=2, classes=CLASSES)
    network, read = SPACES["batch"].bind(arch, params)
    expected = network(read, images)
    found = jax.vmap(lambda arch: module.apply({"params": params}, images, arch).logits)(
        jnp.array([arch])
    )
    _assert_close(found[0], expected.logits, 1e-10)
    variables = jax.jit(module.init)(jax.random.key(0), images, jnp.array(arch))
    assert jax.tree.structure(variables["params"]) == jax.tree.structure(params)
    # One architecture alone has its own parameters, and learns running statistics.
    alone = Architecture(module, StaticArch(arch))
    variables = alone.init(jax.random.key(0), images)
    read = SPACES["batch"].bind(arch, params)[1]
    assert jax.tree.structure(variables["params"]) == jax.tree.structure(read)
    outputs, state = alone.apply({**variables, "params": read}, images, mutable=["batch_stats"])
    _assert_close(outputs.logits, expected.logits, 1e-10)
    np.testing.assert_allclose(
        state["batch_stats"]["00_stem"]["mean"],
        0.1 * expected.statistics["00_stem"]["mean"],
        rtol=1e-10,
    )
    judged = Architecture(module.clone(norm="eval"), StaticArch(arch))
    logits = judged.apply({"params": read, **state}, images).logits
    assert float(jnp.abs(logits - expected.logits).max()) > 1e-3


# What compiles, and how often.


def _random_archs(count, seed=0):
    return np.random.default_rng(seed).integers(0, 5, (count, 6), dtype=np.int32)


def test_one_program_is_every_architecture():
    for arch in [*ARCHS.values(), *_random_archs(10)]:  # raises if it is traced twice
        _assert_close(_compiled(Setting("none"), arch), _eager(Setting("none"), arch), 1e-10)


def test_a_map_over_architectures_is_the_loop():
    params, images = _drawn(Setting("none"))
    archs = _random_archs(6)
    loop = [_network("none", arch)(params, images)[0] for arch in archs]
    mapped = jax.vmap(functools.partial(_outputs, "none"), (0, None, None))(archs, params, images)
    _assert_close(mapped[0], jnp.stack(loop), 1e-10)


def test_the_eager_plan_compiles_nothing_new_after_a_warm_up(caplog):
    params, images = _drawn(BATCH)

    def run(arch):
        network, read = SPACES["batch"].bind(arch, params)
        both = (TOTAL, gradients.GRADIENT)
        outputs, pullback = network.per_example_vjp(read, images, both)
        for statistics in ((gradients.GRADIENT,), (TOTAL,), both):
            pullback(outputs.logits, statistics)

    def compiled():
        return [record.message for record in caplog.records if "Compiling" in record.message]

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        for arch in [*ARCHS.values(), (2, 1, 0, 3, 0, 4), (2,) * 6, (4,) * 6]:
            run(arch)
        jax.jit(lambda x: x + 1)(images)
        assert compiled()  # the log says it when something is compiled
        caplog.clear()
        for arch in _random_archs(20):
            run(arch)
        assert compiled() == []


# Parameters.


def test_a_concrete_architecture_reads_exactly_its_own_parameters():
    params, _ = _drawn(BATCH)
    for arch in [*ARCHS.values(), *_random_archs(20)]:
        read = SPACES["batch"].bind(arch, params)[1]
        count = sum(leaf.size for leaf in jax.tree.leaves(read))
        assert count == SPACES["batch"].num_params(arch)


def test_initial_parameters():
    with jax.enable_x64(False):
        space = nasbench201(channels=4, cells=1, classes=CLASSES)
        images = jnp.zeros((2, 8, 8, 3))
        params = space.init(jax.random.key(0), images)
        again = space.init(jax.random.key(0), images[:1] + 1)
        other = space.init(jax.random.key(1), images)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    drawn = []
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        values = np.asarray(leaf)
        assert values.dtype == np.float32
        if path.endswith("kernel") or path == "07_classifier/bias":
            fan_in = 16 if "classifier" in path else np.prod(values.shape[:-1])
            drawn.append(values.ravel() * fan_in**0.5)
            assert np.abs(drawn[-1]).max() <= 1
            assert not np.array_equal(values, traverse_util.flatten_dict(other, sep="/")[path])
        else:
            np.testing.assert_array_equal(values, float(path.endswith("scale")))
    values = np.concatenate(drawn)
    # Uniform on [-1, 1]: within 5 standard errors of its moments, and no value is drawn twice.
    assert len(values) > 9000
    assert abs(values.mean()) < 5 * (1 / 3 / len(values)) ** 0.5
    assert abs((values**2).mean() - 1 / 3) < 5 * (4 / 45 / len(values)) ** 0.5
    assert len(np.unique(values)) > 0.99 * len(values)


def test_without_normalization_there_is_no_scale():
    params, _ = _drawn(Setting("none"))
    paths = traverse_util.flatten_dict(params, sep="/")
    others = {path for path in paths if not path.endswith("kernel")}
    assert others == {"07_classifier/bias"}


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2.5}, "channels must be an integer .*: got 2.5"),
        ({"channels": 0}, "channels must be an integer from 1 to 65536: got 0"),
        ({"cells": 0}, "cells must be an integer from 1 to 30: got 0"),
        ({"cells": 31}, "cells must be an integer from 1 to 30: got 31"),
        ({"classes": 1}, "classes must be an integer from 2 .*: got 1"),
        ({"norm": "layer"}, "norm must be one of batch, .*: got 'layer'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        nasbench201(**options)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ([1, 2, 3, 4, 0], "6 decisions: got shape"),
        ([1, 2, 3, 4, 0, 1, 2], "6 decisions: got shape"),
        (3, "6 decisions: got shape"),
        ([1, 2, 3, 4, 0, 5], r"Decision 5 must be in \[0, 5\): got 5"),
        ([-1, 2, 3, 4, 0, 1], r"Decision 0 must be in \[0, 5\): got -1"),
        ([1.0, 2.0, 3.0, 4.0, 0.0, 1.0], "arrays of integers: got dtype float64"),
    ],
)
def test_bad_architectures(arch, message):
    with pytest.raises(ValueError, match=message):
        SPACES["batch"].bind(arch, {})


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (2, 8, 10, 3), (8, 8, 3), (0, 8, 8, 3)])
@pytest.mark.parametrize("plan", ["init", "eager", "compiled", "per_example_vjp"])
def test_bad_images(shape, plan):
    images, arch = jnp.zeros(shape), jnp.array(ARCHS["every operation"])
    space, params = SPACES["batch"], _drawn(BATCH)[0]

    def _logits(arch):
        network, read = space.bind(arch, params)
        return network(read, images).logits

    calls = {
        "init": lambda: space.init(jax.random.key(0), images),
        "eager": lambda: _logits(arch),
        "compiled": lambda: jax.jit(_logits)(arch),
        "per_example_vjp": lambda: space.bind(arch, params)[0].per_example_vjp(params, images, ()),
    }
    with pytest.raises(ValueError, match=r"divisible by 4: got shape \(.*\); resize or pad"):
        calls[plan]()


# Faults that were found once.


def test_params_without_normalization():
    space, arch = SPACES["none"], ARCHS["every operation"]
    read = space.bind(arch, _drawn(Setting("none"))[0])[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(read)) == space.num_params(arch)


def test_parameters_of_another_network_are_refused():
    params = {"00_stem": {"kernel": jnp.zeros((3, 3, 3, 1))}}
    with pytest.raises(ValueError, match=r"'kernel' .*\[3, 3, 3, 1\] where \[3, 3, 3, 2\]"):
        SPACES["none"].bind(ARCHS["all cut"], params)


def test_several_architectures_are_refused():
    with pytest.raises(ValueError, match="One architecture at a time"):
        SPACES["batch"].bind([[0] * 6] * 2, _drawn(BATCH)[0])


@pytest.mark.parametrize("length", [5, 7])
def test_a_traced_architecture_of_another_length_is_refused(length):
    params, images = _drawn(Setting("none"))

    def shape(arch):
        network, read = SPACES["none"].bind(arch, params)
        return network(read, images).logits

    with pytest.raises(ValueError, match=r"int32\[6\]: got int64\[[57]\]"):
        jax.eval_shape(shape, jnp.zeros(length, int))


def test_running_statistics_of_a_traced_architecture_are_refused():
    params, images = _drawn(EVAL)
    network, read = SPACES["eval"].bind(ARCHS["every operation"], params)
    statistics = network(read, images).statistics

    def logits(arch):
        network, read = SPACES["eval"].bind(arch, params)
        return network(read, images, statistics).logits

    with pytest.raises(ValueError, match="statistics"):
        jax.eval_shape(logits, jnp.zeros(6, int))


def test_float32_images_where_float64_is_the_default():
    images = jnp.zeros((1, 8, 8, 3), jnp.float32)
    jax.eval_shape(SPACES["none"].init, jax.random.key(0), images)


def test_multiply_accumulates_of_a_traced_cell_may_exceed_32_bits():
    space = nasbench201()
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(space.init, jax.random.key(0), images)

    def macs(arch):
        return space.bind(arch, params)[0].num_macs(params, images)

    arch = np.full(6, 3)
    assert macs(arch) == 10_785_833_610
    assert float(jax.jit(macs)(arch)) == pytest.approx(macs(arch), rel=1e-6)
