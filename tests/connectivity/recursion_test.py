import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxnas import encoding, wiring
from jaxnas import gram as gram_statistics
from jaxnas.connectivity import bound, dag, inputs, recursion

SEQUENTIAL, PARALLEL, MIXED = (wiring.from_code(c) for c in ("2_02_002", "1_01_222", "2_21_112"))


def _smallest(both):
    return jnp.stack([gram_statistics.eigenvalues(each)[0] for each in both])


def _itself(both):
    return both


kernels = jax.jit(recursion.kernels, static_argnames=("order", "stem"))


def _two(cosine):
    return jnp.array([[1, cosine], [cosine, 1]])


def test_a_chain_in_both_orders():
    """One layer: NNGP f(K); NTK f(K) + f'(K) K, and again the same from the stem and read-out."""
    gram = _two(0.3)
    moments, slope = bound.relu_layer(gram)
    np.testing.assert_allclose(moments, [[1, bound.arc_cosine(0.3)], [bound.arc_cosine(0.3), 1]])
    post = kernels(np.array([2]), gram, order="post")
    np.testing.assert_allclose(post.nngp, moments, rtol=1e-6)
    np.testing.assert_allclose(post.ntk, moments + 2 * slope * gram, rtol=1e-6)
    pre = kernels(np.array([2]), gram, order="pre")
    np.testing.assert_allclose(pre.nngp, moments, rtol=1e-6)
    np.testing.assert_allclose(pre.ntk, 2 * moments + slope * gram, rtol=1e-6)


def test_means_of_branches_by_hand():
    # PARALLEL: X1 = X2 = X0, and three sums of ReLUs, each of mean 1/sqrt(pi): 3 + 6 / pi.
    post = kernels(PARALLEL, _two(0.5), order="post")
    np.testing.assert_allclose(jnp.diagonal(post.nngp), 3 + 6 / np.pi, rtol=1e-6)
    pre = kernels(PARALLEL, _two(0.5), order="pre")
    np.testing.assert_allclose(jnp.diagonal(pre.nngp), 3, rtol=1e-6)
    np.testing.assert_allclose(jnp.diagonal(kernels(MIXED, _two(0.5)).nngp), 5.67, atol=5e-3)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_signal_twice_is_four_times_its_kernel(order):
    # 0 -> 1 -> 2 and 0 -> 2, all skips: X2 = 2 X0. NTK: 4 K from the stem, 4 K from the read-out.
    gram = _two(0.5)
    edges = kernels(wiring.from_code("1_11"), gram, order=order)
    np.testing.assert_allclose(edges.nngp, 4 * gram, rtol=1e-6)
    np.testing.assert_allclose(edges.ntk, 8 * gram, rtol=1e-6)
    np.testing.assert_allclose(
        bound.published_kernel(wiring.from_code("1_11"), gram), 2 * gram, rtol=1e-6
    )


def test_the_published_rule_holds_in_pre_order_where_no_signal_comes_twice(live_wirings):
    gram = np.array(_two(0.4), float)
    exact = recursion.over_wirings(_itself, live_wirings, gram, order="pre").nngp
    with jax.enable_x64(True):
        published = jax.vmap(lambda leaf: bound.published_kernel(leaf, jnp.asarray(gram)))(
            live_wirings
        )
    same = np.isclose(exact, published, rtol=1e-9).all((1, 2))
    paths = dag.statistics(live_wirings).paths
    np.testing.assert_array_equal(same, np.isclose(exact[:, 0, 0], paths))
    assert same.sum() == 225  # of 290; in the others two paths are the same signal
    post = recursion.over_wirings(_itself, live_wirings, gram, order="post").nngp
    assert np.isclose(post[:, 0, 0], paths).sum() == 58


