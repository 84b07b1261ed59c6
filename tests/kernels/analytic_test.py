import functools
import pathlib

import jax
import numpy as np
import pytest

from jaxnas import encoding, wiring
from jaxnas.connectivity import recursion

analytic = pytest.importorskip(
    "jaxnas.kernels.analytic",
    reason="the extra `analytic` is not installed",
    exc_type=ModuleNotFoundError,
)

WEIGHT, BIAS = 2**0.5, 0.3


def _relu(covariance):
    """`E relu(u) relu(v)` and `E relu'(u) relu'(v)` for Gaussians of `covariance` `[B, B]`.

    With `t` the angle between two inputs, u = s z1 and v = s' (z1 cos t + z2 sin t). Both are
    positive on a wedge of the plane of angle pi - t, whose share is (pi - t) / 2 pi; and the
    integral of z1 (z1 cos t + z2 sin t) over it is (sin t + (pi - t) cos t) / 2 pi: the arc-cosine
    kernels of order 0 and 1 (Cho and Saul, NIPS 2009), by half.
    """
    scale = np.sqrt(np.diag(covariance))
    angle = np.arccos(np.clip(covariance / np.outer(scale, scale), -1, 1))
    first = np.outer(scale, scale) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    return first / (2 * np.pi), (np.pi - angle) / (2 * np.pi)


def _by_hand(inputs, depth, weight, bias):
    nngp = ntk = weight**2 * inputs @ inputs.T / inputs.shape[1] + bias**2
    for _ in range(depth):
        activations, derivatives = _relu(nngp)
        nngp = weight**2 * activations + bias**2
        ntk = nngp + weight**2 * derivatives * ntk  # its own weights, and those of the layers below
    return nngp, ntk


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(size=(5, 7))


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
@pytest.mark.parametrize(("weight", "bias"), [(WEIGHT, 0.0), (1.3, BIAS)])
def test_kernels_are_the_arc_cosine_formulas(inputs, depth, weight, bias):
    with jax.enable_x64(True):
        kernel_fn = analytic.fully_connected(depth, weight_std=weight, bias_std=bias)
        found = analytic.kernels(kernel_fn, jax.numpy.asarray(inputs))
        nngp, ntk = _by_hand(inputs, depth, weight, bias)
        np.testing.assert_allclose(found.nngp, nngp, rtol=1e-6)
        np.testing.assert_allclose(found.ntk, ntk, rtol=1e-6)


def test_orthogonal_inputs_by_hand():
    # Angle pi / 2, covariance diag(1, 1): E relu relu = 1/2 and 1 / 2 pi, E relu' relu' = 1/2, 1/4.
    # NNGP 2 x that = 1 and 1 / pi; NTK = NNGP + 2 x (1/2, 1/4) x (1, 0) = 2 and 1 / pi.
    found = analytic.kernels(analytic.fully_connected(1), np.eye(2, dtype=np.float32))
    np.testing.assert_allclose(found.nngp, [[1, 1 / np.pi], [1 / np.pi, 1]], rtol=1e-5)
    np.testing.assert_allclose(found.ntk, [[2, 1 / np.pi], [1 / np.pi, 2]], rtol=1e-5)


def test_kernels_against_other_inputs(inputs):
    with jax.enable_x64(True):
        kernel_fn = analytic.fully_connected(2)
        whole = analytic.kernels(kernel_fn, jax.numpy.asarray(inputs))
        part = analytic.kernels(kernel_fn, inputs[:2], inputs[2:])
        np.testing.assert_allclose(part.nngp, whole.nngp[:2, 2:], rtol=1e-6)
        np.testing.assert_allclose(part.ntk, whole.ntk[:2, 2:], rtol=1e-6)


def test_layers_of_ones_own(inputs):
    stax = analytic.stax
    kernel_fn = stax.serial(stax.Dense(9, WEIGHT, 0.0), stax.Relu(), stax.Dense(1, WEIGHT, 0.0))[2]
    found = analytic.kernels(kernel_fn, inputs)
    ours = analytic.kernels(analytic.fully_connected(1), inputs)
    np.testing.assert_allclose(found.ntk, ours.ntk, rtol=1e-6)


