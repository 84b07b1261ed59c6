"""Scoring populations: many architectures of a space, each different function once."""

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding, runners
from jaxnas.proxies import cost, resolve
from jaxnas.proxies.measures import measure_all
from jaxnas.scoring import (
    measures_of,
    reduce_scores,
    validate_batch,
    validate_network,
)
from jaxnas.types import Array, Batch, Params, Proxy, ScoreFn, SearchSpace


class Scored(NamedTuple):
    """The scores of one architecture with one draw of weights and images.

    Attributes:
        position: index into the architectures given.
        seed: of the weights and the batch.
        scores: by name of the proxy; larger is better, `-inf` where `status` is not "ok".
        status: by name; "ok", "disconnected", "no gradient", "not finite" or "failed: reason".
        seconds: process CPU seconds since the one before; the first of a seed pay for the weights
            and the compilation.
    """

    position: int
    seed: int
    scores: dict[str, float]
    status: dict[str, str]
    seconds: float


def score_space(
    space: SearchSpace,
    archs: ArrayLike,
    batch: Batch | Callable[[int], Batch],
    proxies: str | Iterable[str | Proxy],
    *,
    seeds: Sequence[int] = (0,),
    plan: str = "auto",
    deduplicate: bool = True,
    shard: tuple[int, int] = (0, 1),
    skip: Callable[[int, int], bool] = lambda position, seed: False,
    in_order: bool = True,
) -> Iterator[Scored]:
    """Yield the scores of many architectures, seed by seed, in order.

    All architectures of a seed share the weights of the operations that they have in common. A
    disconnected architecture is not run: all its scores but `params` are `-inf`.

    Args:
        space: the search space.
        archs: `int32[A, D]`.
        batch: the examples, or `batch(seed)` for a draw of images a seed.
        proxies: names from `jaxnas.proxies.BY_NAME`, or `Proxy` values.
        seeds: one draw of weights each.
        plan: `eager` runs architecture by architecture over small shared programs (best on a CPU),
            `compiled` compiles one program for all (best on GPU and TPU), `auto` chooses.
        deduplicate: score the representative of all architectures that are the same function, once,
            for all of them; otherwise they differ by their draws of weights. `params` is exact
            either way.
        shard: `(i, n)`: score only the i-th of n shares of the different architectures.
        skip: `skip(position, seed)`: leave out what is already known.
        in_order: False yields the scores of a seed as they come.

    Raises:
        ValueError: see `score`; or no architecture, no seed, an unknown plan, no such shard.
    """
    resolved = resolve(proxies)
    archs = encoding.validate_archs(archs, space.num_choices)
    if archs.ndim != 2 or not len(archs):
        raise ValueError(f"Nothing to score: got shape {archs.shape}; pass int32[A, D] with A > 0.")
    numbers = np.atleast_1d(np.asarray(seeds))
    if not numbers.size or numbers.dtype.kind not in "iu":
        raise ValueError(f"Seeds are integers, one or more: got {numbers.tolist()}; pass (0,).")
    if numbers.min() < 0 or numbers.max() >= 2**32:
        raise ValueError(
            f"A seed is from 0 to 2**32 - 1: got {numbers.tolist()}; JAX would wrap another one."
        )
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"A shard (i, n) has 0 <= i < n: got {shard}; the first of two is (0, 2).")
    runner = runners.eager if resolve_plan(plan) == "eager" else runners.compiled
    jobs = _jobs(space, archs, deduplicate)[shard[0] :: shard[1]]

    def scored() -> Iterator[Scored]:
        for seed in numbers.tolist():
            left = ([p for p in job.positions if not skip(p, seed)] for job in jobs)
            todo = [_Job(job.arch, own) for job, own in zip(jobs, left, strict=True) if own]
            if todo:
                examples = validate_batch(batch(seed) if callable(batch) else batch)
                results = _score_jobs(space, archs, examples, seed, resolved, runner, todo)
                yield from _by_position(results, todo) if in_order else results

    return scored()


def score_fn(
    space: SearchSpace,
    proxy: str | Proxy,
    params: Params,
    batch: Batch,
    *,
    key: Array | None = None,
) -> ScoreFn:
    """Return `score_fn(archs)` for `search.run`: `[A]` scores of `int32[A, D]`, traceable.

    A disconnected architecture scores `-inf`. The scores are those of the compiled plan in float32;
    parameters and examples travel as arguments of the compiled search.

    Args:
        space: the search space.
        proxy: a name or a `Proxy`; not `params`, which in a space is the space's own formula.
        params: of the whole space, by `space.init`.
        batch: the examples.
        key: for scores that draw random numbers.

    Raises:
        ValueError: see `jaxnas.score`.
    """
    (chosen,) = resolve([proxy])
    if chosen.measure is cost.num_params:
        raise ValueError("params is not measured in a space: use space.num_params.")
    batch = validate_batch(batch)
    key = jax.random.key(0) if key is None else key
    return jax.tree_util.Partial(
        functools.partial(_score_traced, space, chosen), params, batch, key
    )