def _normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def _drawn(code, rows, order, stem, rng, width=1024):
    """NNGP and NTK of one network of finite width, by back-propagation written out."""
    one_wiring = wiring.from_code(code)
    nodes = wiring.num_nodes(one_wiring)
    kinds = dict(zip(wiring.edges(nodes), one_wiring.tolist(), strict=True))
    rows = rows.astype(np.float32)
    first = rows @ _normal(rng, rows.shape[1], width)
    outputs = [np.maximum(first, 0) * 2**0.5 if stem == "relu" else first]
    weights, before = {}, {}
    for target in range(1, nodes):
        total = np.zeros_like(first)
        for source in range(target):
            signal = outputs[source]
            if kinds[source, target] == wiring.SKIP:
                total = total + signal
            elif kinds[source, target] == wiring.LINEAR:
                own_weights = _normal(rng, width, width) * (2 / width) ** 0.5
                weights[source, target] = own_weights
                before[source, target] = signal @ own_weights if order == "post" else signal
                total = total + (
                    np.maximum(before[source, target], 0)
                    if order == "post"
                    else np.maximum(signal, 0) @ own_weights
                )
        outputs.append(total)
    readout = _normal(rng, width) * width**-0.5
    errors = [np.zeros_like(first) for _ in range(nodes)]
    errors[-1] = np.broadcast_to(readout, first.shape).copy()
    ntk = outputs[-1] @ outputs[-1].T / width
    nngp = ntk
    for target in reversed(range(1, nodes)):
        for source in range(target):
            if kinds[source, target] == wiring.SKIP:
                errors[source] += errors[target]
            elif kinds[source, target] == wiring.LINEAR:
                active = before[source, target] > 0
                if order == "post":
                    error, signal = errors[target] * active, outputs[source]
                    errors[source] += error @ weights[source, target].T
                else:
                    error, signal = errors[target], np.maximum(outputs[source], 0)
                    errors[source] += (error @ weights[source, target].T) * active
                ntk = ntk + 2 / width * (error @ error.T) * (signal @ signal.T)
    stem_error = errors[0] * (2**0.5 * (first > 0) if stem == "relu" else 1)
    return nngp, ntk + (stem_error @ stem_error.T) * (rows @ rows.T)


@pytest.mark.parametrize(
    ("code", "order", "stem", "draws", "tolerance"),
    [
        ("1_11_222", "post", "relu", 4, 0.06),
        *(
            pytest.param(*cell, 24, 0.04, marks=pytest.mark.slow)
            for cell in (
                ("2_21_112", "post", "linear"),
                ("2_22_222", "post", "relu"),
                ("1_12_121", "post", "linear"),
                ("2_12_212", "pre", "linear"),
                ("2_22_222", "pre", "linear"),
            )
        ),
    ],
)
def test_wide_networks_agree(code, order, stem, draws, tolerance):
    rng = np.random.default_rng(0)
    rows = inputs.unit_rows(rng.normal(size=(6, 8)))
    drawn = np.mean([_drawn(code, rows, order, stem, rng) for _ in range(draws)], axis=0)
    gram = inputs.input_gram(rows)
    exact = recursion.over_wirings(
        _itself, wiring.from_code(code)[None], gram, order=order, stem=stem
    )
    for found, expected in zip(drawn, exact, strict=True):
        error = np.linalg.norm(found - expected[0]) / np.linalg.norm(expected[0])
        assert error < tolerance
    if order == "post":  # and the published rule does not
        with jax.enable_x64(True):
            published = np.asarray(
                bound.published_kernel(wiring.from_code(code), jnp.asarray(gram))
            )
        assert np.linalg.norm(drawn[0] - published) / np.linalg.norm(published) > 0.4