@pytest.mark.parametrize("depth", [-1, -7])
def test_a_negative_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"^depth must not be negative: got {depth}; .*$"):
        analytic.fully_connected(depth)


def _itself(both):
    return both


def _agrees(code, inputs):
    """Whether neural-tangents and the closed recursion agree on a cell of rows."""
    edges = wiring.from_code(code)
    rows = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    exact = recursion.over_wirings(_itself, edges[None], rows @ rows.T, order="pre")
    with jax.enable_x64(True):
        found = analytic.fully_connected_cell(edges, rows)
        np.testing.assert_allclose(found.nngp, exact.nngp[0], rtol=1e-6)
        np.testing.assert_allclose(found.ntk, exact.ntk[0], rtol=1e-6)


@pytest.mark.parametrize("code", ["2_21_112", "1_11_112"])
def test_cells_are_the_closed_recursion(inputs, code):
    _agrees(code, inputs)


@pytest.mark.slow
def test_all_cells_are_the_closed_recursion(inputs):
    """The 225 in which no signal comes twice, and the 65 others, 290 in all."""
    pruned = jax.vmap(wiring.prune)(encoding.enumerate_archs((3,) * 6))
    codes = {wiring.to_code(each) for each in np.asarray(pruned) if each.any()}
    assert len(codes) == 290
    for code in sorted(codes):
        _agrees(code, inputs)


def test_neural_tangents_takes_two_identities_for_independent(inputs):
    """2 K instead of 4 K: why sums are not left to it. Outputs of ReLUs it does not add at all."""
    stax = analytic.stax
    identities = stax.parallel(stax.Identity(), stax.Identity())
    with pytest.warns(UserWarning, match="assume independent inputs"):
        twice = stax.serial(stax.Dense(1), stax.FanOut(2), identities, stax.FanInSum())[2](
            inputs, None, "nngp"
        )
    once = stax.Dense(1)[2](inputs, None, "nngp")
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    edges = analytic.fully_connected_cell(wiring.from_code("1_11"), inputs)
    np.testing.assert_allclose(edges.nngp, 4 * inputs @ inputs.T, rtol=1e-5, atol=1e-5)
    relus = stax.parallel(
        stax.serial(stax.Dense(1), stax.Relu()), stax.serial(stax.Dense(1), stax.Relu())
    )
    with (
        pytest.raises(NotImplementedError),
        pytest.warns(UserWarning, match="assume independent inputs"),
    ):
        stax.serial(stax.FanOut(2), relus, stax.FanInSum())[2](inputs, None, "nngp")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(3, 4, 4, 2)).astype(np.float32)


def test_a_cell_of_1x1_convolutions_is_that_of_each_pixel(images):
    """A flattening read-out averages over pixels the cell's kernels of the stem's pixels."""
    arch = [2, 0, 1, 0, 0, 2]  # two 1x1 convolutions in a row
    found = analytic.convolutional_cell(arch, images, operations=analytic.NASBENCH201_OPERATIONS)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.stack(
        [padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)], axis=-1
    ).reshape(3, 4, 4, 18)
    expected = [
        recursion.over_wirings(_itself, [[2, 0, 1, 0, 0, 2]], rows @ rows.T / 18, order="pre")
        for rows in patches.transpose(1, 2, 0, 3).reshape(16, 3, 18).astype(float)
    ]
    np.testing.assert_allclose(found.nngp, np.mean([e.nngp[0] for e in expected], 0), rtol=1e-4)
    np.testing.assert_allclose(found.ntk, np.mean([e.ntk[0] for e in expected], 0), rtol=1e-4)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_convolutional_cells_are_what_wide_networks_do(images, readout):
    """The NNGP of 3x3 convolutions by drawing networks: 100 channels, 80 draws."""
    edges = analytic.convolutional_cell(wiring.from_code("2_11"), images, readout=readout)
    rng = np.random.default_rng(0)

    def patches(x):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return np.concatenate(
            [padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)], axis=-1
        )

    drawn = []
    for _ in range(80):
        before = patches(images)
        stem = before @ rng.normal(size=(before.shape[-1], 100)) / before.shape[-1] ** 0.5
        hidden = patches(np.maximum(stem, 0))
        layer = hidden @ rng.normal(size=(hidden.shape[-1], 100)) * (2 / hidden.shape[-1]) ** 0.5
        out = stem + layer
        flat = out.mean((1, 2)) if readout == "pool" else out.reshape(3, -1)
        drawn.append(flat @ flat.T / flat.shape[1])
    np.testing.assert_allclose(np.mean(drawn, 0), edges.nngp, rtol=0.05, atol=0.02)


