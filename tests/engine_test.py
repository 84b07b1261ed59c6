"""Threads and devices share the work, and change no number."""

import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Proxy, Scorer, engine
from jaxnas.proxies import measures

CELLS = np.array(
    [(2, 3, 1, 4, 0, 3), (1, 2, 3, 4, 2, 1), (3, 3, 3, 3, 3, 3), (1, 0, 2, 3, 0, 4)], np.int32
)


SQUARES = (Proxy("squares", measures.batch_gradient_squares, lambda squares: squares.sum()),)


@pytest.fixture
def draw(small_space, draw_batch):
    with jax.enable_x64(True):
        batch = draw_batch(0)
        params = small_space.init(jax.random.key(0), batch.inputs)
        yield engine.Draw(small_space, params, batch, jax.random.key(0))


def test_threads_give_what_a_loop_gives(draw):
    found = list(engine.eager(draw, SQUARES, np.concatenate([CELLS] * 3)))
    assert [position for position, _ in found] == list(range(12))
    for position, scores in found:
        network = draw.space.bind(CELLS[position % 4], draw.params)
        expected = measures.batch_gradient_squares(*network, draw.batch, draw.key)
        assert scores == {"squares": (float(expected.sum()), "ok")}


def test_threads_work_at_the_same_time(draw):
    together = threading.Barrier(2, timeout=30)

    def meet(apply_fn, params, batch, key):
        together.wait()
        return jnp.zeros(())

    chosen = (Proxy("met", meet, jnp.asarray),)
    found = dict(engine.eager(draw, chosen, CELLS))
    assert all(scores == {"met": (0, "ok")} for scores in found.values())


def test_a_walk_that_is_given_up_ends(draw):
    running = threading.active_count()
    results = engine.eager(draw, SQUARES, np.concatenate([CELLS] * 50))
    next(results)
    results.close()
    assert threading.active_count() == running


def test_a_bucket_gives_what_the_eager_plan_gives(draw):
    light = [(3, 1, 4, 2, 4, 1), (3, 4, 1, 2, 4, 1), (3, 0, 1, 2, 4, 4), (3, 1, 1, 2, 0, 1)]
    archs = np.array([*light, CELLS[0]], np.int32)
    eager, compiled = (dict(plan(draw, SQUARES, archs)) for plan in (engine.eager, engine.compiled))
    for position in range(len(archs)):
        result, other = (found[position]["squares"].value for found in (eager, compiled))
        assert result == pytest.approx(other, rel=1e-9)


def test_chunks_fit_the_memory(draw, monkeypatch):
    sizes = []
    for memory in (2**50, 2**21 * 2 // 3, 1):
        monkeypatch.setattr(engine, "_BYTES_OF_AN_UNKNOWN_DEVICE", memory)
        sizes.append(engine._chunk_size(draw, jax.local_devices(backend="cpu")[0]))
    assert sizes == [4, 2, 1]


PROGRAM = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
from jaxnas import Batch, Scorer
from jaxnas.spaces import nasbench201
assert jax.local_device_count() == {count}
space = nasbench201(channels=2, cells=1, norm="instance")
rng = np.random.default_rng(0)
batch = Batch(jax.numpy.asarray(rng.normal(size=(2, 8, 8, 3))), np.array([0, 1]))
archs = rng.integers(0, 5, (20, 6))
scored = Scorer(space, batch, "grad_norm", plan="compiled", progress=False)(archs)
print(scored.mean("grad_norm").tolist())
"""


def _scores_on(count):
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(count=count)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
            f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
        },
    )
    assert finished.returncode == 0, finished.stderr
    return [float(each) for each in finished.stdout.strip()[1:-1].split(", ")]


def test_eight_devices_give_what_one_gives():
    np.testing.assert_allclose(_scores_on(8), _scores_on(1), rtol=1e-12)


def test_the_same_function_is_scored_once(small_space, draw_batch):
    calls = []

    def count(apply_fn, params, batch, key):
        calls.append(apply_fn.arch)
        return jnp.float32(len(calls))

    chosen = [Proxy("count", count, jnp.asarray), "params"]
    twins = np.array([(3, 0, 0, 0, 1, 0), (0, 3, 0, 0, 0, 1), (3, 0, 0, 0, 2, 0)])
    with jax.enable_x64(True):
        found = {
            deduplicate: Scorer(small_space, draw_batch(0), chosen, deduplicate=deduplicate)(twins)
            for deduplicate in (True, False)
        }
    assert len(calls) == 2 + 3
    first, second, third = found[True].mean("count")
    assert first == second != third
    assert len(set(found[False].mean("count"))) == 3
    counted = [small_space.num_params(arch) for arch in twins]
    assert found[True].mean("params").tolist() == counted
