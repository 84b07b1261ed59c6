"""Searching a space without training: the best architectures by a score, within caps on costs."""

import copy
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from jaxnas import calibration, check, encoding, processes, search
from jaxnas.proxies import cost, resolve
from jaxnas.runs import Part, Plot, Report, Table, Winner, figures, save, scalar_writer, track
from jaxnas.scorer import Scorer, Scores
from jaxnas.trainer import Trainer
from jaxnas.types import FAILED, Array, Proxy, ScoreFn, SearchSpace, SearchStrategy

EXHAUSTIVE = "exhaustive"
STRATEGIES = (EXHAUSTIVE, *search.BY_NAME)
_MOST_ENUMERATED = 2**20
_MOST_FRUITLESS = 200
_LATENCY = cost.latency_ms()
_TOLERANCE = 1.1  # of a latency that is measured again


class Found(NamedTuple):
    """What a search found.

    Attributes:
        scores: of the architectures that were scored, in the order of the search. Aggregates are
            ranks among all of them.
        costs: what the caps are about, by name, `float64[T]`, of the same architectures.
        num_refused: how many architectures were asked for and refused: by a cap, or because the
            space has no such network.
        scorer: that of the search, for more.
    """

    scores: Scores
    costs: dict[str, NDArray[np.float64]]
    num_refused: int
    scorer: Scorer

    def __repr__(self) -> str:
        name = self.scores.first
        return (
            f"Found({self.space.to_string(self.best)}, the best by {name} of "
            f"{len(self.scores.archs)} {self.space.name} architectures)"
        )

    @property
    def space(self) -> SearchSpace:
        """The space that was searched."""
        return self.scores.space

    @property
    def best(self) -> np.ndarray:
        """The best architecture, `int32[D]`; of equals, the first that was scored."""
        return self.top(1)[0]

    def top(self, k: int) -> np.ndarray:
        """Return the best `k` architectures that are different functions, `int32[<=k, D]`."""
        return self.scores.archs[self._first(k)]

    def _first(self, k: int) -> list[int]:
        """Return the positions of `top(k)`."""
        found: dict[bytes, int] = {}
        for position in self.scores.order().tolist():
            arch = self.scores.archs[position]
            found.setdefault(self.space.representative(arch).tobytes(), position)
            if len(found) == k:
                break
        return list(found.values())

    def pareto(self, name: str = "params") -> pd.DataFrame:
        """Return what nothing beats in both its score and a cost, by rising cost; see `to_frame`.

        Args:
            name: of the cost: `params`, `flops`, `latency_ms`, or one of the caps.
        """
        costs = self.costs.get(name)
        if costs is None:
            costs = _costs(self.scorer, [_cost(name)], self.scores.archs)[name]
        first = self.scores.mean(self.scores.first)
        scored = np.flatnonzero(np.isfinite(first) & np.isfinite(costs))
        front = scored[search.pareto_front(costs[scored], first[scored])]
        return self.to_frame(front).assign(**{name: costs[front]})

    def to_frame(self, positions: Sequence[int] | np.ndarray | None = None) -> pd.DataFrame:
        """Return a row for each architecture, in the order of the search; see `Scores.to_frame`.

        Costs follow under their names, and `best so far` is the first score. The index is the
        position in the search.

        Args:
            positions: of the wanted rows, in their order; None for all.
        """
        at = check.positions(range(len(self.scores.archs)) if positions is None else positions)
        costs = {name: cost[at] for name, cost in self.costs.items()}
        best = np.maximum.accumulate(self.scores.mean(self.scores.first))[at]
        frame = self.scores.take(at).to_frame().set_index(at)
        return frame.assign(**costs, **{"best so far": best})

    def validate(self, trainer: Trainer | ScoreFn, k: int = 10) -> pd.DataFrame:
        """Train the best `k` and return them, first what is best on examples that were held out.

        Args:
            trainer: trains architectures `int32[A, D]`: a `Trainer`, or a function of yours that
                returns numbers `[A]` of which more is better.
            k: how many to train.

        Returns:
            Columns `arch`, the first score, and what the trainer `decides` by, such as
            `validation %` (`trained` for a function); and `test %`, if it has a data set.
        """
        check.instance("trainer", trainer, Callable, "a Trainer or a function")
        best, first, decides = self._first(k), self.scores.first, _decides(trainer)
        archs = self.scores.archs[best]
        found = trainer(archs)
        names = [self.space.to_string(arch) for arch in archs]
        frame = pd.DataFrame(
            {
                "arch": names,
                first: self.scores.mean(first)[best],
                decides: found,
            }
        )
        if isinstance(trainer, Trainer) and trainer.test_accuracy:
            frame["test %"] = [trainer.test_accuracy[name] for name in names]
        return frame.sort_values(decides, ascending=False, kind="stable", ignore_index=True)

    def percentiles(
        self, trainer: Trainer | ScoreFn, k: int = 10, *, seed: int = 0
    ) -> pd.DataFrame:
        """Train `k` of the networks, spread over the order; say where all of them should stand.

        See `calibration.percentiles`.

        Args:
            trainer: see `validate`.
            k: how many to train, four or more.
            seed: of the choice, and of the draws behind the intervals.

        Returns:
            A row for each network that has a score, best first: `arch`, the first score,
            `percentile` (100 is the most accurate of these networks) with its 90 % interval from
            `low` to `high`, and what the trainer `decides` by, nan where it was not trained.
        """
        first, (scored, few) = self.scores.first, self._spread(trainer, k, seed)
        score, known = scored.mean(first), np.full(len(scored.archs), np.nan)
        known[few] = trainer(scored.archs[few])
        expected = calibration.percentiles(score, few, known[few], seed=seed)
        names = list(map(self.space.to_string, scored.archs))
        frame = pd.DataFrame({"arch": names, first: score, "percentile": expected.expected})
        return frame.assign(low=expected.low, high=expected.high, **{_decides(trainer): known})

    def advantage(
        self,
        trainer: Trainer | ScoreFn,
        k: int = 10,
        *,
        control: str | Proxy = "params",
        seed: int = 0,
    ) -> float:
        """Return how probable it is that the first score orders networks better than a control.

        The networks that are trained are those of `percentiles`; see `calibration.advantage`.

        Args:
            trainer: see `validate`.
            k: how many to train, four or more.
            control: the score to compare with.
            seed: of the choice, and of the bootstrap.
        """
        scored, few = self._spread(trainer, k, seed)
        archs, (proxy,) = scored.archs[few], resolve(control)
        others = self.scorer.of([proxy])(archs).mean(proxy.name)
        ours = scored.mean(self.scores.first)[few]
        return calibration.advantage(ours, others, trainer(archs), seed=seed)

    def _spread(
        self, trainer: Trainer | ScoreFn, k: int, seed: int
    ) -> tuple[Scores, NDArray[np.int64]]:
        """Return what has a score, best first, and `k` positions that are spread over it."""
        check.instance("trainer", trainer, Callable, "a Trainer or a function")
        first, order = self.scores.first, self.scores.order()
        scored = self.scores.take(order[np.isfinite(self.scores.mean(first)[order])])
        check.integer("k", k, 4, max(4, len(scored.archs)), "; train four of them or more.")
        return scored, calibration.spread(scored.mean(first), k, seed=seed)

    def report(self, folder: str | Path, k: int = 20) -> Path:
        """Write the best `k` and the course of the search into `report.html`; return its path."""
        return save(self.as_report(k), folder)

    def as_report(self, k: int = 20) -> Report:
        """Return the report: what was scored, what was found, the best `k`, and the course."""
        first, best = self.scores.first, self._first(k)
        score, count = self.scores.mean(first), len(self.scores.archs)
        frame = self.to_frame(best)
        course = pd.Series(np.maximum.accumulate(score), np.arange(1, count + 1))
        refused = f" {self.num_refused} more were refused." if self.num_refused else ""
        parts: list[Part] = [
            picture(self.scores, *list(self.costs.items())[:1]),
            winner(
                self.space,
                self.best,
                f"Best by {first} of {count} architectures; no network was trained.{refused} "
                f"All scores of this setting have cost {self.scores.cpu_seconds:.0f} CPU seconds, "
                "compilation included.",
            ),
            ranking(
                f"The best {len(best)}, each another function",
                *(frame.drop(columns="best so far"), self.scores),
            ),
            Plot(
                "The course of the search",
                figures.curves(
                    {first: course[np.isfinite(course)]},
                    x="architectures scored",
                    y=f"best {first}",
                ),
                f"The best {first} after each architecture that was scored.",
            ),
        ]
        batch = f"{len(self.scores.seeds)} draw(s) of weights and examples"
        return Report(f"A search of {self.space.name}", f"By {first}, {batch}.", parts)


