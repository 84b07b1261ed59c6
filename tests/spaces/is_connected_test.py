"""What `is_connected` says of something that is no architecture."""

import numpy as np
import pytest

from jaxnas import spaces


@pytest.mark.parametrize("make", [spaces.darts, spaces.mobilenetv2, spaces.transnas])
@pytest.mark.parametrize("wrong", ["x", None, [0]])
def test_what_is_no_architecture_is_refused(make, wrong):
    with pytest.raises(ValueError, match=r"^A\w+ "):
        make().is_connected(wrong)


def test_an_architecture_of_a_connected_space_is_connected():
    space = spaces.darts()
    assert space.is_connected(np.zeros(len(space.num_choices), np.int32))
