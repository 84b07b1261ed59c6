import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from jaxnas.isometry import mean_field

PI = np.pi


def _integral(function):
    """E function(z) by adaptive quadrature, the kinks of ReLU and ReLU6 named."""

    def density(z):
        return function(z) * np.exp(-(z**2) / 2) / np.sqrt(2 * PI)

    return integrate.quad(density, -12, 12, points=[0, 6], limit=200)[0]


def _numpy(activation):
    return {
        "relu": lambda u: max(u, 0),
        "relu6": lambda u: min(max(u, 0), 6),
        "tanh": np.tanh,
    }[activation.__name__]


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, jax.nn.relu6])
@pytest.mark.parametrize("q", [0.3, 1.0, 2.5])
def test_q_map_is_the_integral(activation, q):
    by_hand = 1.5 * _integral(lambda z: _numpy(activation)(q**0.5 * z) ** 2) + 0.2
    np.testing.assert_allclose(mean_field.q_map(activation, q, 1.5, 0.2), by_hand, rtol=1e-4)


def test_maps_of_relu_are_halves():
    # E relu(u)² = q / 2 and P(u > 0) = 1 / 2, exactly: a panel ends at 0.
    np.testing.assert_allclose(mean_field.q_map(jax.nn.relu, 3.0, 2.0), 3, rtol=1e-5)
    np.testing.assert_allclose(mean_field.chi_map(jax.nn.relu, 3.0, 2.0), 1, rtol=1e-5)


def test_chi_map_of_tanh_is_the_integral():
    by_hand = 1.3 * _integral(lambda z: (1 - np.tanh(0.7**0.5 * z) ** 2) ** 2)
    np.testing.assert_allclose(mean_field.chi_map(jnp.tanh, 0.7, 1.3), by_hand, rtol=1e-5)


def test_fixed_point_is_kept():
    q = mean_field.fixed_point(jnp.tanh, 2.0, 0.1)
    np.testing.assert_allclose(mean_field.q_map(jnp.tanh, q, 2.0, 0.1), q, rtol=1e-5)
    # x -> x / 2 + 1 / 3 for ReLU with weight variance 1 and bias variance 1 / 3.
    np.testing.assert_allclose(mean_field.fixed_point(jax.nn.relu, 1.0, 1 / 3), 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(mean_field.fixed_point(jax.nn.relu, 2.0, start=0.7), 0.7, rtol=1e-4)


@pytest.mark.parametrize(("variance", "steps"), [(3.0, 10_000), (1.0, 5)])
def test_no_fixed_point_is_not_a_number(variance, steps):
    assert jnp.isnan(mean_field.fixed_point(jax.nn.relu, variance, 0.1, steps=steps))


@pytest.mark.parametrize(("weights", "per_layer"), [("orthogonal", 1.0), ("gauss", 2.0)])
def test_relu_is_isometric_with_no_weights(weights, per_layer):
    spread = mean_field.product_spread(jax.nn.relu, 1.0, 5, weights)
    np.testing.assert_allclose(spread, 5 * per_layer, rtol=1e-5)


@pytest.mark.parametrize("weights", ["orthogonal", "gauss"])
def test_product_spread_is_that_of_random_matrices(weights):
    # One layer D W of 200 units: D keeps half of them, W as named.
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(200, 200)) / 200**0.5
    if weights == "orthogonal":
        matrix = np.linalg.qr(matrix)[0]
    matrix = matrix * (rng.permutation(200) < 100)[:, None]
    eigenvalues = np.linalg.svd(matrix, compute_uv=False) ** 2
    measured = eigenvalues.var() / eigenvalues.mean() ** 2
    expected = mean_field.product_spread(jax.nn.relu, 1.0, 1, weights)
    np.testing.assert_allclose(measured, expected, rtol=0.08)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.relu6])
def test_normalized_chi_of_rectifiers(activation):
    np.testing.assert_allclose(mean_field.normalized_chi(activation), PI / (PI - 1), rtol=1e-5)


def test_normalized_chi_of_the_identity_is_one():
    np.testing.assert_allclose(mean_field.normalized_chi(lambda u: u), 1, rtol=1e-5)


def test_stack_phi():
    block = (PI / (PI - 1)) ** 2
    np.testing.assert_allclose(block, 2.152, atol=1e-3)
    np.testing.assert_allclose(mean_field.stack_phi(block, 20, residual=False), 4.5e6, rtol=0.02)
    residual = [mean_field.stack_phi(block, depth, residual=True) for depth in (1, 5, 10, 20)]
    np.testing.assert_allclose(residual, [3.15, 24.7, 83.9, 321], rtol=5e-3)


def test_maps_can_be_differentiated_and_batched():
    slope = jax.grad(lambda q: mean_field.q_map(jax.nn.relu, q, 2.0))(1.0)
    np.testing.assert_allclose(slope, 1, rtol=1e-5)
    batched = jax.vmap(lambda q: mean_field.chi_map(jnp.tanh, q, 1.0))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(batched[1], mean_field.chi_map(jnp.tanh, 1.0, 1.0), rtol=1e-6)


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match="weights must be gauss or orthogonal: got 'haar'"):
        mean_field.product_spread(jax.nn.relu, 1.0, 1, "haar")
    with pytest.raises(ValueError, match="depth must be at least 1 layer: got 0"):
        mean_field.product_spread(jax.nn.relu, 1.0, 0, "gauss")
    with pytest.raises(ValueError, match="depth must be at least 1 layer: got -1"):
        mean_field.stack_phi(2.0, -1, residual=True)
