"""The network against a plain Flax network that builds one cell as its authors describe it.

Float64, five channels, one cell a stack.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

import jaxnas
from jaxnas import engine, proxies
from jaxnas.benchmarks.nasbench101_table import nasbench101 as table
from jaxnas.gradients import GRADIENT
from jaxnas.network import Architecture, Network, StaticArch
from jaxnas.proxies import measures
from jaxnas.spaces.nasbench101_space import NASBench101, cell, nasbench101
from jaxnas.spaces.nasbench101_space.network import cell as write_cell
from jaxnas.types import Batch, PerExampleDifferentiable, Staged, Statistic

CHANNELS, CLASSES = 5, 3
SHAPE = (2, 8, 12, 3)
CELLS = {
    # Three vertices share five channels as 2, 2, 1; vertex 4 is cut from two to one.
    "shared": (
        "0111000/0000101/0000100/0000001/0000011/0000000/0000000:"
        "input,conv3x3-bn-relu,maxpool3x3,conv1x1-bn-relu,conv1x1-bn-relu,maxpool3x3,output"
    ),
    # Vertex 1 feeds a wide and a narrow vertex; the input leads to the output too.
    "cut": "010001/001100/000101/000011/000001/000000:"
    "input,conv1x1-bn-relu,maxpool3x3,conv3x3-bn-relu,conv1x1-bn-relu,output",
    "two vertices": "01/00:input,output",
    "dead vertices": "0101000/0010000/0000000/0000001/0000001/0000000/0000000:"
    "input,conv3x3-bn-relu,conv3x3-bn-relu,maxpool3x3,conv1x1-bn-relu,conv1x1-bn-relu,output",
}
MODES = ("batch", "instance", "none")
SPACES = {
    mode: nasbench101(channels=CHANNELS, cells=1, classes=CLASSES, norm=mode) for mode in MODES
}


# The reference: the matrix and the operations as they are written, nothing that is not used.


class ConvNormRelu(nn.Module):
    width: int
    size: int
    mode: str

    @nn.compact
    def __call__(self, x):
        padding = [(self.size // 2, self.size // 2)] * 2
        x = nn.Conv(self.width, (self.size,) * 2, padding=padding, use_bias=False, name="conv")(x)
        if self.mode != "none":
            axes = {"batch": (0, 1, 2), "instance": (1, 2)}[self.mode]
            x = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)
            scale = self.param("scale", nn.initializers.ones, (self.width,))
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            x = x * scale[None, None, None] + bias[None, None, None]
        return nn.relu(x)


class Cell(nn.Module):
    string: str
    width: int
    mode: str

    @nn.compact
    def __call__(self, x):
        rows, operations = (part for part in self.string.split(":"))
        matrix = np.array([[int(bit) for bit in row] for row in rows.split("/")])
        operations, last = operations.split(","), len(matrix) - 1
        reach = np.linalg.matrix_power(matrix + np.eye(last + 1, dtype=int), last) > 0
        live = [v for v in range(last + 1) if reach[0, v] and reach[v, last]]
        to_output = [v for v in live[1:-1] if matrix[v, last]]
        widths = {
            v: len(each)
            for v, each in zip(
                to_output, np.array_split(np.arange(self.width), len(to_output) or 1), strict=False
            )
        }
        for v in live[-2:0:-1]:
            if v not in widths:
                widths[v] = max(widths[t] for t in live[1:-1] if matrix[v, t])

        def projected(v, width):
            name = f"vertex_{v}" if v < last else "output"
            return ConvNormRelu(width, 1, self.mode, name=f"{name}.projection")(x)

        values = {}
        for v in live[1:-1]:
            total = jnp.zeros((*x.shape[:3], widths[v]))
            for s in live[1:-1]:
                if matrix[s, v]:
                    total = total + values[s][..., : widths[v]]
            if matrix[0, v]:
                total = total + projected(v, widths[v])
            if operations[v] == "maxpool3x3":
                values[v] = nn.max_pool(total, (3, 3), padding="SAME")
            else:
                size = int(operations[v][4])
                name = f"vertex_{v}.{operations[v]}"
                values[v] = ConvNormRelu(widths[v], size, self.mode, name=name)(total)
        outputs = jnp.concatenate([values[v] for v in to_output], -1) if to_output else 0
        return outputs + projected(last, self.width) if matrix[0, last] else outputs


class Reference(nn.Module):
    string: str
    mode: str

    @nn.compact
    def __call__(self, x):
        x = ConvNormRelu(CHANNELS, 3, self.mode, name="00_stem")(x)
        for stack, position in enumerate((1, 3, 5)):
            if stack:
                x = nn.max_pool(x, (2, 2), (2, 2))
            width = CHANNELS * 2**stack
            x = Cell(self.string, width, self.mode, name=f"{position:02d}_cell")(x)
        features = x.mean((1, 2))
        return nn.Dense(CLASSES, name="07_classifier")(features), features


def _to_flax(result):
    """Return the parameters of one cell's network as the reference names them."""

    def convolution(weights):
        return {"conv": {"kernel": weights["kernel"]}} | {
            name: leaf for name, leaf in weights.items() if name != "kernel"
        }

    found = {}
    for name, block in result.items():
        if name.endswith("cell"):
            found[name] = {
                f"{vertex}.{part}": convolution(weights)
                for vertex, parts in block.items()
                for part, weights in parts.items()
            }
        else:
            found[name] = block if name.endswith("classifier") else convolution(block)
    return found


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@functools.cache
def _drawn(mode):
    """Return random parameters of the whole space, scales and biases too, and random images."""
    images = _normal(1, SHAPE)
    return _draw(jax.eval_shape(SPACES[mode].init, jax.random.key(0), images)), images


