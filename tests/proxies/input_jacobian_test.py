import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas import Batch, proxies

K = 1e-5


def _squares(params, inputs):
    """Of logits x^2 the rows are 2 x: those of the first logit only, the other is nothing."""
    total = (inputs**2 * params["w"]).sum(1)
    return jnp.stack([total, jnp.zeros_like(total)], 1)


def _score(name, rows, labels, factor=1.0, network=_squares):
    with jax.enable_x64(True):
        params = {"w": jnp.array(factor)}
        batch = Batch(jnp.array(rows, float), jnp.array(labels))
        return float(proxies.BY_NAME[name](network, params, batch))


APART = [[1, -1, 0, 0], [0, 0, 2, -2]]
TOGETHER = [[1, 2, 4, 3], [-2, -4, -8, -6]]  # of correlation -1
OF_ONE_KIND = 2 * math.log(1 + K)  # i = j, twice


@pytest.mark.parametrize(
    ("name", "rows", "labels", "expected"),
    [
        ("jacob_cov", APART, (0, 1), -2 * (math.log(1 + K) + 1 / (1 + K))),  # eigenvalues 1 and 1
        (
            "jacob_cov",
            TOGETHER,  # eigenvalues 2 and 0
            (0, 1),
            -(math.log(2 + K) + 1 / (2 + K) + math.log(K) + 1 / K),
        ),
        ("epe_nas", APART, (0, 1), -np.inf),  # nothing to compare within a class
        ("epe_nas", [*APART, APART[0]], (0, 0, 1), -(0.5 * OF_ONE_KIND + 2 * math.log(K))),
        ("epe_nas", APART, (1, 1), -(OF_ONE_KIND + 2 * math.log(K))),
        ("epe_nas", TOGETHER, (1, 1), 2 * OF_ONE_KIND),  # log 1, four times
    ],
)
def test_two_images_by_hand(name, rows, labels, expected):
    assert _score(name, rows, labels) == pytest.approx(expected, rel=1e-9)
    # Correlations know no scale, however small.
    assert _score(name, rows, labels, factor=1e-170) == pytest.approx(expected, rel=1e-9)


def test_epe_nas_of_many_classes():
    # E_0 / n_0 = (2 log(1 + k) + 2 log k) / 2 and E_1 / n_1 = log(1 + k); other classes are empty.
    def network(params, inputs):
        return jnp.pad(_squares(params, inputs), ((0, 0), (0, 99)))

    rows = [*APART, [1, 2, 4, 3]]
    expected = 2 * abs(math.log(K)) / 2
    assert _score("epe_nas", rows, (0, 0, 1), network=network) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("small", [1e-2, 1e-3])
def test_float32_keeps_a_small_eigenvalue(small):
    """Its part of the score is 1 / it, and it is as `small` squared: too little for float32."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, 6)))[0] for size in (6, 200))
    rows = np.float32(left * [1, 0.8, 0.6, 0.5, 0.3, small] @ right.T)
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(rows.astype(float)))
    assert eigenvalues[0] < 10 * small**2
    expected = -(np.log(eigenvalues + K) + 1 / (eigenvalues + K)).sum()
    batch = Batch(jnp.array(rows), jnp.arange(6) % 2)
    (found,) = jaxnas.score(_squares, {"w": jnp.float32(1)}, batch, ["jacob_cov"]).values()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["jacob_cov", "epe_nas"])
def test_nothing_and_nan(name):
    assert _score(name, APART, (0, 1), factor=0.0) == -np.inf
    assert np.isnan(_score(name, APART, (0, 1), factor=np.nan))


def test_they_share_a_measure():
    assert proxies.BY_NAME["jacob_cov"].measure is proxies.BY_NAME["epe_nas"].measure
