import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.isometry import (
    BY_NAME,
    BlockShape,
    FixedBlock,
    calibrate,
    exact_spectrum,
    lanczos_spectrum,
    mean_field,
    propagate,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PIXELS, CHANNELS = 8, 16


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2)])
def test_exact_spectrum_of_a_matrix(shape):
    matrix = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    spectrum = exact_spectrum(lambda x: (matrix @ x.ravel())[None], jnp.zeros((1, shape[1])))
    expected = np.sort(np.linalg.svd(np.asarray(matrix), compute_uv=False) ** 2)
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(spectrum.phi, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        spectrum.cv_squared, expected.var() / expected.mean() ** 2, rtol=1e-4
    )


def test_moments_and_quantiles_by_hand():
    # Squared singular values 1, 4, 9, 16: mean 30 / 4; variance 354 / 4 - 56.25 = 32.25.
    spectrum = exact_spectrum(lambda x: jnp.arange(1.0, 5) * x, jnp.zeros(4))
    np.testing.assert_allclose(spectrum.phi, 7.5, rtol=1e-6)
    np.testing.assert_allclose(spectrum.cv_squared, 32.25 / 56.25, rtol=1e-5)
    np.testing.assert_allclose(spectrum.quantiles([0.1, 0.3, 0.6, 1.0]), [1, 4, 9, 16], rtol=1e-5)


@jax.jit
def _estimated(matrix):
    module = functools.partial(jnp.matmul, matrix)
    return lanczos_spectrum(module, jnp.zeros(20), KEY, steps=8, probes=256)


