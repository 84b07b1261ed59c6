import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import programs

COUNT = 4


def _read(function, *shape, normalized=True):
    inputs = jax.ShapeDtypeStruct((COUNT, *shape), jnp.float32)
    params = jax.ShapeDtypeStruct((shape[-1], 5), jnp.float32)
    return programs.read(function, params, inputs, normalized=normalized)


def _names(function, *shape):
    found = _read(lambda w, x: function(x @ w), *(shape or (7, 3))).found
    return [each.name for each in found if each.kind == "preactivation"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.relu, "relu"),
        (nn.relu6, "relu6"),
        (nn.gelu, "gelu"),
        (functools.partial(nn.gelu, approximate=False), "gelu"),
        (nn.silu, "silu"),
        (nn.leaky_relu, "leaky_relu"),
        (nn.elu, "elu"),
        (nn.hard_swish, "hard_silu"),
        (nn.tanh, "tanh"),
        (nn.sigmoid, "sigmoid"),
        (nn.softplus, "softplus"),
        (nn.selu, "selu"),
        (jax.nn.mish, "mish"),
        (jnp.sin, "sin"),
        (lambda x: jnp.maximum(x, 0), "relu"),
        (lambda x: jnp.where(x > 0, x, 0), "leaky_relu"),
        (lambda x: jnp.where(x >= 0.0, x, 0.1 * x), "leaky_relu"),
        (lambda x: jnp.maximum(x, 0.1 * x), "leaky_relu"),
        (lambda x: jnp.clip(x, 0, 1), "relu"),
        (lambda x: x * jax.nn.sigmoid(1.702 * x), "sigmoid"),
        (jax.checkpoint(nn.relu), "relu"),
        (jax.jit(lambda x: nn.relu(x)), "relu"),
    ],
)
def test_an_activation_is_found_once(function, name):
    assert _names(function) == [name]


@pytest.mark.parametrize(
    "function",
    [
        nn.softmax,
        nn.log_softmax,
        jax.nn.standardize,
        lambda x: x / (1e-6 + jnp.linalg.norm(x, axis=-1, keepdims=True)),
        lambda x: x * jax.lax.rsqrt(jnp.maximum(0.0, x.var(-1, keepdims=True)) + 1e-6),
        lambda x: x / jnp.maximum((x**2).mean((1, 2)), 0)[:, None, None],
        lambda x: jnp.where(jnp.arange(x.shape[-1])[None, None] > 2, x, 0),
        lambda x: jnp.maximum(x, -jnp.inf),
    ],
)
def test_what_is_no_activation(function):
    assert _names(function) == []


@pytest.mark.parametrize(
    "function",
    [
        nn.gelu,
        functools.partial(nn.gelu, approximate=False),
        lambda x: x * jax.nn.sigmoid(1.702 * x),
    ],
)
def test_the_input_of_an_activation_is_what_it_is_a_function_of(function):
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(COUNT, 7, 3)), jnp.float32)
    (piece,) = _read(lambda w, x: function(x @ w).mean(1), 7, 3).pieces
    _, (found,) = piece([w], list(piece.constants.values()), [x])
    np.testing.assert_allclose(found, x @ w, rtol=1e-6)


def _steps(w, x, length=3):
    def step(x, w):
        return nn.relu(x @ w), nn.tanh(x).mean((1, 2))

    x, means = jax.lax.scan(jax.checkpoint(step), x, jnp.stack([w @ w.T] * length))
    return x.mean(1) + means.sum(0)[:, None]


def test_scans_run_step_by_step():
    program = _read(_steps, 7, 3)
    assert sorted(each.name for each in program.found) == ["relu"] * 3 + ["tanh"] * 3
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(COUNT, 7, 3)), jnp.float32)
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    given = (inputs,)
    for piece in program.pieces:
        given, _ = piece([w] * len(piece.reads()), list(piece.constants.values()), given)
    np.testing.assert_allclose(given[0], _steps(w, inputs), rtol=1e-5)


def test_activations_in_loops_of_no_fixed_length_are_refused():
    def network(w, x):
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: nn.relu(x @ w @ w.T) - 1, x)

    with pytest.raises(ValueError, match="got one inside while"):
        _read(network, 3)

    # A loop without is none of its business.
    def harmless(w, x):
        return jax.lax.fori_loop(0, x.shape[0], lambda _, x: x + 1, nn.relu(x @ w))

    assert len(_read(harmless, 3).found) == 1


def test_what_nobody_uses_does_not_count():
    def network(w, x):
        nn.relu(x)
        return nn.relu(x @ w)

    assert len(_read(network, 3).found) == 1


# Blocks.


def _residual(w, x, depth):
    square = w @ w.T
    x = nn.relu(x @ square)
    for _ in range(depth):
        x = nn.relu(x + nn.relu(x @ square) @ square)
    return x.mean(1) @ w


@pytest.mark.parametrize("depth", [1, 3])
def test_a_residual_block_is_one(depth):
    program = _read(functools.partial(_residual, depth=depth), 7, 3)
    shapes = [piece.gives[0].aval.shape for piece in program.pieces]
    assert shapes == [(COUNT, 7, 3)] * (depth + 1) + [(COUNT, 5)]
    assert [len(piece.found) for piece in program.pieces] == [1] + [2] * depth + [0]
    assert program.layers == 2 * depth + 2


def test_channels_first_and_channels_last_are_one_network():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 4)), jnp.float32)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(COUNT, 6, 5, 2)), jnp.float32)

    def network(kernel, images, layout):
        layouts = (layout, "HWIO", layout)
        x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layouts)
        pooled = nn.relu(x).mean([layout.index(axis) for axis in "HW"])
        return pooled @ kernel[0, 0].T

    def values(images, layout):
        run = functools.partial(network, layout=layout)
        first, _ = programs.read(run, kernel, images, normalized=True).pieces
        (features,), (found,) = first([kernel], list(first.constants.values()), [images])
        return features, found

    last = values(images, "NHWC")
    first = values(images.transpose(0, 3, 1, 2), "NCHW")
    for result, other in zip(first, last, strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-5, atol=1e-6)
    each = jax.vmap(lambda image: network(kernel, image[None], "NCHW")[0])
    program = programs.read(
        lambda _, images: each(images), kernel, images.transpose(0, 3, 1, 2), normalized=True
    )
    assert program.found[0].value.aval.shape == (COUNT, 1, 4, 6, 5)
    assert program.found[0].channels == 2


@pytest.mark.parametrize("norm", [nn.LayerNorm(), nn.RMSNorm(), nn.GroupNorm(num_groups=1)])
def test_without_what_a_normalization_measures(norm):
    def network(w, x):
        scale = {"scale": jnp.ones(5)} | (
            {} if isinstance(norm, nn.RMSNorm) else {"bias": 0 * w[0]}
        )
        return nn.relu(norm.apply({"params": scale}, x @ w))

    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(COUNT, 3)), jnp.float32)
    program = _read(network, 3, normalized=False)
    assert [each.kind for each in program.found] == ["variance", "preactivation"]
    (piece,) = program.pieces
    (given,), _ = piece([w], list(piece.constants.values()), [x])
    np.testing.assert_allclose(given, np.maximum(x @ w, 0), rtol=1e-5, atol=1e-6)
