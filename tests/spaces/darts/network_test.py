"""Cells and networks against plain Flax modules that build only what a genotype says.

Float64, two channels; XLA's optimisations are off, as they double the time to compile, which is all
that these tests cost.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxnas
from jaxnas.spaces import plans
from jaxnas.spaces.darts import blocks, cell, darts, operations
from jaxnas.spaces.operations import Residuals
from jaxnas.types import Batch, PerExampleDifferentiable, Reading

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
    """Optional ReLU, convolution, normalisation if there is a mode."""

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
        for step, own in ((1, stride), (2, 1)):
            x = depthwise(stride=own, name=f"{name}.depthwise_{step}")(x)
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
            own = Cell(edges, width, reduction, after_reduction, self.mode, name=name)
            before, last = last, own(before, last)
            after_reduction = reduction
        features = last.mean((1, 2))
        return nn.Dense(self.classes, name=f"{self.layers + 2:02d}_classifier")(features), features


def _to_flax(tree, prefix=()):
    """Return parameters as the reference names them; those of the classifier stay."""
    found = {}
    for name, own in tree.items():
        kernels = {part for part in own if part.startswith("kernel")}
        if kernels and not name.endswith("classifier"):
            layer = {part.replace("kernel", "conv"): {"kernel": own[part]} for part in kernels}
            norm = {part: own[part] for part in own if part not in kernels}
            found[".".join((*prefix, name))] = layer | ({"norm": norm} if norm else {})
        elif name.endswith("cell"):
            found[name] = _to_flax(own)
        elif kernels:
            found[name] = own
        else:
            found |= _to_flax(own, (*prefix, name))
    return found


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def _quick_to_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
    "normal": (NORMAL, False, True, (4, 6), ((2, 8, 8), (2, 4, 4))),
    "reduction": (REDUCE, True, False, (4, 6), ((2, 8, 8), (2, 8, 8))),
}


def _cell(name, mode):
    """Return the block, the reference, random weights of the whole space, and inputs."""
    edges, reduction, after_reduction, widths, images = CELLS[name]
    own = cell.genotype(cell.one(cell.from_string(_string(NORMAL, REDUCE))))
    chosen = own.reduce if reduction else own.normal
    tensors = blocks.cell_tensors(widths, WIDTH, reduction, after_reduction, mode != "none")
    tensors = blocks.own_tensors(tensors, chosen, reduction)
    weights = _fill(
        jax.tree.map(
            lambda own: jax.ShapeDtypeStruct(own.shape, float),
            tensors,
            is_leaf=lambda node: hasattr(node, "fan_in"),
        )
    )
    block = blocks.cell_block(chosen, reduction, after_reduction, mode)
    reference = Cell(tuple(edges), WIDTH, reduction, after_reduction, mode)
    inputs = tuple(_normal(7 + i, (*images[i], widths[i])) for i in range(2))
    return block, reference, weights, inputs


def keep(tensor, gradients):
    return gradients


def summed(tensor, gradient):
    return gradient


KEEP, SUM = Reading(keep), Reading(summed, per_example=False)


def _only(kept):
    """Return the first of what is kept of each tensor."""
    return jax.tree.map(lambda own: own[0], kept, is_leaf=lambda node: isinstance(node, tuple))


@pytest.mark.parametrize(
    ("name", "mode"), [("normal", "batch"), ("reduction", "batch"), ("reduction", "none")]
)
def test_a_cell_and_its_gradients(name, mode):
    block, reference, weights, inputs = _cell(name, mode)

    @jax.jit
    def expected(weights, inputs, cotangent):
        def forward(weights, inputs):
            return inputs[1], reference.apply({"params": _to_flax(weights)}, *inputs)

        outputs, pullback = jax.vjp(forward, weights, inputs)
        return outputs, pullback(cotangent)

    (last, outputs), saved = block.forward(weights, inputs, None)
    cotangent = _normal(3, last.shape), _normal(4, outputs.shape)
    (_, found), (of_weights, of_inputs) = expected(weights, inputs, cotangent)
    _assert_close(outputs, found)
    gradient, kept = block.backward(saved, cotangent, (SUM,))
    _assert_close(gradient, of_inputs)
    kept = {part: _only(own) for part, own in kept.items() if own}
    _assert_close({part: kept[part] for part in weights}, of_weights)
    assert all(float(jnp.abs(own).max()) > 1e-3 for own in jax.tree.leaves(of_inputs))


OPERATIONS = {
    "depthwise": (operations.relu_depthwise(2, 2), {"kernel": (3, 3, 1, 2)}),
    "factorized": (
        operations.factorized_reduction("instance"),
        {"kernel_a": (1, 1, 2, 2), "kernel_b": (1, 1, 2, 2), "scale": (4,), "bias": (4,)},
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_of_examples_are_those_of_a_loop(name):
    operation, shapes = OPERATIONS[name]
    weights = {part: _normal(len(part), shape) for part, shape in shapes.items()}
    inputs = _normal(0, (3, 4, 6, 2))
    outputs, normalized = operation.forward(weights, inputs, None)
    cotangent = _normal(1, outputs.shape)
    residuals = Residuals(weights, inputs, normalized)
    gradient, kept = operation.backward(residuals, cotangent, (KEEP, SUM))

    @jax.jit
    def alone(weights, image, cotangent):
        _, pullback = jax.vjp(lambda *own: operation.forward(*own, None)[0], weights, image[None])
        return pullback(cotangent[None])

    for i in range(3):
        of_weights, of_inputs = alone(weights, inputs[i], cotangent[i])
        _assert_close({part: own[0][i] for part, own in kept.items()}, of_weights)
        _assert_close(gradient[i : i + 1], of_inputs)
    for of_examples, total in kept.values():
        _assert_close(total, of_examples.sum(0))
    assert operation.see(residuals).preactivation is inputs


# Networks.


def _bound(normal, reduce, mode="batch"):
    space = darts(channels=WIDTH, layers=3, classes=CLASSES, norm=mode)
    images = _normal(1, (2, 8, 12, 3))
    params = _fill(jax.eval_shape(space.init, jax.random.key(0), images))
    arch = cell.from_string(_string(normal, reduce))
    return space, arch, params, images


def test_outputs_and_gradients_of_the_static_network():
    space, arch, params, images = _bound(LIGHT, LIGHT)
    network, own = space.bind(arch, params)
    weights = _normal(2, (2, CLASSES))

    def differentiate(forward):
        def loss(own, images):
            logits, features = forward(own, images)
            return (jnp.tanh(logits) * weights).sum() + (features**2).sum(), (logits, features)

        (_, outputs), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(own, images)
        return outputs, gradients

    module = Reference(tuple(LIGHT), tuple(LIGHT), "batch")
    expected = differentiate(
        jax.jit(lambda own, images: module.apply({"params": _to_flax(own)}, images))
    )
    found = differentiate(lambda own, images: network(own, images)[:2])
    _assert_close(found, expected)
    assert isinstance(network, PerExampleDifferentiable)


def test_proxies_read_it():
    space, arch, params, images = _bound(LIGHT, LIGHT)
    drawn = space._replace(init=lambda key, inputs: params)
    names = ["grad_norm", "mgm", "layer_balance", "naswot", "params", "flops"]
    batch = Batch(images, jnp.array([0, 2]))
    (scored,) = jaxnas.score_space(drawn, arch[None], batch, names, plan="walk")
    assert set(scored.status.values()) == {"ok"}
    assert scored.scores["params"] == space.num_params(arch)


def test_running_statistics():
    """Those of a batch give what the batch gives."""
    space, arch, params, images = _bound(LIGHT, LIGHT)
    network, own = space.bind(arch, params)
    outputs = network(own, images)
    evaluated, _ = darts(channels=WIDTH, layers=3, classes=CLASSES, norm="eval").bind(arch, params)
    found = evaluated(own, images, outputs.statistics)
    _assert_close(found.logits, outputs.logits)
    assert float(jnp.abs(found.logits - evaluated(own, images).logits).max()) > 1e-3


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
    own = space.bind(arch, shapes)[1]
    named = jax.tree.map(lambda leaf: leaf.shape, _to_flax(own))
    # An identity has no parameters, and Flax makes none for a state that nothing reads.
    assert named == jax.tree.map(lambda leaf: leaf.shape, expected)
    count = sum(leaf.size for leaf in jax.tree.leaves(expected))
    assert space.num_params(arch) == count


def test_parameters_and_multiply_adds_of_the_published_network():
    space = darts(channels=36, layers=20)
    arch = space.from_string(DARTS_V2)
    assert space.num_params(arch) == 3_349_342  # the paper: 3.3 M
    shapes, images = _shapes(space)
    network, own = space.bind(arch, shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == 3_349_342
    assert network.num_macs(own, images) == 528_359_050


def test_multiply_adds_by_hand():
    space, arch, params, images = _bound(LIGHT, LIGHT, mode="none")
    network, own = space.bind(arch, params)
    stem = 27 * 6 * 96
    # Preprocessing of widths (6, 6), (6, 8) and, after a reduction, (8, 16).
    first = (6 * 2 + 6 * 2) * 96
    second = (6 * 4 + 8 * 4) * 96 + 4 * 4 * 4 * 24  # four factorized reductions
    third = (8 * 8 + 16 * 8) * 24 + 4 * 8 * 8 * 6
    assert network.num_macs(own, images) == stem + first + second + third + 32 * 3 + 3


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 3}, "halves the channels: got 3; make it even"),
        ({"channels": 0}, "channels must be an integer from 2 to 65536: got 0"),
        ({"layers": 2}, "layers must be an integer from 3 to 90: got 2"),
        ({"classes": 1}, "classes must be an integer from 2 .*: got 1"),
        ({"norm": "layer"}, "Unknown normalisation mode 'layer'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        darts(**options)


def test_a_traced_architecture_is_refused():
    with pytest.raises(ValueError, match=r"takes a concrete architecture: got a .*Tracer"):
        jax.eval_shape(lambda arch: darts().bind(arch, {})[0], jnp.zeros(32, int))
    bucket = plans.Bucket(jnp.zeros(32, int), jnp.zeros(32, int))
    with pytest.raises(ValueError, match="got a Bucket"):
        darts().bind(bucket, {})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (jnp.zeros((2, 6, 8, 3)), "divisible by 4"),
        (jnp.zeros((8, 8, 3)), "divisible by 4"),
        (jnp.zeros((2, 8, 8, 1)), "images of 3 colours: got 1"),
        (np.zeros((2, 8, 8, 3), int), "normalised images: got dtype int"),
    ],
)
def test_bad_images(images, message):
    space, arch, params, _ = _bound(LIGHT, LIGHT, mode="none")
    network, own = space.bind(arch, params)
    with pytest.raises(ValueError, match=message):
        space.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=message):
        network(own, images)
