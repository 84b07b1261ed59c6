import chex
import jax
import numpy as np
import pytest

from jaxnas import encoding, wiring
from jaxnas.benchmarks import nasbench201
from jaxnas.connectivity import cells, filter


@pytest.fixture(scope="module")
def nasbench201_wirings():
    return cells.from_nasbench201(encoding.enumerate_archs((5,) * 6))


def test_the_printed_center_and_radii(nasbench201_wirings):
    ranges = filter.half_radius(nasbench201_wirings)
    centers = [(low + high) / 2 for low, high in ranges]
    radii = [(high - low) / 2 for low, high in ranges]
    np.testing.assert_allclose(centers, [1.625, 13 / 6], rtol=1e-12)  # (1.6, 2.2) in print
    np.testing.assert_allclose(radii, [0.6875, 11 / 12], rtol=1e-12)  # (0.7, 0.9)


@pytest.mark.parametrize(
    ("fraction", "kept"), [(1, 13642), (0.75, 9762), (0.5, 6256), (0.25, 1376)]
)
def test_radii(nasbench201_wirings, fraction, kept):
    rule = filter.within(filter.half_radius(nasbench201_wirings, fraction))
    assert filter.select(rule, nasbench201_wirings).kept == kept


@pytest.mark.parametrize(
    ("rule", "kept", "fraction"),
    [
        (filter.within(filter.PUBLISHED_CODE), 8226, 0.526),
        (filter.deep_enough(), 10088, 0.646),
        (filter.deep_enough(3), 6680, 0.428),
    ],
)
def test_what_is_kept(nasbench201_wirings, rule, kept, fraction):
    found = filter.select(rule, nasbench201_wirings)
    assert (found.kept, found.mask.sum()) == (kept, kept)
    assert found.fraction == pytest.approx(fraction, abs=5e-4)


def test_ours_keeps_the_best_and_drops_the_worst(nasbench201_wirings):
    accuracy = nasbench201().accuracy(encoding.enumerate_archs((5,) * 6))
    best = accuracy >= np.quantile(accuracy, 0.99)
    worst = accuracy <= np.quantile(accuracy, 0.1)
    ours = filter.select(filter.deep_enough(), nasbench201_wirings).mask
    published = filter.select(
        filter.within(filter.half_radius(nasbench201_wirings)), nasbench201_wirings
    ).mask
    assert ours[best].all()
    assert ours[worst].mean() < 0.01
    assert published[best].mean() == pytest.approx(0.76, abs=0.01)
    assert accuracy[ours].mean() == pytest.approx(91.11, abs=0.01)
    assert accuracy[published].mean() == pytest.approx(91.77, abs=0.01)


def test_what_was_kept():
    many = [wiring.from_code(code) for code in ("2_02_002", "1_01_222", "2_21_112", "1_00_010")]
    found = filter.select(filter.deep_enough(3), np.stack(many))
    np.testing.assert_array_equal(found.mask, [True, True, True, False])
    np.testing.assert_allclose(found.ranges, [(1, 3), (1 / 3, 3)])
    nothing = filter.select(filter.deep_enough(9), np.stack(many))
    assert (nothing.kept, nothing.fraction, nothing.ranges) == (0, 0, None)


def test_a_search_can_ask_a_traced_wiring():
    rule = filter.within(filter.PUBLISHED_CODE)
    many = np.stack([wiring.from_code(code) for code in ("2_02_002", "1_01_222", "0_00_000")])
    chex.clear_trace_counter()
    ask = jax.jit(chex.assert_max_traces(rule, n=1))
    assert [bool(ask(each)) for each in many] == [False, True, False]


def test_wirings_without_a_path_never_pass():
    everything = filter.Ranges((0, 9), (0, 9))
    assert not filter.within(everything)(np.zeros(6, int))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: filter.half_radius(np.zeros((2, 6), int)), "No wiring has a linear edge"),
        (lambda: filter.half_radius(np.ones((2, 6), int), 0), r"in \(0, 1\]: got 0"),
        (lambda: filter.deep_enough(0), "total_depth must be an integer from 1 .*: got 0"),
        (lambda: filter.select(filter.deep_enough(), np.zeros(6, int)), r"got shape \[6\]"),
        (lambda: filter.select(filter.deep_enough(), np.zeros((0, 6), int)), r"got shape \[0, 6\]"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_reserved_operations_of_a_super_network():
    reserve = filter.reserve_moderate(cells.NASBENCH201_KINDS)
    alive = np.ones((6, 5), bool)
    alive[:, 0] = False
    # All four are equally far from their mean: by convention the first two.
    first = reserve(alive)
    np.testing.assert_array_equal(np.argwhere(first)[:, 1].reshape(6, 2), [[1, 2]] * 6)
    # Of three the one nearest to the mean; of two none.
    alive[0, 2] = alive[1, 1] = alive[1, 4] = False
    second = reserve(alive)
    assert not second[1].any()
    assert second[0].sum() == 1
    # Without skip 1 or 4 a skip and a convolution are left, without 3 two skips: those are nearer.
    assert second[0, 1]
    assert (second.sum(1)[2:] == 2).all()
    assert not (second & ~alive).any()
