"""Traced programs, equation by equation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas import convolution, equations


def _convolve(images, kernel):
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_convolutions_are_replaced_also_within_calls(monkeypatch):
    replaced = []
    of_equation = convolution.of_equation

    def counted(*args):
        replaced.append(args)
        return of_equation(*args)

    monkeypatch.setattr(convolution, "of_equation", counted)

    def network(kernels, images):
        features = jax.nn.relu(_convolve(images, kernels["first"]))
        return {"outputs": jax.jit(_convolve)(features, kernels["second"]).mean((1, 2))}

    rng = np.random.default_rng(0)
    kernels = {
        "first": jnp.asarray(rng.normal(size=(3, 3, 2, 4))),
        "second": jnp.asarray(rng.normal(size=(5, 5, 4, 2))),
    }
    images = jnp.asarray(rng.normal(size=(1, 4, 4, 2)))

    def loss(network, kernels):
        return jnp.square(network(kernels, images)["outputs"]).sum()

    expected = jax.value_and_grad(lambda kernels: loss(network, kernels))(kernels)
    faster = equations.with_fast_convolutions(network)
    found = jax.value_and_grad(lambda kernels: loss(faster, kernels))(kernels)
    assert len(replaced) == 2
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_only_what_counts_is_evaluated():
    def function(x, y):
        jnp.sin(y)
        return x + 1

    program = jax.make_jaxpr(function)(1.0, 2.0)
    kept, read = equations.live(program.jaxpr)
    assert ([one.primitive.name for one in kept], read) == (["add"], [True, False])
    seen = []
    (found,) = equations.evaluate(program, (1.0, 2.0), lambda *step: seen.append(step))
    assert (float(found), len(seen)) == (2.0, 1)


def test_an_equation_gives_what_takes_its_place():
    program = jax.make_jaxpr(lambda x: jnp.sin(x) + 1)(0.0)

    def instead(equation, given):
        return [given[0] * 10] if equation.primitive.name == "sin" else None

    assert equations.evaluate(program, (2.0,), instead) == [21.0]
