"""Cells and networks against plain Flax modules that build only what a genotype says.

Float64, two channels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

import jaxnas
from jaxnas.network import Bucket, Network, module, operation
from jaxnas.network import operations as ops
from jaxnas.spaces.darts_space import cell, darts
from jaxnas.spaces.darts_space.network import CellPlace, dil_conv, sep_conv
from jaxnas.spaces.darts_space.network import cell as write_cell
from jaxnas.types import Batch, PerExampleDifferentiable, Statistic

WIDTH, CLASSES = 2, 3
# All seven operations; states 0 and 1 and nodes are read; node 3 reads a node in both.
NORMAL = [
    *(("sep_conv_3x3", 1), ("max_pool_3x3", 0), ("dil_conv_5x5", 0), ("skip_connect", 2)),
    *(("avg_pool_3x3", 3), ("dil_conv_3x3", 1), ("sep_conv_5x5", 2), ("skip_connect", 4)),
]
REDUCE = [
    *(("skip_connect", 0), ("sep_conv_3x3", 1), ("max_pool_3x3", 1), ("dil_conv_3x3", 0)),
    *(("avg_pool_3x3", 0), ("skip_connect", 2), ("dil_conv_5x5", 1), ("sep_conv_5x5", 3)),
]
LIGHT = [("skip_connect", 0), ("max_pool_3x3", 1)] * 4
# The second order cells of the paper (figures 4 and 5).
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def _string(normal, reduce):
    concat = list(range(2, 6))
    return (
        f"Genotype(normal={normal}, normal_concat={concat}, "
        f"reduce={reduce}, reduce_concat={concat})"
    )


# The reference.


class ConvNorm(nn.Module):
    """Optional ReLU, convolution, normalization if there is a mode."""

    width: int
    size: int
    mode: str | None
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    relu: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.relu(x) if self.relu else x
        padding = [(self.dilation * (self.size // 2),) * 2] * 2
        x = nn.Conv(
            self.width,
            (self.size,) * 2,
            (self.stride,) * 2,
            padding=padding,
            kernel_dilation=(self.dilation,) * 2,
            feature_group_count=self.width if self.depthwise else 1,
            use_bias=False,
            name="conv",
        )(x)
        return Norm(self.mode, name="norm")(x) if self.mode else x


class Norm(nn.Module):
    mode: str

    @nn.compact
    def __call__(self, x):
        if self.mode == "none":
            return x
        axes = {"batch": (0, 1, 2), "instance": (1, 2)}[self.mode]
        x = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x * scale[None, None, None] + bias[None, None, None]


class FactorizedReduce(nn.Module):
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


class Cell(nn.Module):
    edges: tuple[tuple[str, int], ...]
    width: int
    reduction: bool
    after_reduction: bool
    mode: str

    @nn.compact
    def __call__(self, before, last):
        first = (
            FactorizedReduce(self.width, self.mode, name="preprocess_0")
            if self.after_reduction
            else ConvNorm(self.width, 1, self.mode, name="preprocess_0")
        )
        states = [first(before), ConvNorm(self.width, 1, self.mode, name="preprocess_1")(last)]
        for node in range(4):
            pair = zip("ab", self.edges[2 * node : 2 * node + 2], strict=True)
            terms = [
                self._operate(f"node_{node}_{which}.{operation}", operation, states, state)
                for which, (operation, state) in pair
            ]
            states.append(terms[0] + terms[1])
        return jnp.concatenate(states[2:], -1)

    def _operate(self, name, operation, states, state):
        x, stride = states[state], 2 if self.reduction and state < 2 else 1
        window = {"window_shape": (3, 3), "strides": (stride,) * 2, "padding": [(1, 1)] * 2}
        if operation == "max_pool_3x3":
            return nn.max_pool(x, **window)
        if operation == "avg_pool_3x3":
            return nn.avg_pool(x, **window, count_include_pad=False)
        if operation == "skip_connect":
            return x if stride == 1 else FactorizedReduce(self.width, self.mode, name=name)(x)
        size = int(operation[-1])
        depthwise = functools.partial(ConvNorm, self.width, size, None, depthwise=True)
        pointwise = functools.partial(ConvNorm, self.width, 1, self.mode, relu=False)
        if operation.startswith("dil"):
            x = depthwise(stride=stride, dilation=2, name=f"{name}.depthwise")(x)
            return pointwise(name=f"{name}.pointwise")(x)
        for step, found in ((1, stride), (2, 1)):
            x = depthwise(stride=found, name=f"{name}.depthwise_{step}")(x)
            x = pointwise(name=f"{name}.pointwise_{step}")(x)
        return x


class Reference(nn.Module):
    normal: tuple
    reduce: tuple
    mode: str
    channels: int = WIDTH
    layers: int = 3
    classes: int = CLASSES

    @nn.compact
    def __call__(self, x):
        before = last = ConvNorm(3 * self.channels, 3, self.mode, relu=False, name="00_stem")(x)
        width, after_reduction = self.channels, False
        for position in range(self.layers):
            reduction = position in (self.layers // 3, 2 * self.layers // 3)
            width *= 2 if reduction else 1
            edges = self.reduce if reduction else self.normal
            name = f"{position + 1:02d}_cell"
            found = Cell(edges, width, reduction, after_reduction, self.mode, name=name)
            before, last = last, found(before, last)
            after_reduction = reduction
        features = last.mean((1, 2))
        return nn.Dense(self.classes, name=f"{self.layers + 2:02d}_classifier")(features), features


def _to_flax(tree, prefix=()):
    """Return parameters as the reference names them; those of the classifier stay."""
    found = {}
    for name, result in tree.items():
        kernels = {part for part in result if part.startswith("kernel")}
        if kernels and not name.endswith("classifier"):
            layer = {part.replace("kernel", "conv"): {"kernel": result[part]} for part in kernels}
            norm = {part: result[part] for part in result if part not in kernels}
            found[".".join((*prefix, name))] = layer | ({"norm": norm} if norm else {})
        elif name.endswith("cell"):
            found[name] = _to_flax(result)
        elif kernels:
            found[name] = result
        else:
            found |= _to_flax(result, (*prefix, name))
    return found


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _fill(shapes):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        shift = 1 if path[-1].key == "scale" else 0
        return jnp.asarray(shift + rng.normal(size=leaf.shape) * 0.5)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _assert_close(found, expected, tolerance=1e-9):
    def close(path, a, b):
        bound = tolerance * max(1, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, found, expected)


# Cells.

CELLS = {
    "normal": (NORMAL, CellPlace((4, 6), WIDTH, False, True)),
    "reduction": (REDUCE, CellPlace((4, 6), WIDTH, True, False)),
}


@operation
def part(weights, x, *, start, stop, stride):
    return x[:, ::stride, ::stride, start:stop]


@operation
def flattened(weights, *xs):
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in xs], axis=-1)


class OneCell(Network):
    """A cell alone: it reads two parts of the images, and both outputs stand for the logits."""

    layer: CellPlace = CELLS["normal"][1]

    def forward(self, net, x, arch):
        before, last = (net.stage(name, part(**each), x) for name, each in self.parts().items())
        found = functools.partial(write_cell, arch, self.layer)
        return net.stage("end", flattened(), *net.stage("cell", found, before, last))

    def parts(self):
        widths, stride = self.layer.inputs, 1 + self.layer.after_reduction
        return {
            "before": {"start": 0, "stop": widths[0], "stride": 1},
            "last": {"start": widths[0], "stop": sum(widths), "stride": stride},
        }

    def num_decisions(self):
        return len(cell.NUM_CHOICES)


def _cell(name, mode):
    """Return the cell, the reference, random weights of the whole space, and inputs."""
    edges, layer = CELLS[name]
    found = OneCell(mode, layer=layer)
    inputs = _normal(7, (2, 8, 8, sum(layer.inputs)))
    whole = _fill(
        jax.tree.map(
            lambda tensor: jax.ShapeDtypeStruct(tensor.shape, float),
            module.whole(found, jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)).tensors,
            is_leaf=lambda node: hasattr(node, "fan_in"),
        )
    )
    reference = Cell(tuple(edges), WIDTH, layer.reduction, layer.after_reduction, mode)

    def static(weights, x):
        before, last = (
            x[:, :: part["stride"], :: part["stride"], part["start"] : part["stop"]]
            for part in found.parts().values()
        )
        outputs = last, reference.apply({"params": _to_flax(weights["02_cell"])}, before, last)
        return jnp.concatenate([output.reshape(output.shape[0], -1) for output in outputs], axis=-1)

    return found, static, whole, inputs


def keep(tensor, gradients):
    return gradients


def square(tensor, gradient):
    return jnp.square(gradient).sum()


KEEP, SUM = Statistic(keep), Statistic(keep, per_example=False)
STATISTICS = (SUM, Statistic(square))


def _only(kept):
    """Return the first of what is kept of each tensor."""
    return jax.tree.map(lambda leaf: leaf[0], kept, is_leaf=lambda node: isinstance(node, tuple))


# Each cell and each mode once, and the rest of their product where time does not matter.
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("normal", "batch"),
        ("reduction", "none"),
        pytest.param("reduction", "batch", marks=pytest.mark.slow),
    ],
)
def test_a_cell_and_its_gradients(name, mode):
    one, static, whole, inputs = _cell(name, mode)
    bound = one.bound(cell.from_string(_string(NORMAL, REDUCE)))
    shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    weights = module.pick(whole, bound.graph(shape).tensors)
    outputs, pullback = jax.vjp(lambda *each: bound(*each).logits, weights, inputs)
    cotangent = _normal(3, outputs.shape)

    @jax.jit
    def expected(weights, inputs, cotangent):
        outputs, pullback = jax.vjp(static, weights, inputs)
        return outputs, pullback(cotangent)

    found, gradients = expected(weights, inputs, cotangent)
    _assert_close(outputs, found)
    _assert_close(pullback(cotangent), gradients)
    kept = bound.per_example_vjp(weights, inputs, STATISTICS)[1](cotangent, STATISTICS)
    _assert_close(kept[0], gradients[0])
    assert float(jnp.abs(gradients[1]).max((0, 1, 2)).min()) > 1e-3


def _random_cells(count):
    """Return the cell that has all operations, and `count` that are drawn."""
    rng = np.random.default_rng(1)
    drawn = [rng.integers(cell.NUM_CHOICES).astype(np.int32) for _ in range(count)]
    return [cell.from_string(_string(NORMAL, REDUCE)), *drawn]


def _picked(one, arch, whole, inputs):
    shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    return module.pick(whole, one.bound(arch).graph(shape).tensors)


def test_outputs_of_the_compiled_plan_of_a_cell_are_those_of_the_eager_one():
    """For one that is traced, and for one in a bucket, which another of its pattern leaves."""
    one, _, whole, inputs = _cell("reduction", "batch")

    def run(arch, weights, inputs):
        bound = one.bound(arch)
        return bound(weights, inputs).logits, bound.num_macs(weights, inputs)

    @jax.jit
    def buckets(archs, pattern, weights, inputs):
        return jax.vmap(lambda arch: run(Bucket(arch, pattern), weights, inputs)[0])(archs)

    program = jax.jit(run)
    for arch in _random_cells(1):
        expected = run(arch, _picked(one, arch, whole, inputs), inputs)
        _assert_close(program(jnp.asarray(arch), whole, inputs), expected)
        pattern = cell.pattern(arch)
        together = buckets(jnp.stack([arch, pattern]), pattern, whole, inputs)
        _assert_close(together[0], expected[0])


@pytest.mark.slow  # A minute for each cell.
@pytest.mark.parametrize("name", CELLS)
def test_the_compiled_plan_of_a_cell_is_the_eager_one(name):
    one, _, whole, inputs = _cell(name, "batch")

    def kept(arch, weights, inputs):
        bound = one.bound(arch)
        outputs, pullback = bound.per_example_vjp(weights, inputs, STATISTICS)
        cotangent = jnp.cos(jnp.arange(outputs.logits.size)).reshape(outputs.logits.shape)
        macs = bound.num_macs(weights, inputs)
        return outputs.logits, pullback(cotangent, STATISTICS), macs

    program = jax.jit(kept)
    for arch in _random_cells(2):
        found = program(jnp.asarray(arch), whole, inputs)
        expected = kept(arch, _picked(one, arch, whole, inputs), inputs)
        _assert_close((found[0], found[2]), (expected[0], expected[2]))
        for of_all, by_tensor in zip(found[1], expected[1], strict=True):
            every = traverse_util.flatten_dict(of_all)
            read = traverse_util.flatten_dict(by_tensor)
            _assert_close({path: every.pop(path) for path in read}, read)
            assert not any(leaf.any() for leaf in every.values())


OPERATIONS = {
    "sep_conv": sep_conv(size=3, stride=2),
    "dil_conv": dil_conv(size=3, stride=2),
    "factorized": ops.factorized_reduction(features=4),
}


class OneOperation(Network):
    """An operation alone; what it gives stands for the logits."""

    name_of: str = "sep_conv"

    def forward(self, net, x, arch):
        return net.stage("only", OPERATIONS[self.name_of], x)


def _drawn(bound, inputs):
    tensors = bound.graph(jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)).tensors
    return _fill(
        jax.tree.map(
            lambda tensor: jax.ShapeDtypeStruct(tensor.shape, float),
            tensors,
            is_leaf=lambda node: hasattr(node, "fan_in"),
        )
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_of_examples_are_those_of_a_loop(name):
    bound = OneOperation("instance", name_of=name).bound(np.zeros(0, int))
    inputs = _normal(0, (3, 8, 12, 2))
    weights = _drawn(bound, inputs)
    outputs, pullback = bound.per_example_vjp(weights, inputs, (KEEP, SUM))
    cotangent = _normal(1, outputs.logits.shape)
    each, total = pullback(cotangent, (KEEP, SUM))
    alone = jax.jit(jax.grad(lambda one, x, g: (bound(one, x[None]).logits[0] * g).sum()))
    for i in range(3):
        expected = alone(weights, inputs[i], cotangent[i])
        _assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], each), expected)
    _assert_close(total, jax.tree.map(lambda leaf: leaf.sum(0), each))
    (stage,) = bound.stages(weights, inputs, ())
    first, *_ = (one for one in stage((inputs,)).shown if one.kind == "preactivation")
    np.testing.assert_array_equal(first.value, inputs)


# Networks.


def _bound(normal, reduce, mode="batch"):
    space = darts(channels=WIDTH, layers=3, classes=CLASSES, norm=mode)
    images = _normal(1, (2, 8, 12, 3))
    params = _fill(jax.eval_shape(space.init, jax.random.key(0), images))
    arch = cell.from_string(_string(normal, reduce))
    return space, arch, params, images


def test_outputs_and_gradients_of_the_static_network():
    space, arch, params, images = _bound(LIGHT, LIGHT)
    network, read = space.bind(arch, params)
    weights = _normal(2, (2, CLASSES))

    def differentiate(forward):
        def loss(read, images):
            logits, features = forward(read, images)
            return (jnp.tanh(logits) * weights).sum() + (features**2).sum(), (logits, features)

        (_, outputs), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(read, images)
        return outputs, gradients

    module = Reference(tuple(LIGHT), tuple(LIGHT), "batch")
    expected = differentiate(
        jax.jit(lambda leaf, images: module.apply({"params": _to_flax(leaf)}, images))
    )
    found = differentiate(lambda leaf, images: network(leaf, images)[:2])
    _assert_close(found, expected)
    assert isinstance(network, PerExampleDifferentiable)


def _one_operation(mode):
    bound, inputs = OneOperation(mode, name_of="sep_conv").bound(np.zeros(0, int)), (3, 8, 12, 2)
    return bound, _drawn(bound, _normal(0, inputs)), _normal(0, inputs)


def _network(mode):
    space, arch, params, images = _bound(LIGHT, LIGHT, mode)
    return *space.bind(arch, params), images


@pytest.mark.parametrize("bind", [_one_operation, pytest.param(_network, marks=pytest.mark.slow)])
def test_the_modes_differ(bind):
    """Gradients of examples that the batch couples are other ones than those of examples alone."""

    def squares(mode):
        network, weights, inputs = bind(mode)
        outputs, pullback = network.per_example_vjp(weights, inputs, (KEEP,))
        kept = pullback(_normal(1, outputs.logits.shape), (KEEP,))
        return sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(kept))

    assert len({round(squares(mode), 6) for mode in ("batch", "instance", "eval")}) == 3


@pytest.mark.slow
def test_the_compiled_plan_of_a_network_is_the_eager_one():
    """Of ten cells, of which the last two are scanned."""
    space = darts(channels=WIDTH, layers=10, classes=CLASSES)
    images = _normal(1, (2, 8, 12, 3))
    params = _fill(jax.eval_shape(space.init, jax.random.key(0), images))

    @jax.jit
    def program(arch, params, images):
        network, read = space.bind(arch, params)
        return network(read, images)[:2], network.num_macs(read, images)

    for cells in ((LIGHT, LIGHT), (NORMAL, REDUCE)):
        arch = cell.from_string(_string(*cells))
        network, read = space.bind(arch, params)
        outputs, macs = program(jnp.asarray(arch), params, images)
        _assert_close(outputs, network(read, images)[:2])
        assert macs == network.num_macs(read, images)


def test_proxies_read_it():
    space, arch, params, images = _bound(LIGHT, LIGHT)
    drawn = space._replace(init=lambda key, inputs: params)
    names = ["grad_norm", "mgm", "layer_balance", "naswot", "params", "flops"]
    batch = Batch(images, jnp.array([0, 2]))
    found = jaxnas.Scorer(drawn, batch, names, plan="eager")(arch[None])
    assert {status[0, 0] for status in found.status.values()} == {"ok"}
    assert found.scores["params"] == space.num_params(arch)


def test_running_statistics():
    """Those of a batch give what the batch gives."""
    space, arch, params, images = _bound(LIGHT, LIGHT)
    network, read = space.bind(arch, params)
    outputs = network(read, images)
    evaluated, _ = darts(channels=WIDTH, layers=3, classes=CLASSES, norm="eval").bind(arch, params)
    found = evaluated(read, images, outputs.statistics)
    _assert_close(found.logits, outputs.logits)
    assert float(jnp.abs(found.logits - evaluated(read, images).logits).max()) > 1e-3


def _shapes(space, image_size=32):
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), float)
    return jax.eval_shape(space.init, jax.random.key(0), images), images


@pytest.mark.parametrize("mode", ["batch", "none"])
@pytest.mark.parametrize(("normal", "reduce"), [(NORMAL, REDUCE), (REDUCE, NORMAL)])
def test_parameters_are_those_of_the_static_network(mode, normal, reduce):
    space = darts(channels=4, layers=5, norm=mode)
    shapes, images = _shapes(space, 8)
    module = Reference(tuple(normal), tuple(reduce), mode, channels=4, layers=5, classes=10)
    expected = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    arch = cell.from_string(_string(normal, reduce))
    read = space.bind(arch, shapes)[1]
    named = jax.tree.map(lambda leaf: leaf.shape, _to_flax(read))
    # An identity has no parameters, and Flax makes none for a state that nothing reads.
    assert named == jax.tree.map(lambda leaf: leaf.shape, expected)
    count = sum(leaf.size for leaf in jax.tree.leaves(expected))
    assert space.num_params(arch) == count


def test_parameters_and_multiply_adds_of_the_published_network():
    space = darts(channels=36, layers=20)
    arch = space.from_string(DARTS_V2)
    assert space.num_params(arch) == 3_349_342  # the paper: 3.3 M
    shapes, images = _shapes(space)
    network, read = space.bind(arch, shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(read)) == 3_349_342
    assert network.num_macs(read, images) == 528_359_050


def test_multiply_adds_by_hand():
    space, arch, params, images = _bound(LIGHT, LIGHT, mode="none")
    network, read = space.bind(arch, params)
    stem = 27 * 6 * 96
    # Preprocessing of widths (6, 6), (6, 8) and, after a reduction, (8, 16).
    first = (6 * 2 + 6 * 2) * 96
    second = (6 * 4 + 8 * 4) * 96 + 4 * 4 * 4 * 24  # four factorized reductions
    third = (8 * 8 + 16 * 8) * 24 + 4 * 8 * 8 * 6
    assert network.num_macs(read, images) == stem + first + second + third + 32 * 3 + 3


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 3}, "halves the channels: got 3; make it even"),
        ({"channels": 0}, "channels must be an integer from 2 to 65536: got 0"),
        ({"layers": 2}, "layers must be an integer from 3 to 90: got 2"),
        ({"classes": 1}, "classes must be an integer from 2 .*: got 1"),
        ({"norm": "layer"}, "norm must be one of batch, .*: got 'layer'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        darts(**options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (jnp.zeros((2, 6, 8, 3)), "divisible by 4"),
        (jnp.zeros((8, 8, 3)), "divisible by 4"),
        (jnp.zeros((2, 8, 8, 1)), "images of 3 colors: got 1"),
        (np.zeros((2, 8, 8, 3), int), "normalized images: got dtype int"),
    ],
)
def test_bad_images(images, message):
    space, arch, params, _ = _bound(LIGHT, LIGHT, mode="none")
    network, read = space.bind(arch, params)
    with pytest.raises(ValueError, match=message):
        space.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=message):
        network(read, images)