def _decides(trainer: Trainer | ScoreFn) -> str:
    return trainer.decides if isinstance(trainer, Trainer) else "trained"


def picture(scores: Scores, cost_of: tuple[str, NDArray[np.float64]] | None = None) -> Plot:
    """Return the section of a report with the first score of each network over a cost.

    Args:
        scores: what was scored; the best 20 are ringed.
        cost_of: name and values `[A]` of the cost; None is #params.
    """
    first, best = scores.first, scores.order()[:20].tolist()
    name, costs = cost_of or ("#params", cost.params_of(scores.space, scores.archs))
    figure = figures.score_versus_cost(
        scores.mean(first), costs, score_name=first, cost_name=name, highlight=best
    )
    return Plot(
        f"The score and {name}",
        figure,
        f"{first} of {len(scores.archs)} networks over {name}; the best {len(best)} are ringed.",
        names=[scores.space.to_string(arch) for arch in scores.archs],
    )


def winner(space: SearchSpace, arch: np.ndarray, text: str = "") -> Winner:
    """Return the section of a report with the best architecture, drawn where the space knows how.

    Args:
        space: that of the architecture.
        arch: `int32[D]`.
        text: what there is to say about it.
    """
    return Winner("The best", space.to_string(arch), space.cells(arch) if space.cells else {}, text)


