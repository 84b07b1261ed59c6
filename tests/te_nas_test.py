"""The scores of super-networks by which TE-NAS prunes, beside those of the networks themselves."""

import jax
import numpy as np
import pytest

from jaxnas import score, spaces, te_nas

SPACE = spaces.nasbench201(channels=2, cells=1, norm="batch")


def test_a_super_network_of_one_network_has_its_scores(draw_batch):
    arch = [1, 3, 2, 3, 1, 3]
    alive = np.eye(5, dtype=bool)[arch]
    found = []
    for seed in (4, 5):
        batch = draw_batch(seed)
        params = SPACE.init(jax.random.split(jax.random.key(seed))[0], batch.inputs)
        found.append(score(*SPACE.bind(arch, params), batch, "ntk_condition")["ntk_condition"])
    look = te_nas.super_scores(SPACE, draw_batch, seeds=(4, 5))
    condition, regions = look(alive)
    assert condition == pytest.approx(np.mean(found), rel=1e-3)
    assert 1 < regions <= 256
    every = np.ones((6, 5), bool)
    assert look(every)[1] >= regions  # more operations cut the space more finely
    assert look(every) == look(every)


def test_other_spaces_are_refused(draw_batch):
    with pytest.raises(ValueError, match="got darts and 3 seeds"):
        te_nas.super_scores(spaces.darts(), draw_batch)
    with pytest.raises(ValueError, match="got nasbench201 and 0 seeds"):
        te_nas.super_scores(SPACE, draw_batch, seeds=())
