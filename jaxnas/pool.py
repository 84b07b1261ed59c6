"""Score a pool of architectures into a store: nothing is lost or done twice, whatever happens."""

import importlib.metadata
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import encoding, processes, proxies
from jaxnas.population import Scored, resolve_plan, score_space
from jaxnas.runs import ScoreRow, ScoreStore, track
from jaxnas.types import Batch, Proxy, SearchSpace

_FLUSH_SECONDS = 2.0
_PACKAGES = ("jaxnas", "jax", "jaxlib", "flax", "numpy")
_SWITCHES = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")


class PoolScores(NamedTuple):
    """The scores of a pool.

    Attributes:
        scores: by name of the proxy, `float64[S, A]`; `-inf` where `status` is not "ok".
        status: by name, `object[S, A]`: "ok", "disconnected", "no gradient", "not finite" or
            "failed: reason".
        cpu_seconds: process CPU seconds, compilation included, that scores of this setting have
            cost so far in this store, shown here or not.
    """

    scores: dict[str, NDArray[np.float64]]
    status: dict[str, NDArray[np.object_]]
    cpu_seconds: float

    def mean(self, name: str) -> NDArray[np.float64]:
        """Return the mean over seeds, `[A]`; `-inf` if one seed has no score."""
        return self.scores[name].mean(0)

    def sd(self, name: str) -> NDArray[np.float64]:
        """Return the standard deviation over seeds (`ddof=1`), `[A]`; nan where undefined."""
        scores = self.scores[name]
        defined = np.isfinite(scores).all(0) & (len(scores) > 1)
        return np.where(
            defined, np.where(defined, scores, 0).std(0, ddof=min(1, len(scores) - 1)), np.nan
        )

    def unscored(self, name: str) -> dict[str, int]:
        """Return how many of the `S x A` scores are missing, by reason."""
        reasons, counts = np.unique(self.status[name].astype(str), return_counts=True)
        return {r: int(c) for r, c in zip(reasons, counts, strict=True) if r != "ok"}


def score_pool(
    space: SearchSpace,
    archs: ArrayLike,
    batch: Callable[[int], Batch],
    chosen: str | Iterable[str | Proxy],
    *,
    store: ScoreStore,
    context: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
    plan: str = "auto",
    deduplicate: bool = True,
) -> PoolScores:
    """Return the scores of the pool, computing those that the store does not hold yet.

    Scores are written every two seconds, so that a killed run loses no more than that and a run
    that is started again goes on where it stood; its table is the same, bit for bit. Several
    processes of one `jax.distributed` job, each with this store open, share the work.

    Args:
        space: the search space.
        archs: `int32[A, D]`, each once.
        batch: `batch(seed)`, the examples of a seed.
        chosen: names of proxies, or `Proxy` values; the store knows them by name, so a proxy of
            your own that has changed needs another name.
        store: an open store.
        context: what determines the scores besides the space and the seed: the data and their
            digest, the batch size, versions. `run_context` gives the usual.
        seeds: one draw of weights and examples each.
        plan: see `jaxnas.score_space`.
        deduplicate: see `jaxnas.score_space`.

    Raises:
        ValueError: see `jaxnas.score_space`; or an architecture is there twice.
    """
    resolved = proxies.resolve(chosen)
    archs = encoding.validate_archs(archs, space.num_choices)
    strings = [space.to_string(arch) for arch in archs]
    if len(set(strings)) < len(strings):
        raise ValueError(
            f"Each architecture once: got {len(strings)} with {len(set(strings))} different; "
            "use search.sample_distinct or numpy.unique."
        )
    plan = resolve_plan(plan)
    options = {**space.options, "plan": plan, "deduplicate": deduplicate}
    setting = {"space": space.name, **options, **context}
    names = [proxy.name for proxy in resolved]
    _collect_parts(store)
    run = store.open_run(setting)
    missing = _missing(store.done(run), strings, names, seeds)

    def score(chosen: tuple[str, ...], pairs: set[tuple[int, int]]) -> Iterator[Scored]:
        return score_space(
            space,
            archs,
            batch,
            [proxy for proxy in resolved if proxy.name in chosen],
            seeds=seeds,
            plan=plan,
            deduplicate=deduplicate,
            shard=processes.shard(),
            skip=lambda position, seed: (position, seed) not in pairs,
            in_order=False,
        )

    results = itertools.chain.from_iterable(itertools.starmap(score, missing.items()))
    index, count = processes.shard()
    if index == 0:
        total, num_missing = len(strings) * len(seeds), sum(map(len, missing.values()))
        done = total - num_missing + num_missing * (count - 1) // count
        _write(store, run, strings, track(results, total, "scoring", done=done))
    else:
        with store.part(index) as part:
            _write(part, part.open_run(setting), strings, results)
    _collect_parts(store)
    return _collect(store, run, strings, names, seeds)


def _collect_parts(store: ScoreStore) -> None:
    """Wait for all processes, and let the first take over what the others have written."""
    processes.wait("scored")
    if processes.shard()[0] == 0:
        store.absorb_parts()
    processes.wait("collected")


def _missing(
    done: set[tuple[str, str, int]], strings: list[str], names: list[str], seeds: Sequence[int]
) -> dict[tuple[str, ...], set[tuple[int, int]]]:
    """Return `(position, seed)` of what is not done, by the names of the scores that it lacks."""
    missing: dict[tuple[str, ...], set[tuple[int, int]]] = {}
    for seed in seeds:
        for position, arch in enumerate(strings):
            lacking = tuple(name for name in names if (arch, name, seed) not in done)
            if lacking:
                missing.setdefault(lacking, set()).add((position, seed))
    return missing


def _write(store: ScoreStore, run: int, strings: list[str], results: Iterable[Scored]) -> None:
    """Write results as they come, in batches."""
    rows: list[ScoreRow] = []
    seconds, written = 0.0, time.monotonic()
    for result in results:
        arch = strings[result.position]
        rows += [
            ScoreRow(arch, name, result.seed, score, result.status[name])
            for name, score in result.scores.items()
        ]
        seconds += result.seconds
        if time.monotonic() - written > _FLUSH_SECONDS:
            store.add(run, rows, cpu_seconds=seconds)
            rows, seconds, written = [], 0.0, time.monotonic()
    store.add(run, rows, cpu_seconds=seconds)


def run_context(**determining: Any) -> dict[str, Any]:
    """Return `determining` with what else decides the last bits: versions, switches, device."""
    device = jax.devices()[0]
    return {
        **determining,
        **{f"version_{name}": importlib.metadata.version(name) for name in _PACKAGES},
        **{name: str(getattr(jax.config, name)) for name in _SWITCHES},
        "backend": jax.default_backend(),
        "device_kind": device.device_kind,
    }


def _collect(
    store: ScoreStore, run: int, strings: list[str], names: list[str], seeds: Sequence[int]
) -> PoolScores:
    frame = store.frame(run)
    scores, status = {}, {}
    for name in names:
        of_name = frame[frame["proxy"] == name].set_index("arch")
        by_seed = [of_name[of_name["seed"] == seed].loc[strings] for seed in seeds]
        scores[name] = np.stack([own["score"].to_numpy(np.float64) for own in by_seed])
        status[name] = np.stack([own["status"].to_numpy(object) for own in by_seed])
    return PoolScores(scores, status, store.cpu_seconds(run))
