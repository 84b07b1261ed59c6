"""Many architectures under one draw of weights and examples: eagerly by threads, or compiled.

Both plans yield `(position, scores)` as they come: `eager` runs one architecture after the other
over small programs that all share, `compiled` runs chunks of one pattern on all local devices.
What fails is the failure of one score of one architecture, and ends nothing else.
"""

import collections
import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxnas import check, gradients
from jaxnas.network import Bucket
from jaxnas.proxies.measures import measure_all
from jaxnas.types import (
    FAILED,
    ApplyFn,
    Array,
    Batch,
    Measure,
    Params,
    Proxy,
    SearchSpace,
    TrainableFn,
)

# Most buckets of NAS-Bench-201 are this large or larger.
_MAX_CHUNK = 4
_SHARE_OF_MEMORY = 0.5
_BYTES_OF_AN_UNKNOWN_DEVICE = 2**31

# What JAX lets a thread set for itself, and does not pass on to the threads that it starts.
_SETTINGS = (
    *("default_device", "default_matmul_precision", "default_prng_impl", "enable_x64"),
    *("debug_infs", "debug_nans", "legacy_prng_key", "threefry_partitionable"),
    *("numpy_dtype_promotion", "numpy_rank_promotion"),
)


class Draw(NamedTuple):
    """What all architectures share.

    Attributes:
        space: the search space.
        params: of the whole space.
        batch: the examples.
        key: for scores that draw random numbers; each architecture gets one of its own from it.
    """

    space: SearchSpace
    params: Params
    batch: Batch
    key: Array


class Score(NamedTuple):
    """One score of one architecture.

    Attributes:
        value: larger is better; `-inf` where `status` is not "ok".
        status: "ok", "disconnected", "nothing to score", "not finite" or "failed: reason".
    """

    value: float
    status: str = "ok"


Scored = tuple[int, dict[str, Score]]
"""Position of an architecture, and its scores by name."""


def eager(draw: Draw, proxies: tuple[Proxy, ...], archs: np.ndarray) -> Iterator[Scored]:
    """Yield the scores of the architectures `[A, D]`, each run by one of a few threads.

    A thread that computes holds no lock of Python's, so one runs while others compute.
    """
    # Each thread computes under the settings of this one.
    settings = {name: getattr(jax.config, f"jax_{name}") for name in _SETTINGS}

    def one(arch: np.ndarray) -> dict[str, Score]:
        with contextlib.ExitStack() as entered:
            for name, value in settings.items():
                entered.enter_context(getattr(jax, name)(value))
            key = jax.random.fold_in(draw.key, _digest(arch))

            def run(chosen: tuple[Proxy, ...]) -> list[np.ndarray]:
                return [values(chosen, *draw.space.bind(arch, draw.params), draw.batch, key)]

            return score_each(proxies, 1, run)[0]

    # A few architectures are under way, and leave in the order in which they came.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = cores or 1
    executor = ThreadPoolExecutor(threads)
    pending: collections.deque[tuple[int, Future[dict[str, Score]]]] = collections.deque()
    try:
        for position, arch in enumerate(archs):
            pending.append((position, executor.submit(one, arch)))
            if len(pending) > threads:
                first, future = pending.popleft()
                yield first, future.result()
        for position, future in pending:
            yield position, future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def compiled(draw: Draw, proxies: tuple[Proxy, ...], archs: np.ndarray) -> Iterator[Scored]:
    """Yield the scores of the architectures `[A, D]`, bucket by bucket, in one program.

    Those of one pattern are a batch, in chunks that fit the memory of a device; each local device
    of the default backend takes a chunk. Chunks that are not full repeat their rows: the same
    program gives the same bits, whatever else is scored.
    """
    devices = tuple(jax.local_devices())
    size = _chunk_size(draw, devices[0])

    # Chunks of positions, each of one pattern.
    patterns = (draw.space.pattern or np.zeros_like)(archs)
    chunks: list[np.ndarray] = []
    for bucket in np.unique(patterns, axis=0):
        positions = np.flatnonzero((patterns == bucket).all(1))
        chunks += [positions[start : start + size] for start in range(0, len(positions), size)]

    # A chunk for each device at a time.
    for start in range(0, len(chunks), len(devices)):
        taken = chunks[start : start + len(devices)]
        full = np.array([np.resize(chunk, size) for chunk in taken])
        filled = np.resize(full, (len(devices), size))
        scored = score_each(proxies, filled.size, functools.partial(_run, draw, archs[filled]))
        for row, chunk in enumerate(taken):
            for column, position in enumerate(chunk):
                yield int(position), scored[row * size + column]


def values(
    proxies: tuple[Proxy, ...], apply_fn: ApplyFn, params: Params, batch: Batch, key: Array
) -> np.ndarray:
    """Return the scores of one network, `float64[P]`."""
    measured = measure_all(_measures_of(proxies), apply_fn, params, batch, key)
    found = reduce(proxies, jax.device_get(measured))
    return _not_finite(found, batch, lambda: (apply_fn, params))


def _not_finite(
    found: np.ndarray, batch: Batch, bind: Callable[[], tuple[ApplyFn, Params]]
) -> np.ndarray:
    """Return the scores of a network, with nan for `-inf` if its logits are not finite.

    A last ReLU takes the gradient from logits that are nan: then there is not nothing to score.
    """
    if np.isneginf(found).any():
        apply_fn, params = bind()
        logits = gradients.outputs(apply_fn, params, batch.inputs).logits
        if not bool(jnp.isfinite(logits).all()):
            return np.where(np.isneginf(found), np.nan, found)
    return found


