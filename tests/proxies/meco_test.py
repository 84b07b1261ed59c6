import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, proxies
from jaxnas.spaces import nasbench201
from jaxnas.types import Shown

OURS = proxies.BY_NAME["channel_independence"]


def _score(maps, factor=1.0, proxy=OURS):
    """The score of an image whose channels are the rows of `maps`."""
    image = jnp.array(maps, float).T.reshape(1, 1, -1, len(maps))
    batch = Batch(jnp.concatenate([image, jnp.ones_like(image)]), jnp.zeros(2, int))

    def network(params, inputs):
        return jnp.maximum(factor * inputs, 0).mean((1, 2))

    return float(proxy(network, {}, batch))


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([[1, -1, 0, 0], [0, 0, 1, -1]], 1),  # uncorrelated
        ([[1, 2, 3, 5], [-2, -4, -6, -10]], 0),
        # (1, -1, 0) and (1, 0, -1): correlation 1/2, eigenvalues 3/2 and 1/2.
        ([[1, -1, 0], [1, 0, -1]], 0.5),
        ([[1, -1, 0], [4, 4, 4]], 0),  # a constant channel
        ([[1, -1], [1, 2], [0, 5]], 0),  # more channels than pixels
    ],
)
def test_one_layer_by_hand(maps, expected):
    np.testing.assert_allclose(_score(maps), expected, atol=1e-6)
    np.testing.assert_allclose(_score(maps, 1e3), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("maps", "shares"),
    [
        ([[1, -1, 0, 0], [0, 0, 1, -1]], [0.5, 0.5]),
        ([[1, 2, 3, 5], [-2, -4, -6, -10]], [1]),
        ([[1, -1, 0], [1, 0, -1]], [0.75, 0.25]),
        ([[1, -1, 0], [4, 4, 4]], [1]),  # a constant channel is none
        ([[1, -1, 0], [1, 0, -1], [0, 1, -1]], [0.5, 0.5]),  # more channels than dimensions
    ],
)
def test_entropy_by_hand(maps, shares):
    entropy = proxies.BY_NAME["channel_entropy"]
    expected = -sum(share * np.log(share) for share in shares)
    np.testing.assert_allclose(_score(maps, proxy=entropy), expected, atol=1e-4)


def test_nan_and_none():
    assert np.isnan(_score([[1, -1, 0], [1, 0, -1]], np.nan))
    batch = Batch(jnp.ones((2, 3)), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="inputs of activations: got a network without"):
        OURS(lambda params, inputs: 2 * inputs, {}, batch)


