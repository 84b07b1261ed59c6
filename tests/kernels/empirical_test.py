import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Outputs, gradients, gram
from jaxnas.kernels import empirical

COUNT, CLASSES = 5, 3
ARCH = (2, 3, 1, 4, 0, 3)  # every operation, and a dead end: edge 1 -> 3 is cut


def _params():
    rng = np.random.default_rng(0)
    return {
        "bias": jnp.asarray(rng.normal(size=4), float),
        "first": jnp.asarray(rng.normal(size=(6, 4)), float),
        "idle": jnp.ones((2, 2)),
        "second": jnp.asarray(rng.normal(size=(4, CLASSES)), float),
    }


def _network(params, inputs):
    features = jnp.tanh(inputs @ params["first"] + params["bias"][None])
    return Outputs(features @ params["second"], features)


def _rows(per_example):
    """All gradients of each example in one row, `[B, P]`, in NumPy."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(per_example)]
    return np.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def _differentiated(of, params, batch):
    """The per-example gradients behind a Gram matrix, another way."""
    if of == "loss":
        return gradients.per_example_gradients(_network, params, batch)
    jacobian = gradients.jacobian(_network, params, batch.inputs)
    if of == "sum":
        return jax.tree.map(lambda leaf: leaf.sum(1), jacobian)
    return jax.tree.map(lambda leaf: leaf[jnp.arange(COUNT), batch.labels], jacobian)


@pytest.fixture(scope="module")
def batch(draw_batch):
    return draw_batch(0, (COUNT, 6), CLASSES)


@pytest.mark.parametrize("max_bytes", [1, gradients.MAX_BYTES])
@pytest.mark.parametrize("of", ["loss", "label", "sum"])
def test_gram_matrices_are_products_of_per_example_gradients(batch, of, max_bytes):
    with jax.enable_x64(True):
        params = _params()
        per_example = jax.jit(functools.partial(_differentiated, of))(params, batch)
        options = {"of": of, "max_bytes": max_bytes}

        grams = empirical.gradient_grams(_network, params, batch, **options)
        assert grams.keys() == params.keys()
        for name, found in per_example.items():
            np.testing.assert_allclose(
                grams[name], _rows(found) @ _rows(found).T, rtol=1e-12, atol=1e-13
            )

        whole = empirical.gradient_gram(_network, params, batch, **options)
        rows = _rows(per_example)
        np.testing.assert_allclose(whole, rows @ rows.T, rtol=1e-12, atol=1e-13)

        tensors = empirical.tensor_grams(_network, params, batch, **options)
        np.testing.assert_array_equal(tensors.gram, np.stack(list(grams.values())))
        sums = [_rows(per_example[name]).sum(1) for name in grams]
        np.testing.assert_allclose(tensors.coordinate_sum, sums, rtol=1e-11, atol=1e-12)
        assert tensors.size.tolist() == [4, 24, 4, 12]
        assert tensors.is_weight.tolist() == [False, True, True, True]


def test_a_reading_by_hand():
    # Two gradients of shape [2, 2]: (1, 2, 0, -1) and (0, 3, 1, 1).
    gradients_of_two = jnp.array([[[1.0, 2], [0, -1]], [[0, 3], [1, 1]]])
    kept = empirical.GRAM.keep(jnp.zeros((2, 2)), gradients_of_two)
    np.testing.assert_array_equal(kept.gram, [[6, 5], [5, 11]])
    np.testing.assert_array_equal(kept.coordinate_sum, [2, 5])


def test_tensors_without_a_gradient_are_zero(batch):
    assert not empirical.gradient_grams(_network, _params(), batch)["idle"].any()


def test_a_space_reads_what_one_example_after_the_other_gives(small_space, draw_batch):
    with jax.enable_x64(True):
        batch = draw_batch(0)
        params = small_space.init(jax.random.key(0), batch.inputs)
        network, params = small_space.bind(np.array(ARCH), params)
        tensors = empirical.tensor_grams(network, params, batch)

        # The ordinary gradient, with all examples but one silenced.
        only = (gradients.GRADIENT,)
        out, pullback = gradients.per_example_vjp(network, params, batch.inputs, only)
        cotangent = gradients.loss_cotangent(out.logits, batch.labels)
        alone = [
            pullback(cotangent * (jnp.arange(batch.labels.size) == i)[:, None], only)[0]
            for i in range(batch.labels.size)
        ]
        per_example = jax.tree.leaves(jax.tree.map(lambda *rows: np.stack(rows), *alone))
        expected = [_rows(each) @ _rows(each).T for each in per_example]
        np.testing.assert_allclose(tensors.gram, expected, rtol=1e-10, atol=1e-12)

        # Each image on its own: the mean of the Gram matrix is the norm of the batch's gradient.
        batch_gradient = jax.tree.map(
            lambda leaf: np.asarray(leaf)[None], gradients.loss_gradient(network, params, batch)
        )
        squared_norm = np.square(_rows(batch_gradient)).sum()
        whole = empirical.gradient_gram(network, params, batch)
        np.testing.assert_allclose(gram.mean(whole), squared_norm, rtol=1e-12)
        np.testing.assert_allclose(whole, tensors.gram.sum(0), rtol=1e-12)


def test_the_ntk_is_a_product_of_jacobians(batch):
    with jax.enable_x64(True):
        params = _params()
        jacobian = jax.jit(functools.partial(gradients.jacobian, _network))(params, batch.inputs)
        rows = _rows(jax.tree.map(lambda leaf: leaf.reshape(COUNT * CLASSES, -1), jacobian))
        expected = (rows @ rows.T).reshape(COUNT, CLASSES, COUNT, CLASSES)
        found = empirical.ntk(_network, params, batch.inputs)
        np.testing.assert_allclose(found, np.einsum("ikjk->ij", expected) / CLASSES, rtol=1e-12)


def test_kernels_by_hand():
    # Logits x w + b of one feature: NTK x x' + 1 for each logit, and NNGP x x' / 1.
    params = {"w": jnp.ones((1, 2)), "b": jnp.zeros(2)}

    def network(params, inputs):
        return Outputs(inputs @ params["w"] + params["b"][None], inputs)

    inputs = jnp.array([[2.0], [3.0]])
    np.testing.assert_allclose(empirical.ntk(network, params, inputs), [[5, 7], [7, 10]])
    np.testing.assert_allclose(empirical.nngp(network, params, inputs), [[4, 6], [6, 9]])


def test_kernels_of_a_wide_network_are_near_their_limit(analytic, draw_batch):
    # One hidden layer of 4,096: entries deviate by a few times 1 / sqrt(4096) = 1.6 %.
    inputs = draw_batch(3, (4, 10)).inputs
    rng = np.random.default_rng(4)
    params = {
        "first": jnp.asarray(rng.normal(size=(10, 4096)), float),
        "second": jnp.asarray(rng.normal(size=(4096, 2)), float),
    }

    def network(params, inputs):
        features = jax.nn.relu(inputs @ params["first"] * (2 / 10) ** 0.5)
        return Outputs(features @ params["second"] * (2 / 4096) ** 0.5, features)

    limit = analytic.kernels(analytic.fully_connected(1), inputs)
    scale = float(jnp.diagonal(limit.ntk).mean())
    found = empirical.ntk(network, params, inputs)
    np.testing.assert_allclose(found, limit.ntk, atol=0.1 * scale)
    # The network's kernel is that of its features times the variance of the read-out, 2.
    features = 2 * empirical.nngp(network, params, inputs)
    np.testing.assert_allclose(features, limit.nngp, atol=0.1 * scale)


@pytest.mark.parametrize(
    "kernel", [empirical.gradient_grams, empirical.gradient_gram, empirical.tensor_grams]
)
def test_an_unknown_function_is_refused(batch, kernel):
    with pytest.raises(ValueError, match=r"^Unknown .* got 'logit'; use loss, label or sum\.$"):
        kernel(_network, _params(), batch, of="logit")


def test_no_features_no_nngp(batch):
    def bare(params, inputs):
        return _network(params, inputs).logits

    with pytest.raises(ValueError, match=r"^The NNGP kernel needs Outputs\.features: got bare .*"):
        empirical.nngp(bare, _params(), batch.inputs)


def test_stacks_inside_and_outside_of_a_program():
    parts = [jnp.ones(2), jnp.zeros(2)]
    for stack in (empirical.stack, jax.jit(empirical.stack)):
        np.testing.assert_array_equal(stack(parts), [[1, 1], [0, 0]])
