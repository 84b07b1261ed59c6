"""What TE-NAS looks at when it searches by pruning; see `search.prune`.

Source: Chen, Gong and Wang, "Neural Architecture Search on ImageNet in Four GPU Hours" (TE-NAS),
ICLR 2021, arXiv 2102.11535.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxnas import check, spaces
from jaxnas.scoring import score
from jaxnas.search.pruning import SuperScoreFn
from jaxnas.types import Batch, SearchSpace

# As published: regions are counted in a network of one channel, over many tiny random images.
_REGION_IMAGES, _REGION_PIXELS = 256, 4


def super_scores(
    space: SearchSpace, data: Callable[[int], Batch], *, seeds: Sequence[int] = (0, 1, 2)
) -> SuperScoreFn:
    """Return the score of super-networks of NAS-Bench-201 by which TE-NAS prunes them.

    It gives two numbers, larger is better: minus the condition number of the NTK, and the number of
    linear regions. Both are means over draws of weights and images.

    Args:
        space: `spaces.nasbench201`, of any size.
        data: `data(seed)`: the batch whose NTK is meant.
        seeds: of the draws.

    Raises:
        ValueError: another space, or no seeds.

    Examples:
        >>> import jax, numpy as np
        >>> from jaxnas import Batch, search, spaces, te_nas
        >>> space = spaces.nasbench201(channels=2, cells=1, norm="batch")
        >>> batch = Batch(jax.random.normal(jax.random.key(0), (4, 8, 8, 3)), np.arange(4))
        >>> look = te_nas.super_scores(space, lambda seed: batch, seeds=[0])
        >>> alive = np.eye(5, dtype=bool)[[3, 3, 3, 3, 3, 1]]  # one operation an edge
        >>> alive[0, 1] = True  # and two on the first
        >>> search.prune(alive, look).steps[0].evaluations
        2
    """
    check.instance("space", space, SearchSpace, "a SearchSpace")
    check.instance("data", data, Callable, "a function of a seed")
    if space.name != "nasbench201" or not len(seeds):
        raise ValueError(
            "TE-NAS prunes super-networks of nasbench201, with one seed at least: got "
            f"{space.name} and {len(seeds)} seeds."
        )
    colors = space.options["colors"]
    tiny = spaces.nasbench201(channels=1, cells=1, colors=colors, norm="batch")
    shape = (_REGION_IMAGES, _REGION_PIXELS, _REGION_PIXELS, colors)

    # Examples and weights are those of the draws; a look changes what is alive alone.
    draws = []
    for seed in seeds:
        weights, images = jax.random.split(jax.random.key(seed))
        noise = Batch(jax.random.normal(images, shape), jnp.zeros(_REGION_IMAGES, int))
        for of, batch, name in (
            (space, data(seed), "ntk_condition"),
            (tiny, noise, "linear_regions"),
        ):
            draws.append((of, of.init(weights, batch.inputs), batch, name))

    def look(alive: NDArray[np.bool_]) -> list[float]:
        found = [
            score(*of.bind(alive, params), batch, name)[name] for of, params, batch, name in draws
        ]
        return np.reshape(found, (-1, 2)).mean(0).tolist()

    return look
