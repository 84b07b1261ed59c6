import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import wiring
from jaxnas.spaces import dag_cnn
from jaxnas.spaces.dag_cnn_space import DagCNN

SHAPE = (4, 4, 2)
MIXED = wiring.from_code("2_21_112")


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, *SHAPE)), jnp.float32)


def _space(**options):
    return dag_cnn(DagCNN(**{"width": 3, "classes": 3} | options), shape=SHAPE)


def _logits(space, params, arch, images):
    network, read = space.bind(arch, params)
    return network(read, images).logits


def _convolved(images, kernel):
    """A convolution as the sum over its taps of shifted images."""
    size = len(kernel)
    around = size // 2
    padded = np.pad(images, ((0, 0), (around, around), (around, around), (0, 0)))
    height, width = images.shape[1:3]
    return sum(
        padded[:, row : row + height, column : column + width] @ np.asarray(kernel[row, column])
        for row in range(size)
        for column in range(size)
    )


@pytest.mark.parametrize(
    ("order", "readout", "size"), [("post", "flatten", 3), ("pre", "pool", 3), ("post", "pool", 1)]
)
def test_a_cell_by_hand(images, order, readout, size):
    space = _space(order=order, readout=readout, kernel_size=size)
    params = space.init(jax.random.key(0), images)

    def layer(edge, signal):
        kernel = params[edge]["kernel"] * (2 / (size * size * 3)) ** 0.5
        if order == "post":
            return np.maximum(_convolved(signal, kernel), 0)
        return _convolved(np.maximum(signal, 0), kernel)

    zero = _convolved(images, params["stem"]["kernel"]) / (size * size * 2) ** 0.5
    one = layer("edge_000_001", zero)
    two = layer("edge_000_002", zero) + one
    three = zero + one + layer("edge_002_003", two)
    flat = three.mean((1, 2)) if readout == "pool" else three.reshape(3, -1)
    expected = flat @ params["readout"]["kernel"] / flat.shape[1] ** 0.5
    np.testing.assert_allclose(
        _logits(space, params, MIXED, images), expected, rtol=1e-4, atol=1e-5
    )


def test_a_traced_wiring_is_the_concrete_one(images):
    space = _space(biases=True)
    params = jax.tree.map(lambda leaf: leaf + 0.1, space.init(jax.random.key(0), images))
    chex.clear_trace_counter()

    @jax.jit
    @functools.partial(chex.assert_max_traces, n=1)
    def traced(arch, params):
        return _logits(space, params, arch, images)

    for code in ("2_21_112", "2_20_210", "0_00_000"):
        edges = wiring.from_code(code)
        np.testing.assert_allclose(
            traced(edges, params), _logits(space, params, edges, images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("readout", ["flatten", pytest.param("pool", marks=pytest.mark.slow)])
def test_wide_networks_have_the_analytic_kernels(analytic, images, readout):
    """The NTK of 16 networks of 64 channels agrees with neural-tangents to 8 %."""
    module = DagCNN(width=64, classes=1, order="pre", readout=readout)
    space = dag_cnn(module, nodes=3, shape=SHAPE)
    edges = wiring.from_code("2_11")
    network, _ = space.bind(edges, space.init(jax.random.key(0), images))

    def drawn(key):
        _, params = space.bind(edges, space.init(key, images))
        gradients = jax.vmap(
            lambda one: jax.grad(lambda p: network(p, one[None]).logits[0, 0])(params)
        )(images)
        return sum(jnp.einsum("i...,j...->ij", leaf, leaf) for leaf in jax.tree.leaves(gradients))

    keys = jax.random.split(jax.random.key(1), 16)
    found = jax.jit(lambda keys: jax.lax.map(drawn, keys).mean(0))(keys)
    exact = analytic.convolutional_cell(edges, images, readout=readout).ntk
    assert np.linalg.norm(found - exact) < 0.08 * np.linalg.norm(exact)


def test_the_facts_of_the_space(images):
    space = _space(biases=True)
    params = space.init(jax.random.key(0), images)
    for code in ("2_21_112", "2_20_010", "1_01_111"):
        edges = wiring.from_code(code)
        read = space.bind(edges, params)[1]
        assert space.num_params(edges) == sum(leaf.size for leaf in jax.tree.leaves(read))
    # 3x3x2x3 + 3 of the stem, 3x3x3x3 + 3 of an edge, 4x4x3x3 + 3 of the read-out
    assert space.num_params(wiring.from_code("2_20_010")) == 57 + 84 + 147
    assert (space.name, space.num_choices) == ("dag_cnn", (3,) * 6)
    assert space.options["shape"] == [4, 4, 2]
    assert space.options["kernel_size"] == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: _space(readout="mean"), "flatten, pool: got 'mean'"),
        (lambda x: _space(kernel_size=2), "must be odd, to keep the size: got 2"),
        (lambda x: _space(kernel_size=0), "kernel_size must be an integer from 1 .*: got 0"),
        (lambda x: _space(order="both"), "post, pre: got 'both'"),
        (lambda x: dag_cnn(shape=(4, 0, 3)), "A size of shape must be .*: got 0"),
        (
            lambda x: _space().init(jax.random.key(0), x[:, :2]),
            r"floats \[B, 4, 4, 2\]: got float32\[3, 2, 4, 2\]",
        ),
        (lambda x: _space().bind([2] * 3, {}), r"got shape \[3\]"),
    ],
)
def test_bad_input(images, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(images)
    assert "\n" not in str(caught.value)
