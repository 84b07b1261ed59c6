import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, Scorer, proxies
from jaxnas.proxies import cost
from jaxnas.spaces import nasbench201

FLOPS = proxies.BY_NAME["flops"]


def test_flops_of_a_plain_network_are_half_of_what_xla_counts():
    # 7 x 5 + 5 x 3 multiply-accumulates, of one example, whatever the batch.
    params = {"first": jnp.ones((7, 5)), "second": jnp.ones((5, 3))}
    batch = Batch(jnp.ones((6, 7)), jnp.zeros(6, int))
    found = FLOPS(lambda params, x: x @ params["first"] @ params["second"], params, batch)
    assert found == 7 * 5 + 5 * 3


def test_latency_is_that_of_the_fastest_block(monkeypatch):
    # Passes of 2 ms, but of 9 ms in most blocks; and one of .1 ms in each. The clock is read
    # before and behind each pass; after 3 that warm up come blocks of 5.
    passes = iter([9] * 3 + [9, 9, 0.1] * 5 + [2, 2, 0.1] * 10 + [9, 9, 0.1] * 100)
    now, inside = 0.0, False

    def clock():
        nonlocal now, inside
        now += next(passes) / 1e3 if inside else 1.0
        inside = not inside
        return now

    monkeypatch.setattr(cost, "time", types.SimpleNamespace(perf_counter=clock))
    batch = Batch(jnp.ones((2, 3)), jnp.zeros(2, int))
    found = cost.latency_ms()(lambda params, x: x @ params, jnp.ones((3, 2)), batch)
    np.testing.assert_allclose(found, 2, rtol=1e-6)


@pytest.mark.parametrize("plan", ["eager", "compiled"])
def test_flops_of_a_space_are_the_benchmarks(plan):
    # 153.27 and 7.78 million in the table: the best cell, and one without convolutions.
    space = nasbench201(norm="none")
    cells = [
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+"
        "|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
        "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    ]
    archs = np.stack([space.from_string(cell) for cell in cells])
    batch = Batch(jnp.zeros((1, 32, 32, 3)), jnp.zeros(1, int))
    flops = Scorer(space, batch, "flops", plan=plan)(archs).mean("flops")
    np.testing.assert_allclose(flops / 1e6, [153.27, 7.78], atol=0.01)
