import numpy as np
import pytest

from jaxnas.spaces.encoder_space import wiring

OTHERS = ("relu", "tanh")
# Pairs 1>3, 1>4, 2>4; four layers; own activation or two others.
CHOICES = (2, 2, 2, 2, 2, 2, 2, 3)


def test_decisions():
    assert wiring.pairs(4) == ((1, 3), (1, 4), (2, 4))
    assert wiring.pairs(2) == ()
    assert wiring.num_choices(4, len(OTHERS)) == CHOICES
    for layers in range(1, 8):  # (L - 1)(L - 2) / 2 pairs, as the literature counts them
        assert len(wiring.pairs(layers)) == (layers - 1) * (layers - 2) // 2


@pytest.mark.parametrize(
    ("arch", "notation"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0], "pretrained"),
        ([0, 1, 0, 0, 0, 0, 0, 0], "1>4"),
        ([1, 0, 1, 0, 1, 0, 1, 2], "1>3 2>4 -2 -4 tanh"),
        ([0, 0, 0, 0, 0, 0, 0, 1], "relu"),
    ],
)
def test_notation(arch, notation):
    assert wiring.to_string(arch, 4, OTHERS) == notation
    np.testing.assert_array_equal(wiring.from_string(notation, 4, OTHERS), arch)


@pytest.mark.parametrize(
    "notation", ["", "1>2", "3>1", "-5", "gelu", "1>3 1>3", "relu tanh", "relu relu", "1 > 3"]
)
def test_refuses_other_notation(notation):
    with pytest.raises(ValueError, match="names each change once"):
        wiring.from_string(notation, 4, OTHERS)


def test_samples_are_different_and_near_the_pretrained_network():
    archs = wiring.sample(CHOICES, 40, changes=2, seed=0)
    changes = (archs != 0).sum(1)
    assert set(changes) == {1, 2}
    assert len({tuple(arch) for arch in archs}) == 40
    assert set(archs[:, -1]) == {0, 1, 2}
    np.testing.assert_array_equal(archs, wiring.sample(CHOICES, 40, changes=2, seed=0))
    assert (archs[:8] != wiring.sample(CHOICES, 8, changes=2, seed=1)).any()
    assert len(wiring.sample((2, 1, 2), 3, changes=2, seed=0)) == 3  # all there are


@pytest.mark.parametrize(("count", "changes"), [(1, 0), (1, 9), (10, 1)])
def test_refuses_samples_that_there_are_not(count, changes):
    with pytest.raises(ValueError, match="changes"):
        wiring.sample(CHOICES, count, changes=changes, seed=0)


def test_refuses_several_wirings_at_once():
    with pytest.raises(ValueError, match="One architecture at a time"):
        wiring.to_string(np.zeros((2, 8), int), 4, OTHERS)
