"""Scoring populations: many architectures of a space, walked one by one or compiled in chunks."""

import functools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.proxies import resolve
from jaxnas.proxies.measures import measure_all, num_params
from jaxnas.scoring import (
    measures_of,
    reduce_scores,
    validate_batch,
    validate_network,
)
from jaxnas.types import Array, Batch, Network, Params, Proxy, ScoreFn, SearchSpace

_CHUNK = 16


class Scored(NamedTuple):
    """The scores of one architecture with one draw of weights and images.

    Attributes:
        position: index into the architectures given.
        seed: of the weights and the batch.
        scores: by name of the proxy; larger is better, `-inf` where `status` is not "ok".
        status: by name; "ok", "disconnected", "no gradient", "not finite" or "failed: reason".
        seconds: process CPU seconds; the first of a seed pay for the weights and the compilation.
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
    skip: Callable[[int, int], bool] = lambda position, seed: False,
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
        plan: `walk` runs architecture by architecture over small shared kernels (best on a CPU),
            `traced` compiles one program for all (best on GPU and TPU), `auto` chooses.
        skip: `skip(position, seed)`: leave out what is already known.

    Raises:
        ValueError: see `score`; or no architecture, no seed, an unknown plan.
    """
    resolved = resolve(proxies)
    archs = encoding.validate_archs(archs, space.num_choices)
    if archs.ndim != 2 or not len(archs):
        raise ValueError(f"Nothing to score: got shape {archs.shape}; pass int32[A, D] with A > 0.")
    numbers = np.atleast_1d(np.asarray(seeds))
    if not numbers.size or numbers.dtype.kind not in "iu":
        raise ValueError(f"Seeds are integers, one or more: got {numbers.tolist()}; pass (0,).")
    runner = _walk if resolve_plan(plan) == "walk" else _traced
    return _score_space(space, archs, batch, resolved, numbers.tolist(), runner, skip)


def score_fn(
    space: SearchSpace,
    proxy: str | Proxy,
    params: Params,
    batch: Batch,
    *,
    key: Array | None = None,
) -> ScoreFn:
    """Return `score_fn(archs)` for `search.run`: `[A]` scores of `int32[A, D]`, traceable.

    A disconnected architecture scores `-inf`. The scores are those of the traced plan in float32;
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
    if chosen.measure is num_params:
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
    """Return `walk` or `traced`; `auto` is what suits the default backend.

    Raises:
        ValueError: an unknown plan.
    """
    if plan == "auto":
        return "walk" if jax.default_backend() == "cpu" else "traced"
    if plan not in ("walk", "traced"):
        raise ValueError(f"Unknown plan {plan!r}: use auto, walk or traced.")
    return plan


Runner = Callable[[SearchSpace, np.ndarray, Params, Batch, Array, tuple[Any, ...]], Iterator[Any]]


def _score_space(
    space: SearchSpace,
    archs: np.ndarray,
    batch: Batch | Callable[[int], Batch],
    chosen: tuple[Proxy, ...],
    seeds: Sequence[int],
    runner: Runner,
    skip: Callable[[int, int], bool],
) -> Iterator[Scored]:
    for seed in seeds:
        todo = [position for position in range(len(archs)) if not skip(position, seed)]
        if not todo:
            continue
        start = time.process_time()
        examples = validate_batch(batch(seed) if callable(batch) else batch)
        key = jax.random.key(seed)
        params = space.init(jax.random.fold_in(key, 0), examples.inputs)
        validate_network(*space.bind(archs[todo[0]], params), examples)
        connected = {position for position in todo if space.is_connected(archs[position])}
        counted = [proxy for proxy in chosen if proxy.measure is num_params]
        networked = tuple(proxy for proxy in chosen if proxy.measure is not num_params)
        running = archs[sorted(connected)]
        results = runner(space, running, params, examples, key, measures_of(networked))
        for position in todo:
            measured = next(results) if networked and position in connected else "disconnected"
            values, status = _judge(networked, measured)
            for proxy in counted:
                count = jnp.asarray(float(space.num_params(archs[position])))
                values[proxy.name], status[proxy.name] = float(proxy.reduce(count)), "ok"
            yield Scored(position, seed, values, status, time.process_time() - start)
            start = time.process_time()


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


def _walk(
    space: SearchSpace,
    archs: np.ndarray,
    params: Params,
    batch: Batch,
    key: Array,
    measures: tuple[Any, ...],
) -> Iterator[Any]:
    for arch in archs:
        own_key = jax.random.fold_in(key, zlib.crc32(arch.tobytes()))
        try:
            network = space.bind(arch, params)
            yield jax.device_get(measure_all(measures, *network, batch, own_key))
        except (FloatingPointError, MemoryError, jax.errors.JaxRuntimeError) as error:
            yield f"failed: {_first_line(error)}"


def _traced(
    space: SearchSpace,
    archs: np.ndarray,
    params: Params,
    batch: Batch,
    key: Array,
    measures: tuple[Any, ...],
) -> Iterator[Any]:
    for start in range(0, len(archs), _CHUNK):
        chunk = archs[start : start + _CHUNK]
        padded = np.resize(chunk, (_CHUNK, archs.shape[1]))  # repeats rows: one shape, one program
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            key, np.array([zlib.crc32(arch.tobytes()) for arch in padded], np.uint32)
        )
        try:
            measured = jax.device_get(
                _measure_chunk(space.bind, measures, padded, params, batch, keys)
            )
        except (FloatingPointError, MemoryError, jax.errors.JaxRuntimeError) as error:
            yield from [f"failed: {_first_line(error)}"] * len(chunk)
        else:
            for position in range(len(chunk)):
                yield jax.tree.map(lambda leaf, p=position: leaf[p], measured)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure_chunk(
    bind: Callable[[Array, Params], tuple[Network, Params]],
    measures: tuple[Any, ...],
    archs: Array,
    params: Params,
    batch: Batch,
    keys: Array,
) -> Any:
    def one(arch_and_key: tuple[Array, Array]) -> Any:
        arch, key = arch_and_key
        return measure_all(measures, *bind(arch, params), batch, key)

    return jax.lax.map(one, (archs, keys))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