def _draw(shapes):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        shift = 1 if path[-1].key == "scale" else 0
        return jnp.asarray(shift + rng.normal(size=leaf.shape) * 0.5)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _differentiate(forward, found, images):
    """Return logits and features, and the gradients of a function of both."""
    weights = _normal(2, (len(images), CLASSES))

    def loss(found, images):
        logits, features = forward(found, images)
        return (jnp.tanh(logits) * weights).sum() + (features**2).sum(), (logits, features)

    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(found, images)
    return outputs, gradients


def _bound(mode, name):
    params, images = _drawn(mode)
    network, read = SPACES[mode].bind(cell.from_string(CELLS[name]), params)
    return network, read, images


def _assert_close(found, expected, tolerance=1e-9):
    def close(path, a, b):
        bound = tolerance * max(1, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, found, expected)


# Cells in the second stack, of 5 to 10 channels.


class OneCell(Network):
    """A cell alone; its output stands for the logits."""

    def forward(self, net, x, arch):
        return net.stage("cell", functools.partial(write_cell, arch, 2 * CHANNELS), x)

    def num_decisions(self):
        return len(cell.NUM_CHOICES)


def _inputs():
    return _normal(3, (2, 4, 6, CHANNELS)), _normal(4, (2, 4, 6, 2 * CHANNELS))


@pytest.mark.parametrize(
    ("name", "mode"),
    [("shared", "batch"), ("cut", "batch"), ("cut", "none"), ("dead vertices", "batch")],
)
def test_a_cell_and_its_gradients(name, mode):
    arch = cell.one(cell.from_string(CELLS[name]))
    weights = {"00_cell": SPACES[mode].bind(arch, _drawn(mode)[0])[1]["03_cell"]}
    inputs, cotangent = _inputs()
    # It numbers the vertices of a cell of fewer than seven as they are written.
    reference = Cell(CELLS[name], 2 * CHANNELS, mode)

    @jax.jit
    def differentiate(weights, inputs):
        outputs, pullback = jax.vjp(
            lambda weight, x: reference.apply({"params": _to_flax({"cell": weight})["cell"]}, x),
            weights["00_cell"],
            inputs,
        )
        return outputs, pullback(cotangent)

    expected, (of_weights, of_inputs) = differentiate(weights, inputs)
    bound = OneCell(mode).bound(arch)
    outputs, pullback = jax.vjp(lambda *rows: bound(*rows).logits, weights, inputs)
    _assert_close(outputs, expected)
    found = pullback(cotangent)
    _assert_close(found, ({"00_cell": of_weights}, of_inputs))
    outputs, pullback = bound.per_example_vjp(weights, inputs, (GRADIENT,))
    _assert_close(outputs.logits, expected)
    _assert_close(pullback(cotangent, (GRADIENT,))[0]["00_cell"], of_weights)
    (stage,) = bound.stages(weights, inputs, ())
    shown = [each for each in stage((inputs,)).shown if each.kind == "preactivation"]
    assert len(shown) == len([part for parts in weights["00_cell"].values() for part in parts])


