"""From architectures to scores: each different function once, stored, resumed and shared."""

import collections
import copy
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, datasets, encoding, engine, processes, spaces
from jaxnas.engine import Score
from jaxnas.proxies import cost, expand
from jaxnas.proxies.measures import measure_all
from jaxnas.runs import ScoreRow, ScoreStore, run_context, track
from jaxnas.scoring import validate_batch, validate_network
from jaxnas.tasks import Loss, Targets, loss_name
from jaxnas.types import FAILED, Array, Batch, Params, Proxy, ScoreFn, SearchSpace, TrainableFn

_FLUSH_SECONDS = 2.0
_KEPT_DRAWS = 2


class _Scored(NamedTuple):
    """The scores of one architecture with one draw; `seconds` since the one before, of the CPU."""

    position: int
    seed: int
    scores: dict[str, Score]
    seconds: float


class Scores(NamedTuple):
    """The scores of some architectures.

    Attributes:
        space: the search space.
        archs: `int32[A, D]`.
        seeds: of the draws of weights and examples, `S` of them.
        scores: by name, the first of which `ranked` and `top` go by, `float64[S, A]`; larger is
            better. `-inf` where `status` is not "ok"; of an aggregate only where a part failed.
        status: by name, `object[S, A]`: "ok", "disconnected", "nothing to score", "not finite" or
            "failed: reason".
        measured: the parts of aggregates, and all else that was measured, as `scores`.
        seconds: process CPU seconds, compilation included, that each took now, `[S, A]`; nan where
            the score was known.
        cpu_seconds: what scores of this kind have cost so far in the store, shown here or not.
    """

    space: SearchSpace
    archs: np.ndarray
    seeds: tuple[int, ...]
    scores: dict[str, NDArray[np.float64]]
    status: dict[str, NDArray[np.object_]]
    measured: dict[str, NDArray[np.float64]]
    seconds: NDArray[np.float64]
    cpu_seconds: float

    def __repr__(self) -> str:
        return (
            f"Scores({len(self.archs)} {self.space.name} architectures, {len(self.seeds)} seed(s): "
            f"{', '.join(self.scores)})"
        )

    def mean(self, name: str) -> NDArray[np.float64]:
        """Return the mean over seeds, `[A]`; `-inf` if one seed has no score."""
        return self.scores[name].mean(0)

    def sd(self, name: str) -> NDArray[np.float64]:
        """Return the standard deviation over seeds (`ddof=1`), `[A]`; nan where undefined."""
        finite = pd.DataFrame(self.scores[name]).replace(-np.inf, np.nan)
        return finite.std(ddof=1, skipna=False).to_numpy()

    def unscored(self, name: str) -> dict[str, int]:
        """Return how many of the `S x A` scores are missing, by reason."""
        reasons, counts = np.unique(self.status[name].astype(str), return_counts=True)
        return {r: int(c) for r, c in zip(reasons, counts, strict=True) if r != "ok"}

    @property
    def first(self) -> str:
        """The name of the first score, which ranks."""
        return next(iter(self.scores))

    def order(self, name: str | None = None) -> NDArray[np.int64]:
        """Return the positions, best first, by a score or by the first one; equals as given."""
        return np.argsort(-self.mean(name or self.first), kind="stable")

    def top(self, k: int) -> np.ndarray:
        """Return the best `k` architectures by the first score, best first, `int32[k, D]`."""
        return self.archs[self.order()[:k]]

    def take(self, positions: ArrayLike) -> "Scores":
        """Return the scores at some positions; aggregates stay ranks among all, as they were."""
        at = check.positions(positions)

        def those(by_name: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {name: each[:, at] for name, each in by_name.items()}

        return self._replace(
            archs=self.archs[at],
            scores=those(self.scores),
            status=those(self.status),
            measured=those(self.measured),
            seconds=self.seconds[:, at],
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each architecture: means over seeds, and what is missing.

        Returns:
            Columns `arch` (the notation of the space), `#params`, one for each score, and `missing`
            with the reasons, "" where there are none. `#params` is nan of what cannot be built.
        """
        frame = pd.DataFrame(
            {
                "arch": [self.space.to_string(arch) for arch in self.archs],
                "#params": cost.params_of(self.space, self.archs),
                **{name: item.mean(0) for name, item in (self.scores | self.measured).items()},
            }
        )
        missing = []
        for position in range(len(self.archs)):
            names: dict[str, list[str]] = {}
            for name, status in self.status.items():
                for reason in dict.fromkeys(status[:, position]):
                    names.setdefault(reason, []).append(name)
            names.pop("ok", None)
            missing.append("; ".join(f"{why} ({', '.join(of)})" for why, of in names.items()))
        return frame.assign(missing=missing)

    def ranked(self) -> pd.DataFrame:
        """Return `to_frame` from the best to the worst by the first score."""
        return self.to_frame().iloc[self.order()].reset_index(drop=True)


class Scorer:
    """Scores the architectures of a space; call it with `archs`, `int32[A, D]`, for `Scores`.

    All architectures of a seed share the weights of the operations that they have in common. Each
    different function is scored once for all architectures that are that function, and what is in
    the store is not scored again. Scores are written every two seconds, so that a killed run loses
    no more than that; a run that is started again goes on where it stood, with the same numbers.
    Several processes that were joined (see `processes.join`), each with the same store, share the
    work. A disconnected architecture is not run: all its scores but counts are `-inf`.

    Examples:
        >>> import jaxnas
        >>> space = jaxnas.spaces.nasbench201(channels=4, cells=1)
        >>> data = jaxnas.datasets.load("cifar10-sample")
        >>> scorer = jaxnas.Scorer(space, data, by=["flops", "params"], batch_size=8)
        >>> scores = scorer([[1, 2, 3, 4, 2, 1], [0, 0, 0, 0, 0, 0]])
        >>> scores
        Scores(2 nasbench201 architectures, 1 seed(s): flops, params)
        >>> scores.ranked()["#params"].tolist()
        [8758, 4894]
    """

    def __init__(
        self,
        space: SearchSpace,
        data: datasets.Dataset | Batch | tuple[Any, Any] | Callable[[int], Batch],
        by: str | Proxy | Iterable[str | Proxy],
        *,
        batch_size: int = 64,
        loss: str | Loss | None = None,
        seeds: Sequence[int] = (0,),
        store: ScoreStore | str | Path | None = None,
        context: Mapping[str, Any] | None = None,
        plan: str = "auto",
        deduplicate: bool = True,
        progress: bool = True,
    ):
        """Prepare the scorer; nothing is scored yet.

        Args:
            space: the search space.
            data: a data set, from which each seed draws a batch; one batch `(inputs, labels)` for
                all seeds; or `data(seed)`, a batch.
            by: names of scores or of aggregates, or `Proxy` values. A store knows scores by name,
                so a proxy of yours that has changed needs another name.
            batch_size: examples of a batch that is drawn from a data set.
            loss: of another task than one class an example; see `score`.
            seeds: one draw of weights and examples each.
            store: an open `runs.ScoreStore`, or the file of one; None keeps scores in memory.
            context: what determines a score besides the space and the seed, for the store; see
                `runs.run_context`, which is the default with the digest of the first seed's batch.
            plan: `eager` runs architecture by architecture over small shared programs (best on a
                CPU), `compiled` compiles one program for all (best on GPU and TPU; not of a
                family), `auto` chooses.
            deduplicate: False scores each architecture by itself: those that are the same function
                then differ by their draws of weights.
            progress: show a progress bar where more than one architecture is to be scored.

        Raises:
            ValueError: an unknown proxy or plan, no seed, a seed that JAX would wrap, data of no
                known kind, or several processes without a store; and when called, architectures, a
                batch or networks that do not fit (see `score`).
        """
        self.space: SearchSpace = check.instance("space", space, SearchSpace, "a SearchSpace")
        check.integer("batch_size", batch_size, 1)
        check.instance("store", store, ScoreStore | check.PATH | None, "a ScoreStore or a file")
        check.instance("context", context, Mapping | None, "a mapping, or None")
        check.instance("deduplicate", deduplicate, bool, "True or False")
        check.instance("progress", progress, bool, "True or False")
        self.by = expand(by)
        self.seeds = _checked_seeds(seeds)
        self._plan = resolve_plan(plan, space)
        self._deduplicate = deduplicate
        self.progress = progress
        draw = _batches(data, batch_size, loss)
        self._batch = functools.lru_cache(1)(lambda seed: validate_batch(draw(seed), loss))
        first = self._batch(self.seeds[0])
        if space.num_params_for is not None:
            self.space = space._replace(num_params=space.num_params_for(first.inputs))
        self._draws: dict[int, engine.Draw] = {}
        self._met: dict[tuple[bytes, int], dict[str, Score]] = {}
        if store is None and processes.shard()[1] > 1:
            raise ValueError(
                "Several processes share their scores by a store: got none; name a file that all "
                "of them reach."
            )
        self._store = (
            store if isinstance(store, ScoreStore) else ScoreStore(store or ScoreStore.IN_MEMORY)
        )
        self._context = {
            "space": space.name,
            **space.options,
            "plan": self._plan,
            "deduplicate": deduplicate,
            **(run_context(batch=datasets.digest(first)) if context is None else context),
        }
        if isinstance(first.labels, Targets):
            self._context["loss"] = loss_name(first.labels, stored=store is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, by: str | Proxy | Iterable[str | Proxy]) -> "Scorer":
        """Return the same scorer, with the same store, of other scores."""
        other = copy.copy(self)
        other.by = expand(by)
        return other

    def anew(self) -> "Scorer":
        """Return the same scorer without what it remembers: it measures everything again."""
        other = copy.copy(self)
        other._store, other._met = ScoreStore(ScoreStore.IN_MEMORY), {}
        return other

    def close(self) -> None:
        """Close the store; what is scored is on disk already."""
        self._store.close()

    def __call__(self, archs: ArrayLike) -> Scores:
        """Return the scores of the architectures `int32[A, D]`, computing those not known yet."""
        archs = encoding.validate_archs(archs, self.space.num_choices)
        if archs.ndim != 2 or not len(archs):
            raise ValueError(
                f"Nothing to score: got shape {archs.shape}; pass int32[A, D] with A > 0."
            )
        strings = [self.space.to_string(arch) for arch in archs]

        # What is not known yet: positions by seed and by the names that they lack.
        _collect_parts(self._store)
        run = self._store.open_run(self._context)
        known = self._store.rows(run, strings)
        done = {key for key, (_, status) in known.items() if not status.startswith(FAILED)}
        lacking: dict[tuple[int, tuple[Proxy, ...]], list[int]] = {}
        for seed, timed in itertools.product(self.seeds, (True, False)):
            # What the clock measures goes first and by itself: nothing else may run beside it.
            asked = [p for p in self.by.proxies if (p.measure is cost.latency) == timed]
            for arch, position in {arch: at for at, arch in enumerate(strings)}.items():
                proxies = tuple(p for p in asked if (arch, p.name, seed) not in done)
                if proxies:
                    lacking.setdefault((seed, proxies), []).append(position)

        # Score it, this process its share, and write it as it comes.
        index, count = processes.shard()
        results: Iterable[_Scored] = self._score(archs, lacking)
        todo = sum(map(len, lacking.values()))
        if index > 0:
            with self._store.part(index) as part:
                taken = _write(part, part.open_run(self._context), strings, results)
        else:
            if self.progress and todo > 1:
                there = max(0, len(self.seeds) * len(strings) - todo)
                others = there + todo * (count - 1) // count
                results = track(results, there + todo, "scoring", done=others)
            taken = _write(self._store, run, strings, results)
        _collect_parts(self._store)

        # Everything by name, seed and position.
        known = self._store.rows(run, strings)
        values, reasons = {}, {}
        for proxy in self.by.proxies:
            rows = [known[arch, proxy.name, seed] for seed in self.seeds for arch in strings]
            shape = len(self.seeds), len(strings)
            values[proxy.name] = np.array([value for value, _ in rows]).reshape(shape)
            reasons[proxy.name] = np.array([reason for _, reason in rows], object).reshape(shape)
        status = self.by.status(reasons)
        seconds = [[taken.get((arch, seed), np.nan) for arch in strings] for seed in self.seeds]
        return Scores(
            space=self.space,
            archs=archs,
            seeds=self.seeds,
            scores=self.by.scores(values, status),
            status=status,
            measured=values,
            seconds=np.array(seconds),
            cpu_seconds=self._store.cpu_seconds(run),
        )

    def extended(self, scores: Scores | None, archs: ArrayLike) -> Scores:
        """Return `scores`, of this scorer, followed by those of more architectures `int32[A, D]`.

        Only the new ones are computed or read; aggregates rank all of them anew.
        """
        more = self(archs)
        if scores is None:
            return more

        def both(first: Mapping[str, NDArray[Any]], then: Mapping[str, NDArray[Any]]) -> Any:
            return {name: np.concatenate([first[name], then[name]], 1) for name in then}

        measured, status = both(scores.measured, more.measured), both(scores.status, more.status)
        return more._replace(
            archs=np.concatenate([scores.archs, more.archs]),
            scores=self.by.scores(measured, status),
            status=status,
            measured=measured,
            seconds=np.concatenate([scores.seconds, more.seconds], 1),
        )

    def traceable(self) -> ScoreFn:
        """Return `score_fn(archs)`, float32 `[A]`, for a search that is one compiled program.

        JAX can trace it; weights and examples travel as arguments. It is that of the first seed,
        runs every architecture that it is given, and knows no store. `Scorer` itself is faster
        wherever a program need not be one: see `search.run`.

        Raises:
            ValueError: several scores, an aggregate, `params`, which a space counts by itself, or
                a space whose networks have different shapes.
        """
        if not self.space.is_traceable:
            raise ValueError(
                f"A traceable score needs networks of one shape: got the family {self.space.name}; "
                "call the scorer, or search with jaxnas.find."
            )
        (proxy, *others), (name, *_) = self.by.proxies, self.by.names
        if others or proxy.name != name:
            raise ValueError(
                f"One score, measured of one network: got {', '.join(self.by.names)}; make a "
                "Scorer for it."
            )
        if proxy.measure is cost.num_params:
            raise ValueError("params is not measured in a space: use space.num_params.")
        batch, key = self._batch(self.seeds[0]), jax.random.key(self.seeds[0])
        params = self.space.init(jax.random.fold_in(key, 0), batch.inputs)
        score = functools.partial(_score_traced, self.space, proxy)
        return jax.tree_util.Partial(score, params, batch, key)

    def _score(
        self, archs: np.ndarray, lacking: Mapping[tuple[int, tuple[Proxy, ...]], list[int]]
    ) -> Iterator[_Scored]:
        """Yield what is lacking as it comes; the first of a seed pays for what is compiled."""
        start = time.process_time()
        plan = engine.eager if self._plan == "eager" else engine.compiled
        for (seed, proxies), positions in lacking.items():
            # The different functions, with the positions that each stands for: our share of them.
            functions: dict[bytes, list[int]] = {}
            for position in positions:
                arch = archs[position]
                stands = self.space.representative(arch) if self._deduplicate else arch
                function = np.asarray(stands, np.int32).tobytes()
                functions.setdefault(function, []).append(position)
            index, count = processes.shard()
            jobs = [np.frombuffer(function, np.int32) for function in functions][index::count]
            if not jobs:
                continue
            draw = self._draw(seed, jobs[0])

            # What needs no run: the disconnected, and functions that an earlier call has met.
            networked = tuple(proxy for proxy in proxies if proxy.measure not in cost.COUNTS)
            names = [proxy.name for proxy in networked]
            idle: list[tuple[bytes, dict[str, Score]]] = []
            running: list[np.ndarray] = []
            for arch in jobs:
                met = self._met.get((arch.tobytes(), seed), {})
                if not self.space.is_connected(arch):
                    met = dict.fromkeys(names, Score(-np.inf, "disconnected"))
                if met.keys() >= set(names):
                    idle.append((arch.tobytes(), {name: met[name] for name in names}))
                else:
                    running.append(arch)

            # Run the others. Counts are exact for each architecture of a function.
            ran = plan(draw, networked, np.array(running)) if running else ()
            found = ((running[at].tobytes(), scores) for at, scores in ran)
            for function, scores in itertools.chain(idle, found):
                if self._deduplicate:
                    ok = {n: s for n, s in scores.items() if not s.status.startswith(FAILED)}
                    self._met.setdefault((function, seed), {}).update(ok)
                for position in functions[function]:
                    counts = self._counts(draw, proxies, archs[position])
                    seconds, start = time.process_time() - start, time.process_time()
                    yield _Scored(position, seed, scores | counts, seconds)

    def _counts(
        self, draw: engine.Draw, proxies: tuple[Proxy, ...], arch: np.ndarray
    ) -> dict[str, Score]:
        """Return the scores that are counted, without a run; `params` is exact in a space."""

        def run(chosen: tuple[Proxy, ...]) -> list[np.ndarray]:
            (proxy,) = chosen
            if proxy.measure is cost.num_params:
                return [engine.reduce(chosen, [np.float64(self.space.num_params(arch))])]
            bound = self.space.bind(arch, draw.params)
            return [engine.values(chosen, *bound, draw.batch, draw.key)]

        counted = [(proxy,) for proxy in proxies if proxy.measure in cost.COUNTS]
        return {
            name: score
            for chosen in counted
            for name, score in engine.score_each(chosen, 1, run)[0].items()
        }

    def _draw(self, seed: int, arch: np.ndarray) -> engine.Draw:
        """Return the weights and examples of a seed; the last few are kept."""
        if seed not in self._draws:
            batch = self._batch(seed)
            key = jax.random.key(seed)
            params = self.space.init(jax.random.fold_in(key, 0), batch.inputs)
            space = self.space
            if space.is_traceable:
                validate_network(*space.bind(arch, params), batch)
            else:
                space = space._replace(bind=functools.partial(_bind_validated, space, batch))
            self._draws[seed] = engine.Draw(space, params, batch, key)
            while len(self._draws) > _KEPT_DRAWS:
                del self._draws[next(iter(self._draws))]
        return self._draws[seed]


def rank(
    models: Mapping[str, Any] | Sequence[Any],
    data: datasets.Dataset | Batch | tuple[ArrayLike, ArrayLike] | Callable[[int], Batch],
    by: str | Proxy | Iterable[str | Proxy] = "panel",
    **options: Any,
) -> Scores:
    """Return the scores of a few networks of anybody's; `ranked()` of them is the table.

        >>> import jax, jaxnas
        >>> from flax import linen as nn
        >>> def mlp(width):
        ...     flat = lambda images: images.reshape(len(images), -1)
        ...     return nn.Sequential([flat, nn.Dense(width), nn.relu, nn.Dense(10)])
        >>> batch = jax.numpy.ones((4, 8, 8, 3)), jax.numpy.arange(4)
        >>> models = {"small": mlp(8), "large": mlp(16)}
        >>> jaxnas.rank(models, batch, by="params", progress=False).ranked()["arch"].tolist()
        ['large', 'small']

    Args:
        models: by name, or a list, whose names are their positions. Each is what `build` of a
            family may give: see `jaxnas.spaces.family`.
        data: as of `Scorer`.
        by: as of `Scorer`.
        **options: of `Scorer`, but for `store`, which would know models by their names alone.

    Raises:
        ValueError: no models, or a store; and as `Scorer`. What is wrong with one model is in its
            row.
    """
    if options.get("store") is not None:
        raise ValueError(
            "A store would know models by their names alone: got one; describe the models by "
            "choices, as spaces.family does, and make a Scorer with the store."
        )
    named = dict(models) if isinstance(models, Mapping) else dict(enumerate(models))
    if not named:
        raise ValueError("Nothing to rank: got no models; pass {'small': model_a, ...}.")
    names = [str(name) for name in named]

    def networks(model: Any) -> Any:
        return named[model]

    space = spaces.family(networks, model=tuple(named))._replace(
        to_string=lambda arch: names[encoding.one(arch, (len(names),))[0]],
        from_string=lambda name: np.array([names.index(name)], np.int32),
    )
    return Scorer(space, data, by, **options)(encoding.enumerate_archs(space.num_choices))


def _bind_validated(
    space: SearchSpace, batch: Batch, arch: Any, params: Params
) -> tuple[TrainableFn, Params]:
    """Bind a candidate whose network is not that of the others: the batch may not fit it alone."""
    network, read = space.bind(arch, params)
    validate_network(network, read, batch)
    return network, read


def _score_traced(
    space: SearchSpace, proxy: Proxy, params: Params, batch: Batch, key: Array, archs: Array
) -> Array:
    def one(arch: Array) -> Array:
        measured = measure_all((proxy.measure,), *space.bind(arch, params), batch, key)
        is_scored = proxy.measure in cost.COUNTS or space.is_connected(arch)
        return jnp.where(is_scored, proxy.reduce(measured[0]), -jnp.inf)

    return jax.lax.map(one, archs)


def resolve_plan(plan: str, space: SearchSpace) -> str:
    """Return `eager` or `compiled`; `auto` is what suits the space and the default backend.

    Raises:
        ValueError: an unknown plan, or `compiled` of networks of different shapes.
    """
    check.choice("plan", plan, ("auto", "eager", "compiled"))
    if plan == "compiled" and not space.is_traceable:
        raise ValueError(
            f"The networks of {space.name} have different shapes and are no one program: got "
            "plan='compiled'; use auto or eager."
        )
    if plan == "auto":
        return "eager" if not space.is_traceable or jax.default_backend() == "cpu" else "compiled"
    return plan


def _batches(data: Any, batch_size: int, loss: str | Loss | None) -> Callable[[int], Any]:
    """Return `batch(seed)`, whatever kind the data are."""
    if isinstance(data, datasets.Dataset):
        return lambda seed: datasets.batch(data, batch_size, seed=seed)
    if callable(data):
        return data
    batch = validate_batch(data, loss)
    return lambda seed: batch


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    numbers = [seeds] if np.ndim(seeds) == 0 else check.items("seeds", seeds)
    if not numbers:
        raise ValueError("Seeds are integers, one or more: got none; pass (0,).")
    checked = tuple(
        check.integer("A seed", number, 0, 2**32 - 1, "; JAX would wrap another one.")
        for number in numbers
    )
    if len(set(checked)) < len(checked):
        raise ValueError(f"Seeds are different draws: got {list(checked)}; leave out what repeats.")
    return checked


def _collect_parts(store: ScoreStore) -> None:
    """Wait for all processes, and let the first take over what the others have written."""
    processes.wait("scored")
    if processes.shard()[0] == 0:
        store.absorb_parts()
    processes.wait("collected")


def _write(
    store: ScoreStore, run: int, strings: list[str], results: Iterable[_Scored]
) -> dict[tuple[str, int], float]:
    """Write results as they come, in batches; return the seconds by architecture and seed."""
    rows: list[ScoreRow] = []
    taken: dict[tuple[str, int], float] = collections.defaultdict(float)
    seconds, written = 0.0, time.monotonic()
    try:
        for result in results:
            arch = strings[result.position]
            rows += [
                ScoreRow(arch, name, result.seed, *score) for name, score in result.scores.items()
            ]
            taken[arch, result.seed] += result.seconds
            seconds += result.seconds
            if time.monotonic() - written > _FLUSH_SECONDS:
                store.add(run, rows, cpu_seconds=seconds)
                rows, seconds, written = [], 0.0, time.monotonic()
    finally:  # also of a run that is broken off
        store.add(run, rows, cpu_seconds=seconds)
    return taken