def ranking(title: str, frame: pd.DataFrame, scores: Scores) -> Table:
    """Return the section of a report with architectures, best first: numbered, long names last.

    Args:
        title: its heading.
        frame: the rows, from `Scores.to_frame`.
        scores: all of the pool. What is one and the same number for most of it is named in a note.
    """
    shown = frame.drop(columns="arch").assign(arch=frame["arch"])
    if not frame["missing"].any():
        shown = shown.drop(columns="missing")
    shown.insert(0, "rank", np.arange(1, len(frame) + 1))
    return Table(title, shown, " ".join(_ties(scores)))


def _ties(scores: Scores) -> Iterator[str]:
    """Yield a sentence for each score, or part of one, that most networks have in common."""
    for name, draws in (scores.scores | scores.measured).items():
        scored = draws.mean(0)[np.isfinite(draws).all(0)]
        values, counts = np.unique(scored, return_counts=True)
        if counts.max(initial=0) > max(3, len(scored) / 2):
            yield (
                f"{name} is {values[counts.argmax()]:.4g} for {counts.max()} of {len(scored)} "
                "networks, which it does not order; if it reads examples, more of them may help."
            )


def find(
    scorer: Scorer,
    strategy: str | SearchStrategy = "regularized_evolution",
    *,
    evaluations: int | None = None,
    seed: int = 0,
    caps: Mapping[str | Proxy, float] | None = None,
    at_once: int = 8,
    writer: Any = None,
) -> Found:
    """Return what a search by the first score of a scorer finds; no network is trained.

    The strategy is told scores as they stand: an aggregate such as `panel` ranks all that have been
    scored so far, so that older scores change, and the strategy learns all of them anew. An
    architecture that it asks for again costs nothing, and one that exceeds a cap is told as the
    worst. Same seed, same result; with a store, a search that was killed goes on where it stood.

    Args:
        scorer: scores the space; its first score is made as large as possible.
        strategy: a name of `search.BY_NAME`, `exhaustive` for the whole space, or a strategy.
        evaluations: how many different architectures to score; 100 if None, but all of the space of
            an exhaustive search.
        seed: of the search.
        caps: the largest allowed value of a score, by its name: `params`, `flops`, any other, or
            `latency_ms` (see `proxies.cost.latency_ms`). The winner is timed again, and where it
            exceeds its cap by more than a tenth, the next best takes its place.
        at_once: for how many architectures the strategy is asked before it is told; 1 for
            `local_search`, which takes one step at a time.
        writer: where progress goes, each time that networks were scored: a metric writer of CLU, or
            a `SummaryWriter` of Flax, tensorboardX or PyTorch. The step is the number of networks
            scored. The scalars are `search/seconds`, `search/refused`, and for each score and its
            parts the value of the network that leads, as `best/NAME`.

    Raises:
        ValueError: an unknown strategy or score, a number that is not positive, a space that is too
            large for an exhaustive search, no architecture within the caps, or none with a score.

    Examples:
        >>> import jaxnas
        >>> space = jaxnas.spaces.nasbench201(channels=4, cells=1)
        >>> data = jaxnas.datasets.load("cifar10-sample")
        >>> scorer = jaxnas.Scorer(space, data, by="flops", batch_size=8)
        >>> found = jaxnas.find(scorer, "random", evaluations=5, caps={"params": 20_000})
        >>> bool((found.costs["params"] <= 20_000).all())
        True
    """
    check.instance("scorer", scorer, Scorer, "a Scorer")
    if not isinstance(strategy, SearchStrategy):
        check.choice("strategy", strategy, STRATEGIES)
    check.integer("at_once", at_once, 1)
    if evaluations is not None:
        check.integer("evaluations", evaluations, 1)
    check.integer("seed", seed, 0, 2**32 - 1)
    write = scalar_writer(writer)
    check.instance("caps", caps, Mapping | None, "limits by the names of scores")
    limits = {
        _cost(name): check.real(f"A cap of {name}", item) for name, item in (caps or {}).items()
    }
    if strategy == EXHAUSTIVE:
        met = _everything(scorer.space, evaluations)
        archs = met[_is_within(_costs(scorer, limits, met), limits)]
        scores = scorer(archs) if len(archs) else None
        if scores is not None:
            write(len(archs), _progress(scores, len(met)))
    else:
        wanted = 100 if evaluations is None else evaluations
        at_once = 1 if strategy == "local_search" else at_once
        chosen = _strategy(strategy, scorer.space)
        rounds = _rounds(scorer, chosen, limits, wanted, seed, at_once)
        written = 0
        shown = track(rounds, wanted, "searching") if scorer.progress else rounds
        for scores, codes in shown:
            if scores is not None and len(scores.archs) > written:
                written = len(scores.archs)
                write(written, _progress(scores, len(codes)))
        met = np.array([np.frombuffer(code, np.int32) for code in codes])
    if scores is None:
        if not limits:
            raise ValueError(
                f"A search needs networks of the space, by SearchSpace.is_legal: got none among "
                f"{len(met)}; use another strategy."
            )
        named = ", ".join(f"{proxy.name} <= {limit:g}" for proxy, limit in limits.items())
        why = _failure(scorer.of(list(limits))(met[:8])) or "raise them"
        raise ValueError(
            f"An architecture must be within the caps {named}: got none among {len(met)}; {why}."
        )
    if not np.isfinite(scores.mean(scores.first)).any():
        why = _failure(scores) or "see Scores.unscored"
        raise ValueError(
            f"A search needs an architecture with a score: got none among {len(scores.archs)}; "
            f"{why}."
        )
    num_refused = len(met) - len(scores.archs)
    found = Found(scores, _costs(scorer, limits, scores.archs), num_refused, scorer)
    return _confirmed(found, limits[_LATENCY]) if _LATENCY in limits else found


