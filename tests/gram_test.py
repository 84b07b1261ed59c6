import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxnas import gram

# Vectors (2, 0), (1, 2), (0, 1): their sum is (3, 3), the sums of their coordinates 2, 3, 1.
GOLDEN = jnp.array([[4.0, 2, 0], [2, 5, 2], [0, 2, 1]])

SCALED = [gram.mean, gram.diagonal_mean, gram.offdiagonal_mean, gram.split_half_mean]
UNSCALED = [
    gram.cosine_mean,
    gram.condition_number,
    gram.spectral_entropy,
    gram.effective_rank,
]
VECTORS = arrays(np.float64, (4, 3), elements=st.floats(-3, 3).map(lambda x: round(x, 3)))


def _of(vectors):
    return jnp.asarray(np.asarray(vectors, np.float64) @ np.asarray(vectors, np.float64).T)


def test_means_by_hand():
    # Mean vector (1, 1): 2. Diagonal (4 + 5 + 1) / 3. The rest 2 (2 + 0 + 2) / 6.
    np.testing.assert_allclose(gram.mean(GOLDEN), 2, rtol=1e-6)
    np.testing.assert_allclose(gram.diagonal_mean(GOLDEN), 10 / 3, rtol=1e-6)
    np.testing.assert_allclose(gram.offdiagonal_mean(GOLDEN), 4 / 3, rtol=1e-6)


def test_split_half_by_hand():
    # Vectors (1, 0), (0, 2) | (3, 1), (1, 1): means (.5, 1) and (2, 1), product 1 + 1.
    even = _of([[1, 0], [0, 2], [3, 1], [1, 1]])
    np.testing.assert_allclose(gram.split_half_mean(even), 2, rtol=1e-6)
    # A last odd one is left out, whatever it is.
    odd = _of([[1, 0], [0, 2], [3, 1], [1, 1], [100, -50]])
    np.testing.assert_allclose(gram.split_half_mean(odd), 2, rtol=1e-6)
    np.testing.assert_allclose(gram.split_half_mean(GOLDEN), 2, rtol=1e-6)


def test_correlations_by_hand():
    # cos(1, 2) = 2 / (2 sqrt 5), cos(1, 3) = 0, cos(2, 3) = 2 / sqrt 5.
    root = np.sqrt(5)
    expected = [[1, 1 / root, 0], [1 / root, 1, 2 / root], [0, 2 / root, 1]]
    np.testing.assert_allclose(gram.correlation_matrix(GOLDEN), expected, rtol=1e-6)
    np.testing.assert_allclose(gram.cosine_mean(GOLDEN), (3 + 6 / root) / 9, rtol=1e-6)


def test_centring_by_hand():
    # Less their own means the vectors are (1, -1), (-.5, .5), (-.5, .5).
    centered = gram.center_coordinates(GOLDEN, jnp.array([2.0, 3, 1]), 2)
    np.testing.assert_allclose(centered, [[2, -1, -1], [-1, 0.5, 0.5], [-1, 0.5, 0.5]], rtol=1e-6)


def test_spectrum_by_hand():
    # The outer products of the vectors sum to [[5, 2], [2, 5]]: eigenvalues 7 and 3, and then 0.
    np.testing.assert_allclose(gram.eigenvalues(GOLDEN), [0, 3, 7], atol=1e-5)
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    np.testing.assert_allclose(gram.spectral_entropy(GOLDEN), entropy, rtol=1e-5)
    np.testing.assert_allclose(gram.effective_rank(GOLDEN), np.exp(entropy), rtol=1e-5)


def test_condition_number_by_hand():
    # Eigenvalues 2 -+ 1.
    np.testing.assert_allclose(gram.condition_number(jnp.array([[2.0, 1], [1, 2]])), 3, rtol=1e-6)


@pytest.mark.parametrize(
    "singular",
    [np.zeros((2, 2)), np.ones((3, 3)), np.asarray(GOLDEN), np.diag([1, 1e-9])],
    ids=["zero", "one direction", "three vectors of two coordinates", "below rounding"],
)
def test_singular_matrices_have_no_condition_number(singular):
    assert gram.condition_number(jnp.asarray(singular, jnp.float32)) == jnp.inf


def test_small_eigenvalues_need_float64():
    # The condition number of the Hilbert matrix of order 6 is 14,951,058.6; float32 has 7 digits.
    hilbert = scipy.linalg.hilbert(6)
    with jax.enable_x64(True):
        exact = gram.condition_number(jnp.asarray(hilbert))
        assert exact.dtype == jnp.float64
        np.testing.assert_allclose(exact, 14951058.64, rtol=1e-6)
    assert gram.condition_number(jnp.asarray(hilbert, jnp.float32)) == jnp.inf


def test_what_was_measured_in_float32_is_no_more_precise_as_float64():
    # Rows (1/3, 2/3) and, but for rounding, the same: the smaller eigenvalue is only rounding.
    measured = np.float32(_of([[1 / 3, 2 / 3], [1 / 3, 2 / 3 + 1e-4]]))
    with jax.enable_x64(True):
        wide = jnp.asarray(measured, jnp.float64)
        assert gram.condition_number(wide, eps=np.finfo(np.float32).eps) == jnp.inf
        assert jnp.isfinite(gram.condition_number(wide + 1e-9 * jnp.eye(2)))
        # It decides what is singular, and nothing else.
        loose = gram.condition_number(jnp.asarray([[2.0, 1], [1, 2]]), eps=0.1)
        np.testing.assert_allclose(loose, 3, rtol=1e-12)
        assert gram.condition_number(jnp.asarray([[2.0, 1], [1, 2]]), eps=0.2) == jnp.inf


