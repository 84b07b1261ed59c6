"""Score a pool of architectures into a store: nothing is lost or done twice, whatever happens."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import encoding, proxies
from jaxnas.population import score_space
from jaxnas.runs import ScoreRow, ScoreStore, track
from jaxnas.types import Batch, Proxy, SearchSpace

_FLUSH_SECONDS = 2.0


class PoolScores(NamedTuple):
    """The scores of a pool.

    Attributes:
        scores: by name of the proxy, `float64[S, A]`; `-inf` where `status` is not "ok".
        status: by name, `object[S, A]`: "ok", "disconnected", "no gradient", "not finite" or
            "failed: reason".
        cpu_seconds: process CPU seconds spent on what is shown, in this and earlier runs.
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
    chosen: Iterable[str | Proxy],
    *,
    store: ScoreStore,
    context: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
    plan: str = "auto",
) -> PoolScores:
    """Return the scores of the pool, computing those that the store does not hold yet.

    Scores are written every two seconds, so that a killed run loses no more than that and a run
    that is started again goes on where it stood; its table is the same, bit for bit.

    Args:
        space: the search space.
        archs: `int32[A, D]`, each once.
        batch: `batch(seed)`, the examples of a seed.
        chosen: names of proxies, or `Proxy` values.
        store: an open store.
        context: what determines the scores besides the space and the seed: the data and their
            digest, the batch size, versions. `run_context` gives the usual.
        seeds: one draw of weights and examples each.
        plan: see `jaxnas.score_space`.

    Raises:
        ValueError: see `jaxnas.score_space`; or an architecture is there twice.
    """
    chosen = proxies.resolve(chosen)
    archs = encoding.validate_archs(archs, space.num_choices)
    strings = [space.to_string(arch) for arch in archs]
    if len(set(strings)) < len(strings):
        raise ValueError(
            f"Each architecture once: got {len(strings)} with {len(set(strings))} different; "
            "use search.sample_distinct or numpy.unique."
        )
    names = [proxy.name for proxy in chosen]
    run = store.open_run({"space": space.name, **space.options, "plan": plan, **context})
    done = store.done(run)

    def known(position: int, seed: int) -> bool:
        return all((strings[position], name, seed) in done for name in names)

    num_done = sum(known(position, seed) for seed in seeds for position in range(len(archs)))
    if num_done < len(seeds) * len(archs):
        results = score_space(space, archs, batch, chosen, seeds=seeds, plan=plan, skip=known)
        rows: list[ScoreRow] = []
        seconds, written = 0.0, time.monotonic()
        for result in track(results, len(seeds) * len(archs), "scoring", done=num_done):
            arch = strings[result.position]
            rows += [
                ScoreRow(arch, name, result.seed, result.scores[name], result.status[name])
                for name in names
            ]
            seconds += result.seconds
            if time.monotonic() - written > _FLUSH_SECONDS:
                store.add(run, rows, cpu_seconds=seconds)
                rows, seconds, written = [], 0.0, time.monotonic()
        store.add(run, rows, cpu_seconds=seconds)
    return _collect(store, run, strings, names, seeds)


def run_context(**determining: Any) -> dict[str, Any]:
    """Return `determining` with the versions and the backend that also decide the last bits."""
    import jaxnas

    return {
        **determining,
        "version_jaxnas": jaxnas.__version__,
        "version_jax": jax.__version__,
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
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