def _failure(scores: Scores) -> str:
    """Return why the first of the scores that failed did so, "" if none did."""
    reasons = [reason for name in scores.scores for reason in scores.unscored(name)]
    return next((reason.rstrip(".") for reason in reasons if reason.startswith(FAILED)), "")


def _confirmed(found: Found, limit: float) -> Found:
    """Return what was found without the winners that are slower than allowed when timed again.

    Each process of several would time others; there, all keep to what the store has.
    """
    clock = found.scorer.of(_LATENCY).anew()
    while processes.shard()[1] == 1:
        if clock(found.top(1)).mean(_LATENCY.name)[0] <= _TOLERANCE * limit:
            break
        kept = (found.scores.archs != found.best).any(1)
        if not np.isfinite(found.scores.mean(found.scores.first)[kept]).any():
            raise ValueError(
                f"No network that has a score is within {_LATENCY.name} <= {limit:g} when timed "
                "again: raise the cap, or search on a machine without other work."
            )
        costs = {name: cost[kept] for name, cost in found.costs.items()}
        scores = found.scorer(found.scores.archs[kept])
        found = Found(scores, costs, found.num_refused + 1, found.scorer)
    return found


def _rounds(
    scorer: Scorer,
    strategy: SearchStrategy,
    limits: Mapping[Proxy, float],
    wanted: int,
    seed: int,
    at_once: int,
) -> Iterator[tuple[Scores | None, Collection[bytes]]]:
    """Yield all scores so far and the bytes of all architectures met, once for each new one."""
    quiet = copy.copy(scorer)
    quiet.progress = False
    init_key, ask_key = jax.random.split(jax.random.key(seed))
    ask = jax.jit(jax.vmap(strategy.ask, (0, None)))
    archs = np.empty((0, len(scorer.space.num_choices)), np.int32)
    asked: list[np.ndarray] = []
    met: dict[bytes, int | None] = {}  # the position among the scored; None if it was refused
    scores: Scores | None = None
    fruitless = 0
    while len(archs) < wanted and fruitless < _MOST_FRUITLESS:
        # The strategy learns what is known, as it now stands, and asks for several.
        known = np.array([]) if scores is None else scores.mean(scores.first)
        told = [-np.inf if at is None else known[at] for at in (met[a.tobytes()] for a in asked)]
        state = _told(strategy, init_key, asked, told, archs.shape[1])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(ask_key, len(asked) + jnp.arange(at_once))
        proposed = np.asarray(ask(keys, state), np.int32)[: wanted - len(archs)]
        different = {arch.tobytes(): arch for arch in proposed}
        asked += different.values()

        # What is new, a network of the space and within the caps is scored.
        new = np.array([arch for code, arch in different.items() if code not in met], np.int32)
        met |= dict.fromkeys(arch.tobytes() for arch in new)
        legal = scorer.space.legal(new.reshape(-1, archs.shape[1]))
        legal = legal[_is_within(_costs(quiet, limits, legal), limits)] if len(legal) else legal
        met |= {arch.tobytes(): len(archs) + at for at, arch in enumerate(legal)}
        fruitless = 0 if len(legal) else fruitless + 1
        if len(legal):
            archs = np.concatenate([archs, legal])
            scores = quiet.extended(scores, legal)
        for _ in legal:
            yield scores, met.keys()
    if scores is None:
        yield scores, met.keys()


