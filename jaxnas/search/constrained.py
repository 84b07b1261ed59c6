"""Evolution under a constraint: a generation of legal architectures scored at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxnas import check
from jaxnas.search.base import History
from jaxnas.search.sampling import checked_choices
from jaxnas.types import Array

Legal = Callable[[NDArray[np.int32]], ArrayLike]
"""`legal(archs)`: which architectures `int32[N, D]` meet the constraint, `bool[N]`."""

_ATTEMPTS = 10  # for each mutant or crossover that is wanted
_MOST_DRAWS = 2**20


class EvolutionOptions(NamedTuple):
    """Sizes; the defaults are those of SPOS and BN-NAS.

    Attributes:
        population: architectures a generation.
        generations: the first, at random, included.
        parents: the best of all so far.
        mutations: most mutants a generation.
        crossovers: most crossovers a generation; what is missing from the population is random.
        mutation_rate: of each decision of a mutant, to be drawn anew.
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    mutation_rate: float = 0.1


def constrained_evolution(
    num_choices: Sequence[int],
    score_fn: Callable[[NDArray[np.int32]], ArrayLike],
    *,
    key: Array,
    legal: Legal | None = None,
    options: EvolutionOptions | None = None,
) -> History:
    """Return the history of an evolution that scores only legal architectures, each once.

    The best so far are the parents of mutants and of uniform crossovers; what is illegal or was
    scored before is drawn again. Ends early where a million random draws bring nothing new.

    Source: Guo et al., "Single Path One-Shot", ECCV 2020, arXiv 1904.00420, algorithm 1, with the
    sizes of its published code. Where the score is a sum over decisions, `search.knapsack` is exact
    and faster.

    Args:
        num_choices: Decision `i` is in `[0, num_choices[i])`.
        score_fn: `score_fn(archs)`, scores `[N]` of `int32[N, D]`, larger is better; NaN and
            infinities count as -inf.
        key: A key from `jax.random.key`.
        legal: Which architectures are legal, such as `lambda archs: flops(archs) <= cap`; None for
            all of them.
        options: See `EvolutionOptions`.

    Raises:
        ValueError: Options out of range, no legal architecture in a million draws, or scores or
            verdicts of another shape than `[N]`.

    Examples:
        >>> import jax
        >>> from jaxnas import search
        >>> history = search.constrained_evolution(
        ...     (4, 4),
        ...     lambda archs: archs.sum(1),
        ...     key=jax.random.key(0),
        ...     legal=lambda archs: archs[:, 0] < 2,
        ...     options=search.EvolutionOptions(population=8, generations=3),
        ... )
        >>> history.best_arch.tolist()
        [1, 3]
    """
    choices = checked_choices(num_choices)
    options = EvolutionOptions() if options is None else options
    _check(options)
    check.instance("score_fn", score_fn, Callable, "a function of architectures")
    check.instance("legal", legal, Callable | None, "a function of architectures, or None")
    check.key("key", key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    archs = np.empty((0, len(choices)), np.int32)
    scores = np.empty(0, np.float32)
    seen: set[bytes] = set()
    for _ in range(options.generations):
        parents = archs[np.argsort(-scores, kind="stable")[: options.parents]]
        found: list[NDArray[np.int32]] = []
        if len(parents):
            for children, wanted in (
                (_mutants(rng, choices, parents, options.mutation_rate), options.mutations),
                (_crossovers(rng, parents), options.crossovers),
            ):
                wanted = min(wanted, options.population - len(found))
                found += _first(children, wanted, _ATTEMPTS * wanted, legal, seen)
        found += _first(
            _random(rng, choices), options.population - len(found), _MOST_DRAWS, legal, seen
        )
        if not found:
            break
        generation = np.stack(found)
        new = _checked(score_fn(generation), len(generation), "score_fn", np.float32)
        archs = np.concatenate([archs, generation])
        scores = np.concatenate([scores, np.where(np.isfinite(new), new, -np.inf)])
    if not len(archs):
        raise ValueError(
            f"No legal architecture in {_MOST_DRAWS:,} random draws: got a constraint that refuses "
            "all of them; relax it."
        )
    return History(jnp.asarray(archs), jnp.asarray(scores, jnp.float32))


def _first(
    proposals: Iterable[NDArray[np.int32]],
    wanted: int,
    attempts: int,
    legal: Legal | None,
    seen: set[bytes],
) -> list[NDArray[np.int32]]:
    """Return the first legal proposals that were not seen, and mark them as seen."""
    found: list[NDArray[np.int32]] = []
    for block in proposals:
        if len(found) >= wanted or attempts <= 0:
            break
        block = block[:attempts]
        attempts -= len(block)
        allowed = np.ones(len(block), bool)
        if legal is not None:
            allowed = _checked(legal(block), len(block), "legal", np.bool_)
        for arch in block[allowed]:
            if len(found) < wanted and arch.tobytes() not in seen:
                seen.add(arch.tobytes())
                found.append(arch)
    return found


def _random(rng: np.random.Generator, choices: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    size = 64
    while True:
        yield rng.integers(0, choices, (size, len(choices)), dtype=np.int32)
        size = min(2 * size, 2**15)


def _mutants(
    rng: np.random.Generator,
    choices: NDArray[np.int32],
    parents: NDArray[np.int32],
    rate: float,
) -> Iterator[NDArray[np.int32]]:
    while True:
        before = parents[rng.integers(len(parents), size=64)]
        drawn = rng.integers(0, choices, before.shape, dtype=np.int32)
        yield np.where(rng.random(before.shape) < rate, drawn, before)


def _crossovers(
    rng: np.random.Generator, parents: NDArray[np.int32]
) -> Iterator[NDArray[np.int32]]:
    while True:
        first, second = parents[rng.integers(len(parents), size=(2, 64))]
        yield np.where(rng.random(first.shape) < 0.5, first, second)


def _checked(found: ArrayLike, count: int, name: str, dtype: type) -> NDArray:
    values = check.array(f"What {name} gives", found)
    if values.shape != (count,):
        raise ValueError(
            f"{name} must return one value an architecture, shape [{count}] for archs of shape "
            f"[{count}, D]: got {list(values.shape)}."
        )
    return values.astype(dtype)


def _check(options: EvolutionOptions) -> None:
    check.instance("options", options, EvolutionOptions, "EvolutionOptions")
    for name in ("population", "generations", "parents"):
        check.integer(name, getattr(options, name), 1)
    for name in ("mutations", "crossovers"):
        check.integer(name, getattr(options, name))
    check.real("mutation_rate", options.mutation_rate, 0, 1)
