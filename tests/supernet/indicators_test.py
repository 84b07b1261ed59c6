import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.spaces.mobilenetv2_space import Candidate, SearchedNetwork
from jaxnas.supernet import indicators
from tests.supernet import tiny

LAYOUT = tiny.LAYOUT._replace(candidates=(Candidate(3, 1), Candidate(3, 2)))
NAN = np.nan

# Layers 0 and 1 keep the shape and have the identity as choice 2; layer 2 does neither.
BLOCK = np.array([[1.0, 3.0, 0.0], [0.5, 0.5, 0.0], [4.0, 2.0, NAN]])
LAYER = np.array([2.0, 6.0, NAN])
FOUND = indicators.Indicators(
    BLOCK, LAYER, np.array([[False, False, True], [False, False, True], [False, False, False]])
)


def _supernet(bypass="norm", norm="batch"):
    """A supernet whose scales are those of `BLOCK` and `LAYER`, with both signs."""
    module = SearchedNetwork(norm, layout=LAYOUT, bypass=bypass)
    params = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), method="declare")["params"]
    for name, block, layer in zip(indicators.layer_names(params), BLOCK, LAYER, strict=True):
        found = params[name]
        for candidate, value in zip(LAYOUT.candidates, block, strict=False):
            if norm != "none":
                scale = found[candidate.name]["project"]["scale"]
                # 0.5 and 1.5 times the value, with a sign: the mean of the magnitudes is the value.
                signs = jnp.where(jnp.arange(scale.size) % 2, 1.5, -0.5)
                found[candidate.name]["project"]["scale"] = value * signs
        if "scale" in found.get("bypass", {}):
            found["bypass"]["scale"] = jnp.full_like(found["bypass"]["scale"], -layer)
    return module, params


def test_indicators_are_read_from_the_last_normalization():
    found = indicators.read(*_supernet())
    np.testing.assert_allclose(found.block, BLOCK, rtol=1e-6)
    np.testing.assert_allclose(found.layer, LAYER, rtol=1e-6)
    np.testing.assert_array_equal(found.is_identity, FOUND.is_identity)


def test_no_bypass_no_layer_indicator():
    found = indicators.read(*_supernet("identity"))
    assert np.isnan(found.layer).all()
    np.testing.assert_allclose(indicators.score_table(found, "block"), BLOCK, rtol=1e-6)
    with pytest.raises(ValueError, match="Mode share needs layer indicators: got none"):
        indicators.score_table(found)


# Means of the blocks are 2, 0.5 and 3. Literally, the weights are 2 and 6 over their mean 4: 0.5
# and 1.5. As shares, they are 2 / 4 and 0.5 / 6.5 over the mean of 1 / 2 and 1 / 13, 15 / 52:
# 26 / 15 and 4 / 15. The layer that changes the shape has weight 1.
TABLES = {
    "block": BLOCK,
    "literal": [[0.25, 0.75, 0], [1.5, 1.5, 0], [4 / 3, 2 / 3, NAN]],
    "share": [[13 / 15, 39 / 15, 0], [4 / 15, 4 / 15, 0], [4 / 3, 2 / 3, NAN]],
    "skip": [[1, 3, 2], [0.5, 0.5, 6], [4, 2, NAN]],
}


@pytest.mark.parametrize("mode", TABLES)
def test_score_tables_by_hand(mode):
    np.testing.assert_allclose(indicators.score_table(FOUND, mode), TABLES[mode], rtol=1e-12)


def test_the_default_is_the_share():
    np.testing.assert_array_equal(
        indicators.score_table(FOUND), indicators.score_table(FOUND, "share")
    )


def test_scores_are_sums_and_the_best_has_the_largest():
    table = indicators.score_table(FOUND, "skip")
    np.testing.assert_allclose(indicators.score(table, [[0, 2, 1], [1, 0, 0]]), [9, 7.5])
    np.testing.assert_array_equal(indicators.best(table), [1, 2, 0])
    everything = np.stack(np.unravel_index(np.arange(18), (3, 3, 2)), axis=-1)
    assert indicators.score(table, everything).max() == indicators.score(
        table, indicators.best(table)
    )


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: indicators.score_table(FOUND, "mult"), "mode must be one of block, .*got 'mult'"),
        (lambda: indicators.read(*_supernet(norm="none")), r"got \['kernel'\] only"),
        (lambda: indicators.mean_scale({"scale": [1.0, NAN]}), "got nan; the supernet diverged"),
    ],
)
def test_bad_requests_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()


def test_agreement_by_hand():
    """Of four layers two say something: one agrees in order, one in two of three pairs against."""
    none = np.zeros((4, 3), bool)
    first = indicators.Indicators(
        np.array([[1.0, 2, 3], [1, 2, 3], [5, 5, 5], [1, 2, NAN]]), np.array([1.0] * 4), none
    )
    second = first._replace(
        block=np.array([[4.0, 5, 9], [3, 1, 2], [1, 2, 3], [2, 1, NAN]]), layer=np.array([3.0] * 4)
    )
    assert indicators.agreement(first, first) == 1
    assert indicators.agreement(first, second) == pytest.approx((1 - 1 / 3) / 2)
    mean = indicators.mean([first, second])
    np.testing.assert_array_equal(mean.block[1], [2, 1.5, 2.5])
    np.testing.assert_array_equal(mean.layer, [2.0] * 4)
    assert np.isnan(indicators.agreement(first._replace(is_identity=~none), first))