def _progress(scores: Scores, count: int) -> dict[str, float]:
    """Return what a writer is told of a search that has met `count` architectures."""
    leads = int(np.argmax(scores.mean(scores.first)))
    best = {name: each.mean(0)[leads] for name, each in (scores.measured | scores.scores).items()}
    told = {f"best/{name}": float(value) for name, value in best.items() if np.isfinite(value)}
    refused = float(count - len(scores.archs))
    return {"search/seconds": scores.cpu_seconds, "search/refused": refused, **told}


def _costs(
    scorer: Scorer, limits: Collection[Proxy], archs: np.ndarray
) -> dict[str, NDArray[np.float64]]:
    """Return what the caps are about, by name, `[A]`: nan, within no cap, where there is none."""
    if not limits:
        return {}
    measured = scorer.of(list(limits))(archs)
    return {
        proxy.name: np.where(
            (measured.status[proxy.name] == "ok").all(0), measured.mean(proxy.name), np.nan
        )
        for proxy in limits
    }


def _is_within(
    costs: Mapping[str, NDArray[np.float64]], limits: Mapping[Proxy, float]
) -> NDArray[np.bool_] | slice:
    """Return which architectures exceed no cap."""
    within = [costs[proxy.name] <= limit for proxy, limit in limits.items()]
    return np.logical_and.reduce(within) if within else slice(None)


@functools.partial(jax.jit, static_argnums=0)
def _tell_all(
    strategy: SearchStrategy, key: Array, archs: Array, scores: Array, count: Array
) -> Any:
    """Return the state of a strategy that was told the first `count` of the scores."""

    def tell(state: Any, told: tuple[Array, Array, Array]) -> tuple[Any, None]:
        position, arch, score = told
        after = strategy.tell(state, arch, score)
        is_told = position < count
        return jax.tree.map(lambda old, new: jnp.where(is_told, new, old), state, after), None

    told = jnp.arange(len(archs)), archs, scores
    return jax.lax.scan(tell, strategy.init(key), told)[0]


def _told(
    strategy: SearchStrategy,
    key: Array,
    asked: list[np.ndarray],
    scores: list[float],
    num_decisions: int,
) -> Any:
    """Return the state of a strategy that was told these scores, in this order."""
    size = 2 ** max(6, math.ceil(math.log2(len(asked) + 1)))  # few sizes, few programs
    archs, values = np.zeros((size, num_decisions), np.int32), np.zeros(size, np.float32)
    archs[: len(asked)] = asked or archs[:0]
    values[: len(asked)] = scores
    return _tell_all(strategy, key, archs, values, len(asked))


def _strategy(strategy: str | SearchStrategy, space: SearchSpace) -> SearchStrategy:
    if isinstance(strategy, SearchStrategy):
        return strategy
    return search.BY_NAME[strategy](space.num_choices)


def _everything(space: SearchSpace, evaluations: int | None) -> np.ndarray:
    size = math.prod(space.num_choices)
    if evaluations is not None or size > _MOST_ENUMERATED:
        raise ValueError(
            f"An exhaustive search scores the whole space, at most {_MOST_ENUMERATED}: got "
            f"evaluations={evaluations} and {size} architectures; use another strategy."
        )
    return encoding.enumerate_archs(space.num_choices)


def _cost(name: str | Proxy) -> Proxy:
    return _LATENCY if name == _LATENCY.name else resolve(name)[0]
