import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.isometry import BY_NAME, BlockShape, exact_spectrum, initializers

KEY = jax.random.key(0)
CELLS = [name for name in BY_NAME if not name.startswith("mirror")]
MIRRORS = ["mirror", "mirror_shift"]


@functools.cache
def _jitted(name, shape):
    is_block = isinstance(shape, BlockShape)
    draw = BY_NAME[name].block if is_block else BY_NAME[name].tensor
    return jax.jit(lambda key: draw(key, shape, jnp.float32))


def _drawn(name, shape, seed=0):
    """A kernel, or the kernels of a block; compiled whole, which is faster than step by step."""
    return _jitted(name, shape)(jax.random.key(seed))


def _eigenvalues(kernel, pixels=8):
    """Squared singular values of a circular convolution, frequency by frequency, in NumPy."""
    kernel = np.asarray(kernel, float)
    spectrum = np.fft.fft2(kernel, (pixels, pixels), axes=(0, 1))
    if kernel.shape[2] == 1 and kernel.shape[0] > 1:
        return np.abs(spectrum).ravel() ** 2
    return np.linalg.svd(spectrum, compute_uv=False).ravel() ** 2


def _phi_and_cv(kernels):
    eigenvalues = np.concatenate([_eigenvalues(kernel) for kernel in kernels])
    return eigenvalues.mean(), eigenvalues.var() / eigenvalues.mean() ** 2


def _circular(x, kernel):
    """A dense convolution of `[..., H, W, C]`, tap by tap, in NumPy."""
    size = kernel.shape[0]
    return sum(
        np.roll(x, (size // 2 - row, size // 2 - column), (-3, -2)) @ kernel[row, column]
        for row in range(size)
        for column in range(size)
    )


def test_the_transform_agrees_with_a_jacobian():
    kernel = np.asarray(_drawn("qr", (3, 3, 2, 6)), float)
    jacobian = _circular(np.eye(50).reshape(50, 5, 5, 2), kernel).reshape(50, 150)
    measured = np.linalg.svd(jacobian, compute_uv=False) ** 2
    np.testing.assert_allclose(np.sort(measured), np.sort(_eigenvalues(kernel, 5)), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 4, 12), (1, 1, 12, 4), (3, 3, 2, 6)])
def test_qr_is_orthonormal(shape):
    matrix = np.asarray(_drawn("qr", shape)).reshape(-1, shape[3])
    gram = matrix.T @ matrix if len(matrix) >= shape[3] else matrix @ matrix.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-6)


def test_qr_is_the_factor_with_a_positive_diagonal():
    normal = np.asarray(jax.random.normal(KEY, (9, 4), jnp.float32))
    factor, triangle = np.linalg.qr(normal)
    expected = factor * np.sign(np.diag(triangle))
    np.testing.assert_allclose(_drawn("qr", (3, 3, 1, 4)).reshape(9, 4), expected, atol=1e-6)
    # So that R = Qᵀ F has it too: what makes the factorization unique.
    assert (np.diag(expected.T @ normal) > 0).all()


@pytest.mark.parametrize("size", [1, 3, 5])
def test_dense_qr_is_isometric_for_1x1_only(size):
    phi, cv_squared = _phi_and_cv([_drawn("qr", (size, size, 32, 32))])
    np.testing.assert_allclose(phi, 1, rtol=1e-5)
    np.testing.assert_allclose(cv_squared, 1 - 1 / size**2, atol=0.03)


@pytest.mark.parametrize("size", [1, 3])
def test_dense_gauss(size):
    phi, cv_squared = _phi_and_cv([_drawn("gauss", (size, size, 32, 32), s) for s in range(3)])
    np.testing.assert_allclose(phi, 2, rtol=0.05)
    np.testing.assert_allclose(cv_squared, 1, atol=0.1)


@pytest.mark.parametrize(("name", "size"), [("qr", 3), ("qr", 5), ("qr_scaled", 3)])
def test_depthwise_scale(name, size):
    phi, _ = _phi_and_cv([_drawn(name, (size, size, 1, 96))])
    np.testing.assert_allclose(phi, {"qr": size**2 / 96, "qr_scaled": 1}[name], rtol=1e-5)


