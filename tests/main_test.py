import numpy as np
import pytest

from jaxnas.__main__ import demo
from jaxnas.runs import to_text


def test_demo_ranks_by_mgm():
    report = demo(num_archs=4, batch_size=2, seed=1)
    ranking = report.parts[0].frame
    assert np.all(np.diff(ranking["mgm"]) <= 0)
    assert "CIFAR-10 test %" in to_text(report)


def test_wrong_number():
    with pytest.raises(ValueError, match="100000"):
        demo(num_archs=4, batch_size=100000, seed=0)
