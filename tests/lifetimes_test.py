import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import lifetimes


class _Network:
    def __init__(self):
        self.table = jnp.ones((3, 5))

    def __call__(self, params, inputs):
        return inputs @ (params + self.table)


@lifetimes.for_each_network(1)
def _apply(network, factor, params, inputs):
    return factor * network(params, inputs)


@pytest.mark.parametrize("way", ["itself", "method"])
def test_programs_do_not_keep_a_network_alive(way):
    network, params, inputs = _Network(), jnp.ones((3, 5)), jnp.ones((2, 3))
    alive = weakref.ref(network)
    called = network if way == "itself" else network.__call__
    number = id(network)
    np.testing.assert_array_equal(_apply(called, 2, params, inputs), 12 * np.ones((2, 5)))
    np.testing.assert_array_equal(_apply(called, 3, params, inputs), 18 * np.ones((2, 5)))
    assert number in lifetimes._OWNERS
    del network, called
    gc.collect()
    assert alive() is None
    assert number not in lifetimes._OWNERS