def test_lanczos_agrees_with_the_exact_spectrum():
    matrix = jnp.asarray(RNG.normal(size=(20, 20)), jnp.float32)
    expected = np.sort(np.linalg.svd(np.asarray(matrix), compute_uv=False) ** 2)
    estimated = _estimated(matrix)
    np.testing.assert_allclose(estimated.weights.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(estimated.phi, expected.mean(), rtol=0.05)
    np.testing.assert_allclose(
        estimated.cv_squared, expected.var() / expected.mean() ** 2, rtol=0.15
    )
    shares = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(
        estimated.quantiles(shares), np.quantile(expected, shares), rtol=0.25
    )


def test_lanczos_moments_are_those_of_hutchinson():
    matrix = jnp.asarray(RNG.normal(size=(20, 20)), jnp.float32)
    spectrum = _estimated(matrix)
    probes = np.asarray(jax.random.rademacher(KEY, (256, 20), jnp.float32))
    gram = np.asarray(matrix.T @ matrix)
    phi = np.mean([v @ gram @ v for v in probes]) / 20
    second = np.mean([v @ gram @ gram @ v for v in probes]) / 20
    np.testing.assert_allclose(spectrum.phi, phi, rtol=1e-4)
    np.testing.assert_allclose(spectrum.cv_squared, second / phi**2 - 1, rtol=1e-3)


def test_lanczos_of_an_isometry_ends_at_once():
    rotation = jnp.linalg.qr(jnp.asarray(RNG.normal(size=(20, 20)), jnp.float32))[0]
    spectrum = _estimated(3 * rotation)
    np.testing.assert_allclose(spectrum.phi, 9, rtol=1e-5)
    np.testing.assert_allclose(spectrum.cv_squared, 0, atol=1e-5)


def test_lanczos_of_fewer_dimensions_than_steps_is_exact():
    # Three outputs of five inputs: the two zeros of unequal widths do not count.
    def module(x):
        return jnp.arange(1.0, 4) * x[:3]

    spectrum = lanczos_spectrum(module, jnp.zeros(5), KEY, steps=9)
    # Of the three numbers a probe of signs sees each equally.
    np.testing.assert_allclose(spectrum.phi, 14 / 3, rtol=1e-5)
    np.testing.assert_allclose(spectrum.quantiles([0.2, 0.5, 0.9]), [1, 4, 9], rtol=1e-4)


_calibrate = jax.jit(calibrate)
_apply = jax.jit(FixedBlock.__call__)
BATCH = jax.random.normal(jax.random.key(1), (32, PIXELS, PIXELS, CHANNELS))


def _stack(name, depth, skip=0.0):
    """Blocks, each normalized by the statistics that a batch has on its way through them."""
    x, blocks = BATCH, []
    shape = BlockShape(CHANNELS, 3 * CHANNELS, CHANNELS, 3)
    for key in jax.random.split(KEY, depth):
        blocks.append(_calibrate(BY_NAME[name].block(key, shape, jnp.float32), x, skip))
        x = _apply(blocks[-1], x)
    return blocks


@jax.jit
def _spectrum(blocks):
    """Of the stack at one image."""

    def chain(x):
        for block in blocks:
            x = block(x)
        return x

    return lanczos_spectrum(chain, BATCH[:1], KEY, steps=4, probes=24)


PHI = float(mean_field.normalized_chi(jax.nn.relu)) ** 2


def test_a_normalized_block_is_not_isometric_whatever_the_weights():
    found = {name: _spectrum(_stack(name, 1)) for name in ("gauss", "qr", "mirror")}
    for name in ("gauss", "qr"):
        np.testing.assert_allclose(found[name].phi, PHI, atol=0.15)
        assert 1.2 < found[name].cv_squared < 3
    assert 0.6 < found["qr"].cv_squared / found["gauss"].cv_squared < 0.95
    assert found["mirror"].cv_squared < 0.4 * found["qr"].cv_squared


@pytest.mark.slow
@pytest.mark.parametrize("residual", [False, True])
def test_a_stack_multiplies(residual):
    skip = float(residual)
    measured = _spectrum(_stack("gauss", 3, skip)).phi
    expected = mean_field.stack_phi(PHI, 3, residual=residual)
    np.testing.assert_allclose(measured, expected, rtol=0.15)


def test_normalization_keeps_variance_and_not_gradients():
    layers = [functools.partial(_apply, block) for block in _stack("qr", 6)]
    passed = propagate(layers, BATCH, KEY)
    np.testing.assert_allclose(passed.variances, 1, rtol=0.05)
    assert (passed.means < 1e-3).all()
    # Norms are the roots of phi, at least for the first few blocks.
    np.testing.assert_allclose(passed.gradients[-1], PHI**0.5, rtol=0.1)
    np.testing.assert_allclose(passed.gradients[0], PHI**3, rtol=0.3)


def test_propagation_by_hand():
    # Layers 2 x + 1 and -3 x of [[1, -1], [3, 1]]: [[3, -1], [7, 3]] and [[-9, 3], [-21, -9]].
    layers = [lambda x: 2 * x + 1, lambda x: -3 * x]
    passed = propagate(layers, jnp.array([[1.0, -1], [3, 1]]), KEY)
    np.testing.assert_allclose(passed.means, [(26 / 2) ** 0.5, 3 * (26 / 2) ** 0.5], rtol=1e-5)
    np.testing.assert_allclose(passed.variances, [8, 72], rtol=1e-5)
    np.testing.assert_allclose(passed.gradients, [6, 3], rtol=1e-5)


# Mean squared singular value and cv² of one normalized block of 8 channels at 8 x 8 pixels, kernel
# 3 and expansion 3, three draws; without and with a skip connection.
MEASURED = {
    "gauss": ((2.12, 2.44), (3.10, 1.55)),
    "qr": ((2.17, 1.90), (3.10, 1.34)),
    "delta": ((1.72, 1.61), (2.61, 1.22)),
    "shift": ((1.70, 1.53), (2.71, 1.08)),
    "mirror": ((1.24, 0.53), (2.14, 0.71)),
    "mirror_shift": ((1.40, 0.55), (2.36, 0.71)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("skip", [0.0, 1.0])
def test_table_of_normalized_blocks(name, skip):
    found = []
    for seed in range(3):
        batch = jax.random.normal(jax.random.key(100 + seed), (64, 8, 8, 8))
        kernels = BY_NAME[name].block(jax.random.key(seed), BlockShape(8, 24, 8, 3), jnp.float32)
        spectrum = exact_spectrum(_calibrate(kernels, batch, skip), batch[:1])
        found.append((spectrum.phi, spectrum.cv_squared))
    phi, cv_squared = np.mean(found, axis=0)
    expected = MEASURED[name][int(skip)]
    np.testing.assert_allclose(phi, expected[0], rtol=0.13)
    np.testing.assert_allclose(cv_squared, expected[1], atol=0.17)


@pytest.mark.slow
def test_twenty_layers_without_normalization():
    shape = BlockShape(CHANNELS, 3 * CHANNELS, CHANNELS, 3)
    passed = {}
    for name in ("gauss", "qr", "qr_scaled", "mirror"):
        keys = jax.random.split(KEY, 20)
        blocks = [BY_NAME[name].block(key, shape, jnp.float32) for key in keys]
        layers = [functools.partial(_apply, FixedBlock(kernels)) for kernels in blocks]
        passed[name] = propagate(layers, BATCH, KEY)
    # Only the mirrored block keeps variances and gradients; literal QR vanishes.
    np.testing.assert_allclose(passed["mirror"].variances, 1, rtol=0.02)
    np.testing.assert_allclose(passed["mirror"].gradients, 1, rtol=0.02)
    assert passed["qr"].variances[-1] < 1e-30
    assert passed["gauss"].variances[-1] < 1e-15
    assert 1e-6 < passed["qr_scaled"].variances[-1] < 1
    assert (passed["mirror"].means < 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("gauss", 2.152**20), ("qr", 2.152**20)])
def test_twenty_normalized_blocks_explode(name, expected):
    measured = _spectrum(_stack(name, 20)).phi
    assert expected / 3 < measured < expected * 3


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: propagate([], jnp.ones(2), KEY), "got no layers"),
        (
            lambda: lanczos_spectrum(jnp.sin, jnp.ones(2), KEY, steps=1),
            "got steps=1, probes=8",
        ),
        (lambda: exact_spectrum(jnp.sin, jnp.ones(2, int)), r"floating-point inputs.* int32\[2\]"),
        (lambda: exact_spectrum(jnp.sign, jnp.ones((0, 2))), r"got float32\[0, 2\]"),
        (lambda: exact_spectrum(jnp.argsort, jnp.ones(2)), "floating-point outputs"),
    ],
)
def test_bad_inputs_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()