def test_eigenvalues_are_never_negative():
    # What rounding could give: eigenvalues -1 and 3.
    np.testing.assert_allclose(gram.eigenvalues(jnp.array([[1.0, 2], [2, 1]])), [0, 3], rtol=1e-6)


SPECTRA = """
import jax, jax.numpy as jnp, numpy as np
from jaxnas import gram

grams = np.einsum("lbd,lcd->lbc", *2 * [np.random.default_rng(0).normal(size=(11, 50, 60))])
program = jax.jit(lambda g: [jax.vmap(gram.eigenvalues)(g * (k + 1)).sum() for k in range(32)])
for _ in range(5):
    found = np.array(program(grams.astype(np.float32)))
np.testing.assert_allclose(found, np.trace(grams.sum(0)) * (1 + np.arange(32)), rtol=1e-4)
"""


def test_many_batches_of_eigenvalues_in_a_program_end():
    # jaxlib's own batches wait for each other on a machine of few cores.
    subprocess.run([sys.executable, "-c", SPECTRA], check=True, timeout=100)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_orthogonal_and_parallel_vectors_are_the_two_ends(count):
    np.testing.assert_allclose(gram.effective_rank(7 * jnp.eye(count)), count, rtol=1e-5)
    np.testing.assert_allclose(gram.effective_rank(jnp.ones((count, count))), 1, rtol=1e-5)
    np.testing.assert_allclose(gram.cosine_mean(7 * jnp.eye(count)), 1 / count, rtol=1e-6)
    np.testing.assert_allclose(gram.cosine_mean(jnp.ones((count, count))), 1, rtol=1e-6)


def test_zero_vectors_have_no_direction():
    # (1, 0), (0, 0), (1, 1): of the two left, cos = 1 / sqrt 2.
    product = _of([[1, 0], [0, 0], [1, 1]])
    correlations = np.array([[1, 0, 0.5**0.5], [0, 0, 0], [0.5**0.5, 0, 1]])
    np.testing.assert_allclose(gram.correlation_matrix(product), correlations, rtol=1e-6)
    np.testing.assert_allclose(gram.cosine_mean(product), (2 + 2 * 0.5**0.5) / 4, rtol=1e-6)


def test_nothing_but_zero_vectors():
    zeros = jnp.zeros((3, 3))
    for statistic in (*SCALED, gram.cosine_mean, gram.spectral_entropy):
        assert statistic(zeros) == 0, statistic.__name__
    assert not gram.correlation_matrix(zeros).any()
    assert gram.effective_rank(zeros) == 1


def test_one_example():
    one = jnp.array([[9.0]])
    assert gram.mean(one) == gram.diagonal_mean(one) == 9
    assert jnp.isnan(gram.offdiagonal_mean(one))
    assert jnp.isnan(gram.split_half_mean(one))
    assert gram.cosine_mean(one) == gram.condition_number(one) == gram.effective_rank(one) == 1


@given(VECTORS)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_mean_is_values_and_correlations(vectors):
    with jax.enable_x64(True):
        product = _of(vectors)
        count = len(vectors)
        parts = gram.diagonal_mean(product) / count
        parts += (1 - 1 / count) * gram.offdiagonal_mean(product)
        np.testing.assert_allclose(gram.mean(product), parts, rtol=1e-12, atol=1e-12)
        squared_norm = np.square(vectors.mean(0)).sum()
        np.testing.assert_allclose(gram.mean(product), squared_norm, rtol=1e-12, atol=1e-12)


@given(VECTORS, st.permutations(range(4)))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_order_of_the_examples_does_not_matter(vectors, order):
    # A multiple of the identity keeps eigenvalues off zero, where the rank would be rounding's.
    with jax.enable_x64(True):
        product = _of(vectors) + jnp.eye(4)
        shuffled = product[jnp.array(order)][:, jnp.array(order)]
        for statistic in (*SCALED[:3], *UNSCALED, gram.eigenvalues):
            np.testing.assert_allclose(
                statistic(shuffled), statistic(product), rtol=1e-9, atol=1e-12
            )


@given(VECTORS, st.floats(0.1, 10))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_scale_laws(vectors, factor):
    with jax.enable_x64(True):
        product = _of(vectors) + jnp.eye(4)
        larger = factor**2 * product
        for statistic in (*SCALED, gram.eigenvalues):
            np.testing.assert_allclose(
                statistic(larger), factor**2 * statistic(product), rtol=1e-9, atol=1e-12
            )
        for statistic in (*UNSCALED, gram.correlation_matrix):
            np.testing.assert_allclose(statistic(larger), statistic(product), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_precision_is_kept(dtype):
    with jax.enable_x64(True):
        product = GOLDEN.astype(dtype)
        for statistic in (*SCALED, *UNSCALED, gram.eigenvalues, gram.correlation_matrix):
            assert statistic(product).dtype == dtype, statistic.__name__
        for statistic in (gram.offdiagonal_mean, gram.split_half_mean):
            assert statistic(product[:1, :1]).dtype == dtype, statistic.__name__
