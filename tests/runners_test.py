"""Threads and devices share the work, and change no number."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Proxy, runners, score_space
from jaxnas.proxies import measures

CELLS = np.array(
    [(2, 3, 1, 4, 0, 3), (1, 2, 3, 4, 2, 1), (3, 3, 3, 3, 3, 3), (1, 0, 2, 3, 0, 4)], np.int32
)


@pytest.fixture
def setting(small_space, draw_batch):
    with jax.enable_x64(True):
        batch = draw_batch(0)
        params = small_space.init(jax.random.key(0), batch.inputs)
        chosen = (measures.batch_gradient_squares,)
        yield runners.Setting(small_space, params, batch, jax.random.key(0), chosen)


def test_threads_give_what_a_loop_gives(setting):
    found = list(runners.eager(setting, np.concatenate([CELLS] * 3)))
    assert [position for position, _ in found] == list(range(12))
    for position, (measured,) in found:
        network = setting.space.bind(CELLS[position % 4], setting.params)
        expected = measures.batch_gradient_squares(*network, setting.batch, setting.key)
        assert measured.dtype == np.float64
        np.testing.assert_array_equal(measured, expected)


def test_threads_work_at_the_same_time(setting):
    together = threading.Barrier(2, timeout=30)

    def meet(apply_fn, params, batch, key):
        together.wait()
        return jnp.zeros(())

    found = dict(runners.eager(setting._replace(measures=(meet,)), CELLS))
    assert all(measured == [0] for measured in found.values())


def test_a_walk_that_is_given_up_ends(setting):
    running = threading.active_count()
    results = runners.eager(setting, np.concatenate([CELLS] * 50))
    next(results)
    results.close()
    assert threading.active_count() == running


def test_a_bucket_gives_what_a_walk_gives(setting):
    light = [(3, 1, 4, 2, 4, 1), (3, 4, 1, 2, 4, 1), (3, 0, 1, 2, 4, 4), (3, 1, 1, 2, 0, 1)]
    archs = np.array([*light, CELLS[0]], np.int32)
    eager, traced = dict(runners.eager(setting, archs)), dict(runners.compiled(setting, archs))
    for position, arch in enumerate(archs):
        # The eager plan reads the tensors of one network, the bucket those of the whole space.
        squares = [np.sort(own[position][0]) for own in (eager, traced)]
        reached = [own[own > 1e-25 * own.max()] for own in squares]
        np.testing.assert_allclose(*reached, rtol=1e-9, err_msg=str(arch))


def test_chunks_fit_the_memory(setting, monkeypatch):
    sizes = []
    for memory in (2**50, 2**21 * 2 // 3, 1):
        monkeypatch.setattr(runners, "_BYTES_OF_AN_UNKNOWN_DEVICE", memory)
        sizes.append(runners._chunk_size(setting, jax.local_devices(backend="cpu")[0]))
    assert sizes == [4, 2, 1]


PROGRAM = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
from jaxnas import Batch, nasbench201, score_space
assert jax.local_device_count() == {count}
space = nasbench201(channels=2, cells=1, norm="instance")
rng = np.random.default_rng(0)
batch = Batch(jax.numpy.asarray(rng.normal(size=(2, 8, 8, 3))), np.array([0, 1]))
archs = rng.integers(0, 5, (20, 6))
scored = score_space(space, archs, batch, ["mgm", "layer_balance"], plan="compiled")
by_position = {{own.position: own.scores for own in scored}}
print([repr(by_position[at][name]) for at in range(20) for name in ("mgm", "layer_balance")])
"""


def _scores_on(count):
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(count=count)],
        capture_output=True,
        text=True,
        check=False,
        env={
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
        },
    )
    assert finished.returncode == 0, finished.stderr
    return [float(own.strip("'")) for own in finished.stdout.strip()[1:-1].split(", ")]


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
            deduplicate: {
                own.position: own.scores
                for own in score_space(
                    small_space, twins, draw_batch(0), chosen, deduplicate=deduplicate
                )
            }
            for deduplicate in (True, False)
        }
    assert len(calls) == 2 + 3
    assert found[True][0]["count"] == found[True][1]["count"] != found[True][2]["count"]
    assert len({own["count"] for own in found[False].values()}) == 3
    for position, arch in enumerate(twins):
        assert found[True][position]["params"] == small_space.num_params(arch)


def test_scores_as_they_come(small_space, draw_batch):
    archs = np.array([(3, 0, 0, 0, 1, 0), (2, 0, 0, 0, 1, 0), (0, 3, 0, 0, 0, 1), (0,) * 6])

    def positions(in_order):
        chosen = [Proxy("zero", lambda *_: jnp.zeros(()), jnp.asarray)]
        scored = score_space(small_space, archs, draw_batch(0), chosen, in_order=in_order)
        return [own.position for own in scored]

    with jax.enable_x64(True):
        assert positions(in_order=True) == [0, 1, 2, 3]
        assert positions(in_order=False) == [3, 0, 2, 1]  # not run; two of one function; the last


def test_shards_are_parts_of_the_whole(small_space, draw_batch):
    archs = np.concatenate([CELLS, [(0,) * 6, (3, 0, 0, 0, 1, 0), (0, 3, 0, 0, 0, 1)]])

    def positions(shard):
        scored = score_space(small_space, archs, draw_batch(0), "params", shard=shard)
        return {own.position for own in scored}

    shares = [positions((own, 3)) for own in range(3)]
    assert sorted(at for share in shares for at in share) == list(range(7))
    assert any({5, 6} <= share for share in shares)  # the same function
    for shard in ((0, 0), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match=r"A shard \(i, n\) has 0 <= i < n"):
            positions(shard)