def test_depthwise_gauss_has_the_scale_of_the_reference_code():
    phi, _ = _phi_and_cv([_drawn("gauss", (3, 3, 1, 96), seed) for seed in range(4)])
    np.testing.assert_allclose(phi, 2 / 96, rtol=0.1)


def test_depthwise_qr_has_filters_of_unequal_norms():
    norms = np.linalg.norm(_drawn("qr", (3, 3, 1, 48)), axis=(0, 1)).ravel()
    assert 0.1 < norms.min() < 0.3
    assert 0.5 < norms.max() < 0.75


@pytest.mark.parametrize(("size", "expected"), [(3, 8 / 11), (5, 24 / 27), (7, 48 / 51)])
def test_depthwise_of_unit_norm(size, expected):
    # Of an odd map, where all frequencies but one are complex: real ones vary twice as much.
    kernels = [_drawn("qr_scaled", (size, size, 1, 96), seed) for seed in range(4)]
    eigenvalues = np.stack([_eigenvalues(kernel, 31) for kernel in kernels])
    np.testing.assert_allclose(eigenvalues.var() / eigenvalues.mean() ** 2, expected, atol=0.12)


@pytest.mark.parametrize("name", ["shift", "delta"])
@pytest.mark.parametrize("shape", [(3, 3, 4, 4), (3, 3, 3, 8), (3, 3, 8, 3), (5, 5, 1, 6)])
def test_one_tap_a_channel_is_isometric(name, shape):
    np.testing.assert_allclose(_eigenvalues(_drawn(name, shape)), 1, atol=1e-5)


def test_delta_hides_the_size_and_shift_shows_it():
    small, large = (_drawn("delta", (size, size, 4, 4)) for size in (3, 5))
    np.testing.assert_array_equal(jnp.pad(small, [(1, 1)] * 2 + [(0, 0)] * 2), large)
    depthwise = _drawn("shift", (5, 5, 1, 64))
    np.testing.assert_array_equal(np.sort(depthwise.reshape(25, 64), axis=0)[-2:, 0], [0, 1])
    assert len(np.unique(np.argmax(depthwise.reshape(25, 64), axis=0))) > 15


def test_independent_expansion_and_projection():
    # phi 1 / t and cv² 1 - 1 / t; once units keep the variance, phi is 1 times the gain's square.
    for name, phi in (("qr", 1 / 3), ("qr_scaled", 2.0)):
        kernels = BY_NAME[name].block(KEY, BlockShape(32, 96, 32, 3), jnp.float32)
        matrix = np.asarray(kernels.expand[0, 0]) @ np.asarray(kernels.project[0, 0])
        eigenvalues = np.linalg.svd(matrix, compute_uv=False) ** 2
        np.testing.assert_allclose(eigenvalues.mean(), phi, rtol=0.1)
        cv_squared = eigenvalues.var() / eigenvalues.mean() ** 2
        np.testing.assert_allclose(cv_squared, 1 - 1 / 3, atol=0.1)