def reduce(proxies: tuple[Proxy, ...], measured: Any) -> np.ndarray:
    """Return the scores, `float64[P]`, given what each different measure has measured.

    In float64, as differences and small eigenvalues are lost in float32. Runs on the CPU, where
    float64 is at home; the measurements are small and on the host. Numbers of examples and the like
    are promoted, whatever the user's setting says of arrays.
    """
    standard = jax.numpy_dtype_promotion("standard")
    with jax.enable_x64(True), jax.default_device(_host()), standard:
        wide = jax.tree.map(
            lambda leaf: (
                leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            ),
            measured,
        )
        return np.asarray(_reduce_wide(proxies, wide))


def _host() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to start without it
        return None


@functools.partial(jax.jit, static_argnums=0)
def _reduce_wide(proxies: tuple[Proxy, ...], measured: Any) -> Array:
    by_measure = dict(zip(_measures_of(proxies), measured, strict=True))
    scores = [proxy.reduce(by_measure[proxy.measure]) for proxy in proxies]
    return jnp.stack([_number(*each) for each in zip(proxies, scores, strict=True)])


def _number(proxy: Proxy, score: Any) -> Array:
    """Return the score of one network, `float64[]`; raises `ValueError` unless it is a number."""
    score = check.array(f"What {proxy.name} reduces to", score)
    if score.ndim:
        raise ValueError(
            f"A Proxy must reduce to one number: got {list(score.shape)} of {proxy.name}; sum it, "
            "or take its mean."
        )
    return jnp.asarray(score, jnp.float64)


def _measures_of(proxies: tuple[Proxy, ...]) -> tuple[Measure, ...]:
    """Return the measures, each once."""
    return tuple(dict.fromkeys(proxy.measure for proxy in proxies))


def score_each(
    proxies: tuple[Proxy, ...],
    count: int,
    run: Callable[[tuple[Proxy, ...]], list[np.ndarray]],
) -> list[dict[str, Score]]:
    """Return the scores of `count` architectures, given `run(proxies)`, `[count, P]` values.

    Where that raises, each score is taken alone, so that one that fails takes no other along.
    """
    try:
        rows = run(proxies)
    except Exception as error:
        if len(proxies) == 1:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            return [{proxies[0].name: Score(-np.inf, f"{FAILED}{reason}")}] * count
        alone = [score_each((proxy,), count, run) for proxy in proxies]
        return [dict(collections.ChainMap(*of_one)) for of_one in zip(*alone, strict=True)]
    names = [proxy.name for proxy in proxies]
    return [dict(zip(names, map(_judged, row.tolist()), strict=True)) for row in rows]


def _judged(value: float) -> Score:
    if np.isfinite(value):
        return Score(value)
    return Score(-np.inf, "nothing to score" if value == -np.inf else "not finite")


def _chunk_size(draw: Draw, device: jax.Device) -> int:
    """Return how many architectures may be a batch, by what one of them saves for its gradient."""

    def pullback(decisions: Array, params: Params) -> Any:
        network, read = draw.space.bind(decisions, params)
        return jax.vjp(lambda read: gradients.outputs(network, read, draw.batch.inputs), read)[1]

    decisions = jax.ShapeDtypeStruct((len(draw.space.num_choices),), np.int32)
    saved = jax.eval_shape(pullback, decisions, draw.params)
    # As much again is at work as is saved.
    needed = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))
    there = (device.memory_stats() or {}).get("bytes_limit", _BYTES_OF_AN_UNKNOWN_DEVICE)
    return int(max(1, min(_MAX_CHUNK, _SHARE_OF_MEMORY * there // needed)))


def _run(draw: Draw, archs: np.ndarray, proxies: tuple[Proxy, ...]) -> list[np.ndarray]:
    """Return the values `[P]` of the architectures `[devices, chunk, D]`, one after the other."""
    rows = archs.reshape(-1, archs.shape[-1])
    digests = np.array([_digest(arch) for arch in rows], np.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(draw.key, digests).reshape(archs.shape[:2])
    bucketed, devices = draw.space.pattern is not None, tuple(jax.local_devices())
    program = _program(draw.space.bind, bucketed, _measures_of(proxies), devices)
    measured = jax.device_get(program(archs, keys, draw.params, draw.batch))
    found = [
        reduce(proxies, jax.tree.map(lambda leaf, place=place: leaf[place], measured))
        for place in np.ndindex(archs.shape[:2])
    ]
    return [
        _not_finite(scores, draw.batch, functools.partial(draw.space.bind, arch, draw.params))
        for arch, scores in zip(rows, found, strict=True)
    ]


@functools.cache
def _program(
    bind: Callable[[Any, Params], tuple[TrainableFn, Params]],
    bucketed: bool,
    measures: tuple[Measure, ...],
    devices: tuple[jax.Device, ...],
) -> Callable[..., Any]:
    """Return the compiled `program(archs, keys, params, batch)`, for a chunk a device.

    `archs` are `int32[devices, chunk, D]`, of one pattern in each chunk; `keys` `[devices, chunk]`.
    """

    def on_a_device(archs: Array, keys: Array, params: Params, batch: Batch) -> Any:
        pattern = archs[0, 0]

        def one(arch: Array, key: Array) -> Any:
            network = bind(Bucket(arch, pattern) if bucketed else arch, params)
            return measure_all(measures, *network, batch, key)

        return jax.tree.map(lambda leaf: leaf[None], jax.vmap(one)(archs[0], keys[0]))

    split, whole = PartitionSpec("devices"), PartitionSpec()
    return jax.jit(
        jax.shard_map(
            on_a_device,
            mesh=Mesh(np.array(devices), ("devices",)),
            in_specs=(split, split, whole, whole),
            out_specs=split,
            check_vma=False,
        )
    )


def _digest(arch: np.ndarray) -> int:
    return zlib.crc32(arch.tobytes())