def keep(tensor, gradients):
    return gradients


def square(tensor, gradient):
    return jnp.square(gradient).sum()


def gram(tensor, gradients):
    flat = gradients.reshape(gradients.shape[0], -1)
    return flat @ flat.T


KEEP, SUMS = Statistic(keep), (Statistic(square, per_example=False), Statistic(gram))


def _kept(arch, mode, weights, inputs, cotangent):
    bound = OneCell(mode).bound(arch)
    outputs, pullback = bound.per_example_vjp({"00_cell": weights}, inputs, SUMS)
    return outputs.logits, pullback(cotangent, SUMS)


@pytest.mark.parametrize("mode", ["batch", "none"])
def test_the_compiled_plan_of_a_cell_is_the_eager_one(mode):
    """Up to the shape of gradients: a sum over their coordinates is the same."""
    whole = _drawn(mode)[0]
    program = jax.jit(functools.partial(_kept, mode=mode))
    for string in CELLS.values():
        arch = cell.from_string(string)
        result = SPACES[mode].bind(arch, whole)[1]["03_cell"]
        inputs, cotangent = _inputs()
        expected, sums = _kept(arch, mode, result, inputs, cotangent)
        outputs, found = program(
            jnp.asarray(arch), weights=whole["03_cell"], inputs=inputs, cotangent=cotangent
        )
        _assert_close(outputs, expected)
        for by_tensor, of_all in zip(sums, found, strict=True):
            read = traverse_util.flatten_dict(by_tensor["00_cell"])
            every = traverse_util.flatten_dict(of_all["00_cell"])
            _assert_close({path: every.pop(path) for path in read}, read)
            assert not any(leaf.any() for leaf in every.values())


# Networks.


def test_outputs_and_gradients_of_the_static_network():
    network, read, images = _bound("batch", "two vertices")
    reference = Reference(CELLS["two vertices"], "batch")
    expected = _differentiate(
        jax.jit(lambda leaf, x: reference.apply({"params": _to_flax(leaf)}, x)), read, images
    )
    found = _differentiate(lambda leaf, x: network(leaf, x)[:2], read, images)
    _assert_close(found, expected)
    assert float(jnp.abs(found[1][1]).max()) > 1e-3


def test_gradients_of_examples_are_those_of_a_loop():
    network, read, images = _bound("instance", "two vertices")
    assert isinstance(network, PerExampleDifferentiable)
    cotangent = _normal(3, (len(images), CLASSES))
    outputs, pullback = network.per_example_vjp(read, images, (KEEP,))
    found = pullback(cotangent, (KEEP,))[0]

    def loss(read, image, direction):
        return (network(read, image[None]).logits[0] * direction).sum()

    for i in range(len(images)):
        expected = jax.grad(loss)(read, images[i], cotangent[i])
        _assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], found), expected)
    _assert_close(outputs.logits, network(read, images).logits)


def test_the_modes_differ():
    """Gradients of examples that the batch couples are other ones than those of examples alone."""
    params, images = _drawn("instance")
    arch = cell.from_string(CELLS["two vertices"])

    def squares(mode):
        space = nasbench101(channels=CHANNELS, cells=1, classes=CLASSES, norm=mode)
        network, read = space.bind(arch, params)
        cotangent = _normal(3, (len(images), CLASSES))
        kept = network.per_example_vjp(read, images, (KEEP,))[1](cotangent, (KEEP,))[0]
        return sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(kept))

    assert len({round(squares(mode), 6) for mode in ("batch", "instance", "eval")}) == 3


@pytest.mark.slow  # a minute; cells are compared above
def test_the_compiled_plan_of_a_network_is_the_eager_one():
    """Three cells a stack, of which the equal ones are scanned; also the costs."""
    space = nasbench101(channels=CHANNELS, cells=3, classes=CLASSES, norm="batch")
    images = _drawn("batch")[1]
    params = _draw(jax.eval_shape(space.init, jax.random.key(0), images))

    @jax.jit
    def program(archs, params, images):
        def one(arch):
            network, read = space.bind(arch, params)
            return network(read, images)[:2], network.num_macs(read, images)

        return jax.vmap(one)(archs)

    archs = np.stack([cell.from_string(string) for string in CELLS.values()])
    outputs, macs = program(archs, params, images)
    for position, arch in enumerate(archs):
        network, read = space.bind(arch, params)
        expected = network(read, images)
        _assert_close(jax.tree.map(lambda leaf, at=position: leaf[at], outputs), expected[:2])
        assert macs[position] == network.num_macs(read, images)