@jax.jit
def _block(kernels, x):
    """A block on `[H, W, C]` with circular padding, ReLU6 and no normalization."""
    x = jax.nn.relu6(x @ kernels.expand[0, 0])
    padding = kernels.depthwise.shape[0] // 2
    x = jax.lax.conv_general_dilated(
        jnp.pad(x, [(padding, padding)] * 2 + [(0, 0)], mode="wrap")[None],
        kernels.depthwise,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
    return jax.nn.relu6(x[0]) @ kernels.project[0, 0]


@pytest.mark.parametrize("name", MIRRORS)
@pytest.mark.parametrize("shape", [BlockShape(4, 24, 6, 3)])
def test_mirrored_block_is_exactly_isometric(name, shape):
    kernels = _drawn(name, shape)
    x = jax.random.normal(jax.random.key(1), (4, 4, 4))
    spectrum = exact_spectrum(lambda x: _block(kernels, x), x)
    np.testing.assert_allclose(spectrum.eigenvalues, 1, atol=1e-4)
    outputs = _block(kernels, x)
    np.testing.assert_allclose(jnp.linalg.norm(outputs), jnp.linalg.norm(x), rtol=1e-5)
    if name == "mirror":
        half = shape.hidden // 2
        rotation = kernels.expand[0, 0, :, :half] @ kernels.project[0, 0, :half]
        np.testing.assert_allclose(outputs, x @ rotation, atol=1e-4)


def test_mirrored_blocks_of_all_sizes_are_one_function():
    x = jax.random.normal(jax.random.key(1), (4, 4, 4))
    small, large, shifted = (
        _block(_drawn(name, BlockShape(4, 24, 6, size)), x)
        for name, size in (("mirror", 1), ("mirror", 3), ("mirror_shift", 3))
    )
    np.testing.assert_allclose(small, large, atol=1e-5)
    assert jnp.abs(small - shifted).max() > 0.1


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_block_has_the_kernels_of_its_shape(name):
    shape = BlockShape(4, 24, 6, 3)
    kernels = jax.eval_shape(lambda key: BY_NAME[name].block(key, shape, jnp.bfloat16), KEY)
    assert [kernel.shape for kernel in kernels] == [(1, 1, 4, 24), (3, 3, 1, 24), (1, 1, 24, 6)]
    assert {kernel.dtype for kernel in kernels} == {jnp.dtype(jnp.bfloat16)}
    stem = jax.eval_shape(lambda key: BY_NAME[name].tensor(key, (3, 3, 3, 8)), KEY)
    assert (stem.shape, stem.dtype) == ((3, 3, 3, 8), jnp.float32)


@pytest.mark.parametrize("name", CELLS)
def test_a_block_that_does_not_expand(name):
    kernels = _drawn(name, BlockShape(4, 4, 2, 3))
    assert kernels.expand is None
    if name == "qr_scaled":  # the signal is rectified before the projection only
        norms = np.linalg.norm(kernels.depthwise, axis=(0, 1))
        np.testing.assert_allclose(norms, 1, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(kernels.project, axis=2), 2**0.5, rtol=1e-5)


def test_orthogonal_filters_keep_inner_products():
    # As many filters as a patch has entries: exact, where Gaussian filters fluctuate.
    x, y = np.random.default_rng(0).normal(size=(2, 5, 5, 4))
    kernel = np.asarray(_drawn("qr", (3, 3, 4, 36)), float)
    product = np.vdot(_circular(x, kernel), _circular(y, kernel)) / 9
    np.testing.assert_allclose(product, np.vdot(x, y), rtol=1e-5, atol=1e-5)


def test_rectified_filters_follow_the_arc_cosine_kernel():
    # And not the inner product: |x| |y| (sin a + (pi - a) cos a) / (2 pi), a the angle of x and y.
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 36))
    y = x + noise
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    angle = np.arccos(x @ y / lengths)
    expected = lengths * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    kernels = np.stack([_drawn("qr", (3, 3, 4, 36), seed) for seed in range(200)])
    filters = kernels.reshape(200, 36, 36).astype(float)
    draws = (np.maximum(x @ filters, 0) * np.maximum(y @ filters, 0)).sum(axis=1)
    error = draws.std() / 200**0.5
    assert error < 0.03 * expected
    assert abs(draws.mean() - expected) < 3 * error
    assert expected < 0.8 * (x @ y)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("shape", [(3, 3, 4), (3, 5, 4, 4), (3, 3, 0, 4)])
def test_tensors_refuse_wrong_shapes(name, shape):
    with pytest.raises(ValueError, match=r"kernel of a convolution is .* got shape"):
        _drawn(name, shape)


def test_delta_refuses_an_even_size():
    with pytest.raises(ValueError, match="got size 2; use an odd"):
        _drawn("delta", (2, 2, 4, 4))


@pytest.mark.parametrize("name", MIRRORS)
@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (BlockShape(4, 4, 4, 3), "got 4 for 4 inputs; use an expansion"),
        (BlockShape(3, 9, 3, 3), "needs hidden units in pairs"),
        (BlockShape(4, 12, 4, 2), "its size is odd: got BlockShape"),
        (BlockShape(4, 12, 0, 3), "at least 1"),
    ],
)
def test_mirrors_refuse_wrong_shapes(name, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        BY_NAME[name].block(KEY, shape, jnp.float32)


def test_blocks_refuse_wrong_shapes():
    with pytest.raises(ValueError, match="of a block are at least 1: got BlockShape"):
        initializers.each(initializers.qr, KEY, BlockShape(0, 4, 4, 3))
