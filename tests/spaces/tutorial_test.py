"""The space that the tutorial shows in full: its counts by hand, both plans, its buckets."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas.spaces.image_space import factory
from jaxnas.spaces.images import ImageNetwork

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "space.md"


def test_the_space_shown_is_one(draw_batch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (code,) = [block for block in blocks if "forward" in block]
    assert len(code[code.index("class") :].splitlines()) <= 25
    shown = {}
    exec(code, shown)
    with jax.enable_x64(True):
        batch = draw_batch(0)
        space = shown["residuals"](channels=2, norm="batch")
        arch = space.from_string("2-0-1-1")
        assert space.to_string(arch) == "2-0-1-1"
        names = ["mgm", "grad_norm", "naswot", "expressivity", "synflow", "params", "flops"]
        eager = jaxnas.Scorer(space, batch, names, plan="eager")(arch[None])
        compiled = jaxnas.Scorer(space, batch, names[:2], plan="compiled")(arch[None])
    assert {status[0, 0] for status in eager.status.values()} == {"ok"}
    for name, score in compiled.scores.items():
        np.testing.assert_allclose(score, eager.scores[name], rtol=1e-9)
    # Stem 3 x 9 x 2, blocks 4 x (25 + 1 + 9 + 9), norms 4 each, classifier 30: by hand.
    assert eager.scores["params"] == 54 + 4 + 4 * 44 + 4 * 4 + 4 + 2 * 10 + 10
    patterns = space.pattern(jnp.array([[0, 0, 0, 0], [0, 1, 0, 0]]))
    np.testing.assert_array_equal(patterns, [[0, 0, 0, 0], [0, 1, 0, 0]])


@pytest.mark.parametrize(("notation", "num_choices"), [("{}-{}", (3,) * 4), ("{}", (12,))])
def test_a_notation_has_a_digit_for_each_decision(notation, num_choices):
    networks = type("Networks", (ImageNetwork,), {"space": "s", "num_choices": num_choices})
    with pytest.raises(ValueError, match=r"A notation has a \{\} for each decision"):
        factory(networks, notation=notation, is_connected=bool, representative=np.asarray)