def test_eigenvalues_of_digits(digits_gram, live_wirings):
    """The correlations and eigenvalues that were measured with an implementation in NumPy."""
    deep = dag.statistics(live_wirings).linear_edges > 0
    gram = digits_gram(16)
    largest = inputs.largest_cosine(gram)
    bounds = np.array(jax.vmap(lambda leaf: bound.published_bound(leaf, largest))(live_wirings))
    post = recursion.over_wirings(_smallest, live_wirings, gram, order="post", stem="relu")
    assert spearmanr(bounds[deep], post[deep, 0])[0] == pytest.approx(0.87, abs=0.01)
    assert spearmanr(bounds[deep], post[deep, 1])[0] == pytest.approx(0.59, abs=0.01)


@pytest.mark.slow
def test_named_wirings_at_128_digits(digits_gram):
    three = np.stack([SEQUENTIAL, PARALLEL, MIXED])
    gram = digits_gram(128)
    post = recursion.over_wirings(_smallest, three, gram, order="post", stem="relu")
    np.testing.assert_allclose(post[:, 0], [0.0262, 0.0685, 0.0901], atol=5e-5)
    pre = recursion.over_wirings(_smallest, three, gram, order="pre")
    np.testing.assert_allclose(pre[:, 0], [0.0253, 0.0495, 0.0653], atol=5e-5)
    np.testing.assert_allclose(pre[:, 1], [0.631, 0.429, 0.868], atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["post", "pre"])
def test_all_wirings_in_seconds(digits_gram, order):
    """All 729 cells with 128 inputs, in CPU time of all threads, compilation included."""
    gram = digits_gram(128)
    jax.clear_caches()
    started = time.process_time()
    both = recursion.over_wirings(_itself, encoding.enumerate_archs((3,) * 6), gram, order=order)
    seconds = time.process_time() - started
    assert both.ntk.shape == (729, 128, 128)
    assert seconds < 12  # 5 on an idle machine, 8 on a slower one with other work


def test_dead_edges_change_nothing():
    gram = _two(0.2)
    dead = wiring.from_code("2_20_210")  # node 2 leads nowhere
    for order in ("post", "pre"):
        chex.assert_trees_all_close(
            kernels(dead, gram, order=order),
            kernels(wiring.prune(dead), gram, order=order),
            rtol=1e-6,
        )


def test_an_unfed_node_brings_nothing():
    gram = _two(0.2)
    for order in ("post", "pre"):
        chex.assert_trees_all_close(
            kernels(wiring.from_code("0_20_222"), gram, order=order),
            kernels(wiring.from_code("0_20_202"), gram, order=order),
            rtol=1e-6,
        )
        assert not any(kernel.any() for kernel in kernels(np.array([0]), gram, order=order))


def test_kernels_are_homogeneous_and_of_any_diagonal():
    gram = jnp.array([[1.0, 0.3], [0.3, 4.0]])
    found, ten = (kernels(MIXED, scale * gram) for scale in (1, 10))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: 10 * leaf, found), ten, rtol=1e-5)


def test_one_program_serves_all_wirings():
    chex.clear_trace_counter()
    found = jax.jit(chex.assert_max_traces(recursion.kernels, n=1))
    for code in ("2_02_002", "1_01_222"):
        assert found(wiring.from_code(code), _two(0.1)).ntk.shape == (2, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: recursion.kernels([2], jnp.eye(2), order="both"), "got 'both'"),
        (lambda: recursion.kernels([2], jnp.eye(2), stem="none"), "got 'none'"),
        (lambda: recursion.kernels([2], jnp.eye(2), order="pre", stem="relu"), "got a relu stem"),
        (lambda: recursion.over_wirings(_itself, [2], jnp.eye(2)), r"got shape \[1\]"),
        (lambda: recursion.over_wirings(_itself, [[2]], jnp.eye(1)), r"got shape \[1, 1\]"),
        (lambda: recursion.over_wirings(_itself, [[2]], jnp.ones((2, 3))), r"got shape \[2, 3\]"),
        (
            lambda: recursion.over_wirings(
                _itself, np.ones((1, 4950), int), np.ones((400, 400), np.float32)
            ),
            r"100 nodes and 400 inputs need 23\.8 GiB of 8",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