def _score_traced(
    space: SearchSpace, proxy: Proxy, params: Params, batch: Batch, key: Array, archs: Array
) -> Array:
    def one(arch: Array) -> Array:
        measured = measure_all((proxy.measure,), *space.bind(arch, params), batch, key)
        value = proxy.reduce(measured[0])
        return jnp.where(space.is_connected(arch), value, -jnp.inf)

    return jax.lax.map(one, archs)


def resolve_plan(plan: str) -> str:
    """Return `eager` or `compiled`; `auto` is what suits the default backend.

    Raises:
        ValueError: an unknown plan.
    """
    if plan == "auto":
        return "eager" if jax.default_backend() == "cpu" else "compiled"
    if plan not in ("eager", "compiled"):
        raise ValueError(f"Unknown plan {plan!r}: use auto, eager or compiled.")
    return plan


class _Job(NamedTuple):
    """An architecture to score, and the positions of all that it is scored for."""

    arch: np.ndarray
    positions: list[int]


def _jobs(space: SearchSpace, archs: np.ndarray, deduplicate: bool) -> list[_Job]:
    jobs: dict[bytes, _Job] = {}
    for position, arch in enumerate(archs):
        stands = space.representative(arch) if deduplicate else arch
        jobs.setdefault(stands.tobytes(), _Job(stands, [])).positions.append(position)
    return list(jobs.values())


def _by_position(results: Iterable[Scored], jobs: list[_Job]) -> Iterator[Scored]:
    """Yield the results by position, each as soon as all before it have come."""
    waiting: dict[int, Scored] = {}
    expected = iter(sorted(position for job in jobs for position in job.positions))
    position = next(expected, None)
    for result in results:
        waiting[result.position] = result
        while position in waiting:
            yield waiting.pop(position)
            position = next(expected, None)


def _score_jobs(
    space: SearchSpace,
    archs: np.ndarray,
    batch: Batch,
    seed: int,
    chosen: tuple[Proxy, ...],
    runner: runners.Runner,
    jobs: list[_Job],
) -> Iterator[Scored]:
    """Yield the scores of one draw of weights and examples."""
    start = time.process_time()
    key = jax.random.key(seed)
    params = space.init(jax.random.fold_in(key, 0), batch.inputs)
    validate_network(*space.bind(jobs[0].arch, params), batch)
    counted = [proxy for proxy in chosen if proxy.measure in cost.COUNTS]
    networked = tuple(proxy for proxy in chosen if proxy.measure not in cost.COUNTS)
    running: list[_Job] = []
    idle: list[_Job] = []
    for job in jobs:
        (running if networked and space.is_connected(job.arch) else idle).append(job)
    setting = runners.Setting(space, params, batch, key, measures_of(networked))
    measured = runner(setting, np.array([job.arch for job in running])) if running else ()
    results = itertools.chain(
        ((job, "disconnected") for job in idle), ((running[at], own) for at, own in measured)
    )
    for job, own in results:
        values, status = _judge(networked, own)
        for position in job.positions:
            # Of the architecture itself: what stands for it may have less that is not used.
            exact = {
                proxy.name: _count(space, params, batch, proxy, archs[position])
                for proxy in counted
            }
            seconds, start = time.process_time() - start, time.process_time()
            yield Scored(
                position, seed, values | exact, status | dict.fromkeys(exact, "ok"), seconds
            )


def _count(
    space: SearchSpace, params: Params, batch: Batch, proxy: Proxy, arch: np.ndarray
) -> float:
    if proxy.measure is cost.num_params:
        return float(proxy.reduce(jnp.asarray(float(space.num_params(arch)))))
    return float(proxy(*space.bind(arch, params), batch))


def _judge(chosen: tuple[Proxy, ...], measured: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Return scores and status by name; a measurement that is a string says what went wrong."""
    names = [proxy.name for proxy in chosen]
    if isinstance(measured, str):
        return dict.fromkeys(names, -np.inf), dict.fromkeys(names, measured)
    values, status = {}, {}
    for name, value in zip(names, reduce_scores(chosen, measured).tolist(), strict=True):
        finite = np.isfinite(value)
        values[name] = value if finite else -np.inf
        status[name] = "ok" if finite else "no gradient" if value == -np.inf else "not finite"
    return values, status
