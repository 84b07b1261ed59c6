import numpy as np
import pytest

from jaxnas.connectivity import convolutional, recursion
from jaxnas.spaces.nasbench201_space import cell, equivalence

NONE, SKIP, CONV1, CONV3, POOL = range(5)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)


@pytest.mark.parametrize(
    "arch",
    [
        [CONV3, CONV1, SKIP, SKIP, NONE, CONV3],
        pytest.param([CONV3, CONV1, POOL, SKIP, CONV1, CONV3], marks=pytest.mark.slow),
        pytest.param([SKIP, SKIP, SKIP, SKIP, SKIP, CONV3], marks=pytest.mark.slow),
        pytest.param([POOL, NONE, POOL, NONE, NONE, POOL], marks=pytest.mark.slow),
    ],
)
def test_it_is_neural_tangents_where_that_has_a_kernel(analytic, images, arch):
    found = convolutional.convolutional_kernels(arch, images, last_relu=False)
    oracle = analytic.convolutional_cell(
        arch, images, operations=analytic.NASBENCH201_OPERATIONS, readout="pool"
    )
    np.testing.assert_allclose(found.nngp, oracle.nngp, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.ntk, oracle.ntk, rtol=1e-4, atol=1e-5)


def test_the_last_relu_on_one_pixel(images):
    """On images of one pixel a 3x3 convolution is a matrix, but for eight ninths of its fan-in."""
    rows = images[:, :1, :1]
    flat = rows.reshape(3, 2)
    gram = flat @ flat.T / (9 * 2)
    found = convolutional.convolutional_kernels([NONE, NONE, NONE, SKIP, NONE, NONE], rows)
    # A linear stem, a ReLU and a read-out: a wiring of one edge, but for the ReLU's weights.
    both = recursion.over_wirings(lambda both: both, [[2]], gram, order="pre")
    np.testing.assert_allclose(found.nngp, both.nngp[0], rtol=1e-6)
    np.testing.assert_allclose(found.ntk, both.ntk[0] - both.nngp[0], rtol=1e-6)


def _wide(arch, images, rng, width=100):
    """The NNGP of one network of finite width."""

    def patches(x):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return np.concatenate(
            [padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)], axis=-1
        )

    def layer(x, gain=1.0):
        found = patches(x)
        weights = rng.normal(size=(found.shape[-1], width))
        return found @ weights * gain / found.shape[-1] ** 0.5

    def pooled(x):
        ones = patches(np.ones_like(x[..., :1])).sum(-1, keepdims=True)
        return patches(x).reshape(*x.shape[:3], 9, -1).sum(3) / ones

    nodes = [layer(images)]
    for target in range(1, 4):
        nodes.append(np.zeros_like(nodes[0]))
        for source in range(target):
            operation = arch[target * (target - 1) // 2 + source]
            if operation == SKIP:
                nodes[target] += nodes[source]
            elif operation == POOL:
                nodes[target] += pooled(nodes[source])
            elif operation == CONV3:
                nodes[target] += layer(np.maximum(nodes[source], 0), 2**0.5)
    features = np.maximum(nodes[3], 0).mean((1, 2)) * 2**0.5
    return features @ features.T / width


def test_a_pooling_beside_its_own_input_is_what_wide_networks_have(images):
    """A sum that neural-tangents has no kernel for, by 60 drawn networks of 100 channels."""
    arch = [SKIP, POOL, NONE, CONV3, POOL, SKIP]
    rng = np.random.default_rng(0)
    drawn = np.mean([_wide(arch, images, rng) for _ in range(60)], axis=0)
    found = convolutional.convolutional_kernels(arch, images)
    np.testing.assert_allclose(found.nngp, drawn, rtol=0.1)
    assert np.linalg.norm(found.nngp - drawn) < 0.05 * np.linalg.norm(drawn)


def test_dead_edges_change_nothing(images):
    dead = convolutional.convolutional_kernels([CONV3, NONE, CONV1, SKIP, NONE, NONE], images)
    found = convolutional.convolutional_kernels([NONE, NONE, NONE, SKIP, NONE, NONE], images)
    np.testing.assert_array_equal(dead.ntk, found.ntk)
    unfed = convolutional.convolutional_kernels([NONE, NONE, CONV1, SKIP, CONV3, CONV3], images)
    np.testing.assert_array_equal(unfed.ntk, found.ntk)


def test_equal_functions_have_equal_kernels():
    """Other spellings of the same function, in which sums, skips and poolings sit elsewhere."""
    small = np.random.default_rng(1).normal(size=(2, 4, 4, 1))
    cells = np.random.default_rng(2).choice([SKIP, CONV1, CONV3, POOL, NONE], size=(400, 6))
    others = [(each, equivalence.representative(each)) for each in cells if cell.is_connected(each)]
    different = [(each, other) for each, other in others if (each != other).any()]
    assert len(different) > 100
    for result, other in different:
        found, expected = (
            convolutional.convolutional_kernels(one, small).ntk for one in (result, other)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)  # at cosine 1, half the digits


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: convolutional.convolutional_kernels([0] * 6, x), r"got \[0, 0, 0, 0, 0, 0\]"),
        (lambda x: convolutional.convolutional_kernels([9] * 6, x), "9"),
        (lambda x: convolutional.convolutional_kernels([1] * 6, x[0]), r"got shape \[4, 4, 2\]"),
        (lambda x: convolutional.convolutional_kernels([1] * 6, x[0, 0]), r"got shape \[4, 2\]"),
        (lambda x: convolutional.convolutional_kernels([1] * 6, x[:1]), r"shape \[1, 4, 4, 2\]"),
        (
            lambda x: convolutional.convolutional_kernels([1] * 6, np.zeros((99, 32, 32, 3))),
            r"99 images of 32x32 pixels need about .* GiB of 4\.0: take",
        ),
    ],
)
def test_bad_input(images, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(images)
    assert "\n" not in str(caught.value)
