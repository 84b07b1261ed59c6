import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxnas import Batch, Proxy
from jaxnas.pool import run_context, score_pool
from jaxnas.runs import ScoreStore

CELLS = np.array([(2, 3, 1, 4, 0, 3), (0, 0, 0, 0, 0, 0), (1, 2, 3, 4, 2, 1)])


@pytest.fixture
def pool(tmp_path, small_space, draw_batch):
    """`pool(proxies, cells, seeds, context)`: the scores, from one store."""

    def run(chosen, cells=CELLS, seeds=(0, 1), plan="eager", **context):
        with ScoreStore(tmp_path / "scores.sqlite") as store:
            return score_pool(
                small_space,
                cells,
                lambda seed: Batch(*draw_batch(seed)),
                chosen,
                store=store,
                context=context,
                seeds=seeds,
                plan=plan,
            )

    run.path = tmp_path / "scores.sqlite"
    return run


def _counting(name, calls, value=1.0):
    def measure(apply_fn, params, batch, key):
        calls.append(name)
        if isinstance(value, Exception):
            raise value
        return np.float32(value) + np.asarray(batch.inputs).ravel()[0]

    return Proxy(name, measure, jnp.asarray)


def test_scores_by_seed_and_cell(pool):
    scored = pool(["layer_balance", "params"])
    assert scored.scores["layer_balance"].shape == (2, 3)
    assert scored.status["layer_balance"].tolist() == [["ok", "disconnected", "ok"]] * 2
    assert scored.unscored("layer_balance") == {"disconnected": 2}
    assert scored.unscored("params") == {}
    first, second = scored.scores["layer_balance"]
    np.testing.assert_allclose(scored.mean("layer_balance")[0], (first[0] + second[0]) / 2)
    np.testing.assert_allclose(
        scored.sd("layer_balance")[0], abs(first[0] - second[0]) / 2**0.5, rtol=1e-12
    )
    assert scored.mean("layer_balance")[1] == -np.inf
    assert np.isnan(scored.sd("layer_balance")[1])
    assert scored.cpu_seconds > 0


def test_nothing_is_done_twice(pool):
    calls = []
    one, two = _counting("one", calls), _counting("two", calls)
    before = pool([one])
    assert calls == ["one"] * 4
    pool([one, two])
    assert calls == ["one"] * 4 + ["two"] * 4
    more = np.vstack([CELLS, (3, 3, 3, 3, 3, 3)])
    after = pool([one, two], more)
    assert calls[8:] == ["one", "two"] * 2
    np.testing.assert_array_equal(after.scores["one"][:, :3], before.scores["one"])
    pool([two, one], CELLS[::-1])
    assert len(calls) == 12


def test_another_setting_is_another_run(pool):
    calls = []
    one = _counting("one", calls)
    pool([one], data="a")
    pool([one], data="b")
    assert len(calls) == 8


def test_auto_is_the_plan_that_it_chooses(pool):
    calls = []
    one = _counting("one", calls)
    pool([one], plan="eager")
    pool([one], plan="auto")
    assert len(calls) == 4


def test_what_failed_is_tried_again(pool):
    broken = pool([_counting("one", [], MemoryError("full"))])
    assert set(broken.status["one"][0]) == {"failed: MemoryError: full", "disconnected"}
    mended = pool([_counting("one", [])])
    assert mended.unscored("one") == {"disconnected": 2}


def test_what_was_written_stays(pool):
    pool(["mgm"])
    with ScoreStore(pool.path) as store:
        first = store.frame()
    pool(["mgm"])
    with ScoreStore(pool.path) as store:
        pd.testing.assert_frame_equal(store.frame(), first, check_exact=True)


def test_bad_input(pool):
    with pytest.raises(ValueError, match="got 2 with 1 different"):
        pool(["mgm"], CELLS[[0, 0]])
    with pytest.raises(ValueError, match="Unknown plan 'fast'"):
        pool(["mgm"], plan="fast")
    with pytest.raises(ValueError, match="Unknown proxy 'm'"):
        pool("m")


def test_the_context_names_what_decides_the_last_bits():
    context = run_context(data="a")
    assert {"data", "version_jax", "version_flax", "jax_enable_x64", "backend"} <= context.keys()