def test_a_flax_module():
    """One set of parameters serves all cells; those of one alone are drawn at its fan-in."""
    params, images = _drawn("batch")
    arch = cell.one(cell.from_string(CELLS["two vertices"]))
    module = NASBench101(channels=CHANNELS, cells=1, classes=CLASSES)
    network, read, _ = _bound("batch", "two vertices")
    found, state = module.apply({"params": params}, images, arch, mutable=["batch_stats"])
    _assert_close(found.logits, network(read, images).logits)
    assert set(state["batch_stats"]) == {"00_stem", "01_cell", "03_cell", "05_cell"}
    alone = Architecture(module, StaticArch(arch))
    drawn = jax.eval_shape(alone.init, jax.random.key(0), images)["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, read)
    assert jax.tree.map(lambda leaf: leaf.shape, drawn) == shapes


def test_a_cell_without_a_path_gives_the_bias():
    arch = cell.from_string("000/001/000:input,conv3x3-bn-relu,output")
    params, images = _drawn("none")
    network, read = SPACES["none"].bind(arch, params)
    assert not SPACES["none"].is_connected(arch)
    (logits, _), (gradients, of_images) = _differentiate(
        lambda leaf, x: network(leaf, x)[:2], read, images
    )
    _assert_close(logits, jnp.broadcast_to(read["07_classifier"]["bias"], logits.shape))
    assert not of_images.any()
    assert set(read) == {"00_stem", "07_classifier"}
    assert not gradients["00_stem"]["kernel"].any()


def test_running_statistics():
    """Those of a batch give what the batch gives."""
    network, read, images = _bound("batch", "two vertices")
    outputs = network(read, images)
    space = nasbench101(channels=CHANNELS, cells=1, classes=CLASSES, norm="eval")
    evaluated, _ = space.bind(cell.from_string(CELLS["two vertices"]), _drawn("batch")[0])
    found = evaluated(read, images, outputs.statistics)
    _assert_close(found.logits, outputs.logits)
    assert float(jnp.abs(found.logits - evaluated(read, images).logits).max()) > 1e-3


# Parameters.


def test_one_draw_serves_all_cells_at_their_own_fan_in():
    params, _ = _drawn("batch")
    read = SPACES["batch"].bind(cell.from_string(CELLS["shared"]), params)[1]
    # Vertices 1, 3 and 4 share the 20 channels of the last cell as 7, 7 and 6.
    whole = params["05_cell"]["vertex_4"]["conv1x1-bn-relu"]["kernel"]
    found = read["05_cell"]["vertex_4"]["conv1x1-bn-relu"]
    assert found["kernel"].shape == (1, 1, 6, 6)
    _assert_close(found["kernel"], whole[:, :, :6, :6] * (20 / 6) ** 0.5)
    projection = read["05_cell"]["vertex_1"]["projection"]["kernel"]
    _assert_close(projection, params["05_cell"]["vertex_1"]["projection"]["kernel"][..., :7])


@pytest.mark.parametrize("channels", [4, 8])
def test_a_cell_reads_exactly_its_own_parameters(channels):
    space = nasbench101(channels=channels, cells=2, classes=CLASSES)
    images = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(space.init, jax.random.key(0), images)
    for arch in table().archs[::500]:
        read = jax.eval_shape(lambda params, arch=arch: space.bind(arch, params)[1], shapes)
        assert sum(leaf.size for leaf in jax.tree.leaves(read)) == space.num_params(arch)


def test_multiply_adds_by_hand():
    """Input to a 3x3 convolution to the output, of 5, 10 and 20 channels at 96, 24 and 6 pixels."""
    space = SPACES["none"]
    arch = cell.from_string("010/001/000:input,conv3x3-bn-relu,output")
    network, read = space.bind(arch, _drawn("none")[0])
    stem, classifier = 27 * 5 * 96, 20 * 3 + 3
    cells = 96 * (5 * 5 + 9 * 25) + 24 * (5 * 10 + 9 * 100) + 6 * (10 * 20 + 9 * 400)
    assert network.num_macs(read, jnp.zeros(SHAPE)) == stem + cells + classifier


def test_initial_parameters():
    with jax.enable_x64(False):
        params = SPACES["batch"].init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    kernel = np.asarray(params["05_cell"]["vertex_5"]["conv3x3-bn-relu"]["kernel"])
    assert kernel.shape == (3, 3, 20, 20)
    assert 0.98 < np.abs(kernel).max() * (9 * 20) ** 0.5 <= 1
    assert not np.array_equal(kernel, params["05_cell"]["vertex_4"]["conv3x3-bn-relu"]["kernel"])


# Scores.


def test_proxies_read_it():
    space = SPACES["instance"]
    images = _drawn("instance")[1]
    params = _drawn("instance")[0]
    batch = Batch(images, jnp.array([0, 2]))
    drawn = space._replace(init=lambda key, inputs: params)
    archs = np.stack(
        [cell.from_string(each) for each in (CELLS["two vertices"], "00/00:input,output")]
    )
    names = [
        *("grad_norm", "mgm", "layer_balance", "naswot", "expressivity", "trainability"),
        *("synflow", "params", "flops"),
    ]
    found = jaxnas.Scorer(drawn, batch, names, plan="eager")(archs)
    first, second = ({status[0, at] for status in found.status.values()} for at in (0, 1))
    assert first == {"ok"}
    assert second == {"disconnected", "ok"}
    assert found.scores["params"][0, 0] == space.num_params(archs[0])
    network, read = space.bind(space.representative(archs[0]), params)
    assert isinstance(network, Staged)
    assert found.scores["flops"][0, 0] == network.num_macs(read, images)


def test_both_plans_count_the_units_that_a_cell_has():
    """A compiled program computes channels that the cell does not have."""
    space = SPACES["instance"]
    params, images = _drawn("instance")
    batch = Batch(images, jnp.arange(len(images)) % CLASSES)
    names = ("naswot", "swap", "linear_regions", "expressivity", "channel_independence")
    chosen = proxies.resolve(names)
    wanted = tuple(dict.fromkeys(proxy.measure for proxy in chosen))

    def measure(arch):
        network, read = space.bind(arch, params)
        return measures.measure_all(wanted, network, read, batch, jax.random.key(0))

    compiled = jax.jit(measure)
    for name in ("shared", "dead vertices"):
        arch = cell.from_string(CELLS[name])
        found, expected = (
            engine.reduce(chosen, jax.device_get(run(arch))) for run in (compiled, measure)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)


def test_zen_draws_no_weights_for_channels_that_a_cell_has_not():
    params, images = _drawn("instance")

    def score(arch):
        network, chosen = SPACES["instance"].bind(arch, params)
        return proxies.BY_NAME["zen"](network, chosen, Batch(images, jnp.array([0, 2])))

    with pytest.raises(ValueError, match="use plan='eager'"):
        jax.eval_shape(score, jax.ShapeDtypeStruct((len(cell.NUM_CHOICES),), jnp.int32))


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 3}, "channels must be an integer from 4 .*: got 3"),
        ({"cells": 0}, "cells must be an integer from 1 to 30: got 0"),
        ({"classes": 1}, "classes must be an integer from 2 .*: got 1"),
        ({"colors": 1.5}, "colors must be an integer .*: got 1.5"),
        ({"norm": "layer"}, "norm must be one of batch, .*: got 'layer'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        nasbench101(**options)


def test_too_many_edges_are_refused():
    with pytest.raises(ValueError, match=r"at most 9 edges .*: got 11; remove some"):
        SPACES["none"].bind([1] * 10 + [0] * 9 + [1, 0] + [0] * 5, {})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (jnp.zeros((2, 6, 8, 3)), "divisible by 4"),
        (jnp.zeros((8, 8, 3)), "divisible by 4"),
        (jnp.zeros((2, 8, 8, 1)), "images of 3 colors: got 1"),
        (jnp.zeros((2, 8, 8, 3), int), "normalized images: got dtype int"),
    ],
)
def test_bad_images(images, message):
    network, read, _ = _bound("none", "two vertices")
    with pytest.raises(ValueError, match=message):
        SPACES["none"].init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=message):
        network(read, images)