def test_poolings_of_a_chain_and_of_independent_branches(images):
    run = functools.partial(
        analytic.convolutional_cell, images=images, operations=analytic.NASBENCH201_OPERATIONS
    )
    assert np.isfinite(run([4, 0, 1, 0, 0, 1]).ntk).all()
    # Twice the same pooling is twice the signal.
    once, twice = run([1, 0, 0, 4, 0, 0]), run([1, 0, 0, 4, 4, 0])
    np.testing.assert_allclose(twice.ntk, 4 * once.ntk, rtol=1e-5)
    with pytest.raises(ValueError, match="Node 3 adds a pooling to a signal that it depends on"):
        run([1, 0, 0, 4, 1, 0])


def test_memory_by_hand():
    # 4 images, 8x8 pixels, one convolution: 16 x 64 pixels (or 16 x 4096 pairs), 4 bytes, 8 arrays
    shape = (4, 8, 8, 3)
    assert analytic.kernel_bytes(shape, pairs_of_pixels=False, weights=1) == 16 * 64 * 4 * 8
    assert analytic.kernel_bytes(shape, pairs_of_pixels=True, weights=1) == 16 * 4096 * 4 * 8


MEASURE_MEMORY = """
import pathlib, re, sys
import numpy as np
from jaxnas import wiring
from jaxnas.kernels import analytic

code, readout, count, side = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])

def peak(shape):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    cell = analytic.convolutional_cell(wiring.from_code(code), images, readout=readout)
    assert np.isfinite(cell.ntk).all()
    # Not getrusage: that begins at what the process that started this one had.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

first = peak((2, 4, 4, 3))  # to import and compile takes memory too
print(peak((count, side, side, 3)) - first)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("code", ["2_00_010", "2_21_112", "2_12_222"])
@pytest.mark.parametrize(("readout", "count", "side"), [("flatten", 128, 32), ("pool", 16, 16)])
def test_the_memory_is_what_a_process_takes(run_program, code, readout, count, side):
    finished = run_program(MEASURE_MEMORY, arguments=[code, readout, str(count), str(side)])
    assert finished.returncode == 0, finished.stderr
    estimate = analytic.kernel_bytes(
        (count, side, side, 3), pairs_of_pixels=readout == "pool", weights=code.count("2")
    )
    assert 0.9 < estimate / float(finished.stdout) < 2.1


def test_too_large_a_kernel_is_refused_before_it_is_made():
    images = np.zeros((32, 32, 32, 3), np.float32)  # 4 GiB for each array of pairs of pixels
    with pytest.raises(
        ValueError, match=r"32 images of 32x32 pixels need about .* GiB of 4\.0: take"
    ):
        analytic.convolutional_cell(wiring.from_code("2"), images, readout="pool")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: analytic.fully_connected_cell([0], x[:, 0, 0]), "No path leads from node 0 to"),
        (lambda x: analytic.fully_connected_cell([3], x[:, 0, 0]), r"of 0 to 2 .*\[3\]"),
        (lambda x: analytic.fully_connected_cell([2, 2], x[:, 0, 0]), r"got shape \[2\]"),
        (lambda x: analytic.fully_connected_cell([2], x), r"rows \[B, F\]: got shape \[3, 4, 4, 2"),
        (lambda x: analytic.convolutional_cell([2], x[0]), r"got shape \[4, 4, 2\]"),
        (lambda x: analytic.convolutional_cell([2], x, readout="mean"), "got 'mean'"),
        (lambda x: analytic.convolutional_cell([4], x), r"of 0 to 2"),
    ],
)
def test_bad_cells_are_refused(images, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(images)
    assert "\n" not in str(caught.value)


def test_float64_is_refused_where_it_crashes(images):
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match=r"crash in float64: .* cast them to float32"),
    ):
        analytic.convolutional_cell([2], images.astype(float), readout="pool")
