"""The loop of every search: ask a strategy for an architecture, score it, tell the score."""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.types import Array, ScoreFn, SearchStrategy

Keep = Callable[[Array], Array]

_ASKED_BEFORE_TOLD = 8
_MOST_REFUSALS = 10_000


class History(NamedTuple):
    """The evaluations of a search in their order; leading axes (seeds, say) are allowed.

    Attributes:
        archs: `int32[..., T, D]`, the architectures that were asked for.
        scores: `float32[..., T]`, the scores that were told; `-inf` where `score_fn` gave `nan` or
            an infinity.
    """

    archs: Array
    scores: Array

    @property
    def best_arch(self) -> Array:
        """The first architecture with the best score, `int32[..., D]`."""
        best = jnp.argmax(self.scores, axis=-1)
        return jnp.take_along_axis(self.archs, best[..., None, None], axis=-2)[..., 0, :]

    @property
    def ranked_archs(self) -> Array:
        """The architectures from the best score to the worst, equals as asked, `[..., T, D]`."""
        order = jnp.argsort(-self.scores, axis=-1, stable=True)
        return jnp.take_along_axis(self.archs, order[..., None], axis=-2)

    @property
    def best_score(self) -> Array:
        """The best score, `float32[...]`."""
        return jnp.max(self.scores, axis=-1)

    @property
    def running_best(self) -> Array:
        """The best score after each evaluation, `float32[..., T]`."""
        return jax.lax.cummax(self.scores, axis=self.scores.ndim - 1)


Step = TypeVar("Step")


class Result(NamedTuple, Generic[Step]):
    """What a search has chosen, and how.

    Attributes:
        arch: `int32[D]`, the architecture that it chose.
        steps: what it did, in order: the kind of record is that of the search.
        ranking: `int64[<=A]`, indices into the candidates that were given, best first. Empty for a
            search that is given none.
    """

    arch: NDArray[np.int32]
    steps: tuple[Step, ...]
    ranking: NDArray[np.int64]

    @property
    def winner(self) -> int:
        """Index of `arch` among the candidates."""
        return int(self.ranking[0])


def run(
    strategy: SearchStrategy,
    score_fn: ScoreFn,
    *,
    key: Array,
    num_evaluations: int,
    keep: Keep | None = None,
    jit: bool = True,
) -> History:
    """Return the history of `num_evaluations` steps of ask, score and tell.

    Both values of `jit` draw the same random numbers, so they give the same history for the same
    scores; and a longer search begins with the shorter one.

    Args:
        strategy: What to ask; keep the object, because each new one compiles a new program.
        score_fn: Called with one architecture at a time, `int32[1, D]`, for a score `[1]`. Arrays
            bound in a `jax.tree_util.Partial` travel as arguments of the compiled program; those of
            a closure are built into it.
        key: A key from `jax.random.key`; `jax.vmap` over it gives a search for each seed.
        num_evaluations: How many architectures to score, `T`.
        keep: `keep(arch)`, `bool[]`, traceable: which architectures `int32[D]` are worth a score.
            What it refuses costs nothing: the strategy is asked again, and every eighth time told
            -inf, so that one that draws nothing goes on. After 10,000 refusals in a row the last
            one stands, with -inf for a score.
        jit: Whether to compile the whole search into one `jax.lax.scan`. False is for a `score_fn`
            that JAX cannot trace, a table or a training run: it gets NumPy arrays.

    Raises:
        ValueError: If `num_evaluations` is not positive, if `score_fn` gives another shape than
            `[1]`, or if `jit` is true and `score_fn` cannot be traced.

    Examples:
        >>> import jax
        >>> from jaxnas import search
        >>> history = search.run(
        ...     search.regularized_evolution((4,) * 3),
        ...     lambda archs: archs.sum(1),
        ...     key=jax.random.key(0),
        ...     num_evaluations=60,
        ... )
        >>> history.best_arch.tolist()
        [3, 3, 3]
    """
    check.instance("strategy", strategy, SearchStrategy, "a SearchStrategy")
    check.instance("score_fn", score_fn, Callable, "a function of architectures")
    check.instance("keep", keep, Callable | None, "a function of an architecture, or None")
    check.key("key", key)
    check.integer("num_evaluations", num_evaluations, 1)
    if jit:
        if not isinstance(score_fn, jax.tree_util.Partial):
            score_fn = jax.tree_util.Partial(score_fn)
        return _scan(strategy, score_fn, keep, key, num_evaluations)
    return _loop(strategy, score_fn, keep, key, num_evaluations)


@partial(jax.jit, static_argnames=("strategy", "keep", "num_evaluations"))
def _scan(
    strategy: SearchStrategy,
    score_fn: ScoreFn,
    keep: Keep | None,
    key: Array,
    num_evaluations: int,
) -> History:
    init_key, ask_key = jax.random.split(key)

    def step(state: Any, t: Array) -> tuple[Any, History]:
        arch, kept, state = _ask(strategy, keep, jax.random.fold_in(ask_key, t), state)
        try:
            scores = score_fn(arch[None])
        except (TypeError, IndexError) as error:  # the bases of all that JAX raises at a tracer
            raise ValueError(
                f"score_fn must be traceable by JAX: got {type(error).__name__} in its trace; pass "
                "jit=False to call it in a Python loop instead."
            ) from error
        score = jnp.where(kept, _finite(scores), -jnp.inf)
        return strategy.tell(state, arch, score), History(arch, score)

    return jax.lax.scan(step, strategy.init(init_key), jnp.arange(num_evaluations))[1]


def _loop(
    strategy: SearchStrategy,
    score_fn: ScoreFn,
    keep: Keep | None,
    key: Array,
    num_evaluations: int,
) -> History:
    init_key, ask_key = jax.random.split(key)
    ask, tell = jax.jit(partial(_ask, strategy, keep)), jax.jit(strategy.tell)
    state = strategy.init(init_key)
    steps = []
    for t in range(num_evaluations):
        arch, kept, state = ask(jax.random.fold_in(ask_key, t), state)
        score = _finite(score_fn(np.asarray(arch)[None]) if kept else np.array([-np.inf]))
        state = tell(state, arch, score)
        steps.append(History(arch, score))
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *steps)


def _ask(
    strategy: SearchStrategy, keep: Keep | None, key: Array, state: Any
) -> tuple[Array, Array | bool, Any]:
    """Return the next architecture, whether it is kept, and the state of the strategy."""
    if keep is None:
        return strategy.ask(key, state), True, state

    def again(tried: tuple[Array, Array, Array, Any]) -> tuple[Array, Array, Array, Any]:
        count, arch, _, state = tried
        refused = strategy.tell(state, arch, jnp.float32(-jnp.inf))
        tell = count % _ASKED_BEFORE_TOLD == 0
        state = jax.tree.map(lambda old, new: jnp.where(tell, new, old), state, refused)
        arch = strategy.ask(jax.random.fold_in(key, count), state)
        return count + 1, arch, keep(arch), state

    arch = strategy.ask(key, state)
    _, arch, kept, state = jax.lax.while_loop(
        lambda tried: ~tried[2] & (tried[0] < _MOST_REFUSALS),
        again,
        (jnp.int32(1), arch, keep(arch), state),
    )
    return arch, kept, state


def _finite(scored: ArrayLike) -> Array:
    scores = jnp.asarray(scored, jnp.float32)
    if scores.shape != (1,):
        raise ValueError(
            f"score_fn must return one score an architecture, shape [1] for archs of shape [1, D]: "
            f"got {list(scores.shape)}."
        )
    return jnp.where(jnp.isfinite(scores), scores, -jnp.inf)[0]
