import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import pretrained
from jaxnas.spaces.encoder_space import EncoderNetwork, Options, low_rank

PARAMS = {
    "layer": {
        "query": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)},
        "widen": {"kernel": jnp.ones((4, 5))},
    }
}


def test_the_change_of_a_kernel_by_hand():
    factors = {
        "layer/query/kernel": low_rank.Factors(
            jnp.array([[1.0], [2.0], [0.0], [-1.0]]), jnp.array([[3.0, 0.0, 1.0]])
        )
    }
    changed = low_rank.add(PARAMS, factors)
    np.testing.assert_array_equal(
        changed["layer"]["query"]["kernel"], [[4, 1, 2], [7, 1, 3], [1, 1, 1], [-2, 1, 0]]
    )
    assert changed["layer"]["query"]["bias"] is PARAMS["layer"]["query"]["bias"]
    assert changed["layer"]["widen"]["kernel"] is PARAMS["layer"]["widen"]["kernel"]


def test_factors_start_without_a_change_and_with_a_gradient():
    factors = low_rank.init(jax.random.key(0), PARAMS, 2)
    assert set(factors) == {"layer/query/kernel"}
    down, up = factors["layer/query/kernel"]
    assert down.shape == (4, 2)
    assert up.shape == (2, 3)
    np.testing.assert_array_equal(
        low_rank.add(PARAMS, factors)["layer"]["query"]["kernel"], np.ones((4, 3))
    )
    slopes = jax.grad(lambda leaf: low_rank.add(PARAMS, leaf)["layer"]["query"]["kernel"].sum())(
        factors
    )
    assert (slopes["layer/query/kernel"].up != 0).all()


@pytest.mark.parametrize(
    ("rank", "targets", "sentence"),
    [(0, ("query",), "The rank is at least 1: got 0"), (1, ("mix",), "got 0 of such names")],
)
def test_refuses(rank, targets, sentence):
    with pytest.raises(ValueError, match=sentence):
        low_rank.init(jax.random.key(0), PARAMS, rank, targets=targets)


def test_an_encoder_with_factors_is_the_encoder_with_their_kernels():
    config = pretrained.EncoderConfig(
        *("bert", 24, 8, 3, 2, 12), positions=12, segments=2, initializer_range=0.3
    )
    network = EncoderNetwork(config=config, options=Options(join="gate", gate=0.5))
    params = network.draw(jax.random.key(0), {})
    arch = np.array([1, 0, 0, 0, 0], np.int32)  # 1>3, by a gate
    tokens = jnp.stack([jnp.arange(12).reshape(2, 6), jnp.zeros((2, 6), int)], 1)
    factors = low_rank.init(jax.random.key(1), params["layers"], 2)
    assert len(factors) == 6  # query and value of three layers
    factors = jax.tree.map(lambda leaf: leaf + 0.1, factors)
    joins = {"join_02": {"gate": jnp.full((1,), 0.7)}}
    trained = {"factors": factors, "joins": joins, "head": params["head"]}
    found = network.with_factors((arch, params), trained, tokens, None).logits
    layers = low_rank.add(params["layers"] | joins, factors)
    expected = network.bound(arch)(params | {"layers": layers}, tokens).logits
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - network.bound(arch)(params, tokens).logits).max() > 1e-3