def _rows(shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _least(rows):
    """The least eigenvalue of the correlations of channels, `[N, C]`, in NumPy."""
    return np.linalg.eigvalsh(np.corrcoef(np.asarray(rows, np.float64).T))[0]


@pytest.mark.parametrize("shape", [(8, 3), (5, 3, 4), (2, 7, 3)])
def test_rows_of_all_examples_are_the_samples_of_what_has_no_pixels(shape):
    def network(params, inputs):
        return jnp.tanh(inputs).reshape(len(inputs), -1)

    batch = Batch(_rows(shape), jnp.zeros(shape[0], int))
    expected = _least(batch.inputs.reshape(-1, shape[-1]))
    assert expected > 0.05
    np.testing.assert_allclose(OURS(network, {}, batch), expected, rtol=1e-4)
    np.testing.assert_allclose(
        OURS(network, {}, Batch(batch.inputs[::-1], batch.labels)), expected, rtol=1e-4
    )


def test_as_many_channels_as_rows_add_exactly_nothing():
    batch = Batch(_rows((4, 4)), jnp.zeros(4, int))
    assert OURS(lambda params, inputs: jnp.tanh(inputs), {}, batch) == 0


def test_beside_pixels_what_has_none_does_not_count():
    def network(params, inputs):
        return jnp.tanh(jnp.maximum(inputs, 0).mean((1, 2)))

    images = _rows((9, 4, 4, 3))
    found = OURS(network, {}, Batch(images, jnp.zeros(9, int)))
    np.testing.assert_allclose(found, _least(images[0].reshape(-1, 3)), rtol=1e-4)


def _nothing(params, inputs):
    return inputs.mean((1, 2))


def test_meco_adds_up_what_all_layers_give():
    class Layers:
        """One layer that correlates by 1/2, one of more channels than pixels, and one cut off."""

        def __call__(self, params, inputs):
            return inputs.mean((1, 2))

        def maps(self, params, inputs):
            assert len(inputs) == 1
            half = jnp.array([[1.0, -1, 0], [1, 0, -1]]).T.reshape(1, 1, 3, 2)
            wide = jnp.arange(12.0).reshape(1, 1, 3, 4)
            shown = [Shown("map", (), each) for each in (half, 7 - 3 * half, wide, wide[:, 0, 0])]
            return [*shown, Shown("map", (), half, jnp.array(False))]

    batch = Batch(jnp.ones((3, 1, 3, 2)), jnp.zeros(3, int))
    np.testing.assert_allclose(proxies.BY_NAME["meco"](Layers(), {}, batch), 1, rtol=1e-5)


def test_meco_needs_layers():
    batch = Batch(jnp.ones((3, 2, 2, 2)), jnp.zeros(3, int))
    with pytest.raises(ValueError, match="take channel_independence"):
        proxies.BY_NAME["meco"](_nothing, {}, batch)


@pytest.mark.parametrize("plan", ["eager", "compiled"])
def test_maps_of_a_network_are_those_of_its_live_layers(plan, draw_batch):
    # A stem of 2 layers, three cells of 3, two reductions of 8, each with its output; and a norm.

    space = nasbench201(channels=2, cells=1, norm="batch")
    with jax.enable_x64(True):
        batch = draw_batch(0)
        params = space.init(jax.random.key(0), batch.inputs)
        params = jax.tree.map(lambda tensor: tensor.astype(jnp.float64), params)
        arch = np.array([0, 0, 0, 3, 0, 0])
        if plan == "eager":
            network, read = space.bind(arch, params)
            live = [shown.value for shown in network.maps(read, batch.inputs[:1])]
            score = proxies.BY_NAME["meco"](network, read, batch)
        else:

            def run(arch, params, batch):
                network, read = space.bind(arch, params)
                maps = network.maps(read, batch.inputs[:1])
                score = proxies.BY_NAME["meco"](network, read, batch)
                return [shown.value for shown in maps], [shown.alive for shown in maps], score

            values, alive, score = jax.jit(run)(arch, params, batch)
            live = [item for item, is_alive in zip(values, alive, strict=True) if is_alive]
        maps = [item for item in live if item.ndim == 4]
        # In batch mode the statistics are those of the one image, which the others do not move.
        other = Batch(batch.inputs.at[1:].mul(3), batch.labels)
        assert proxies.BY_NAME["meco"](*space.bind(arch, params), other) == pytest.approx(
            float(score), rel=1e-9
        )
    least = [
        np.linalg.eigvalsh(np.corrcoef(item[0].reshape(-1, item.shape[-1]).T))[0] for item in maps
    ]
    assert len(maps) == 3 + 3 * 4 + 2 * 9 + 2
    np.testing.assert_allclose(score, sum(least), rtol=1e-6)


@pytest.mark.parametrize("name", ["channel_independence", "naswot", "swap", "linear_regions"])
def test_half_precision_and_strict_promotion(name):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 3)), jnp.float32)

    def network(params, inputs):
        return jnp.maximum(inputs, jnp.zeros((), inputs.dtype)).mean((1, 2))

    def score(images):
        return float(proxies.BY_NAME[name](network, {}, Batch(images, jnp.zeros(4, jnp.int32))))

    expected = score(images)
    with jax.numpy_dtype_promotion("strict"):
        assert score(images) == expected
    np.testing.assert_allclose(score(images.astype(jnp.bfloat16)), expected, rtol=0.05)
