"""Running many architectures: eagerly by threads, or compiled in chunks over all local devices."""

import collections
import functools
import operator
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxnas import gradients
from jaxnas.network import Bucket
from jaxnas.proxies.measures import measure_all
from jaxnas.types import Array, Batch, Measure, Params, SearchSpace, TrainableFn

# Most buckets of NAS-Bench-201 are this large or larger.
_MAX_CHUNK = 4
_SHARE_OF_MEMORY = 0.5
_BYTES_OF_AN_UNKNOWN_DEVICE = 2**31


class Setting(NamedTuple):
    """What all architectures of a run share; `params` are those of the whole space."""

    space: SearchSpace
    params: Params
    batch: Batch
    key: Array
    measures: tuple[Measure, ...]


Measured = tuple[int, Any]
"""Position of the architecture, and its measurements on the host or a sentence on what failed."""

Runner = Callable[[Setting, np.ndarray], Iterator[Measured]]


def eager(setting: Setting, archs: np.ndarray) -> Iterator[Measured]:
    """Yield the measurements of the architectures `[A, D]`, each run by one of a few threads.

    A thread that computes holds no lock of Python's, so one runs while others compute.
    """
    x64, device = operator.attrgetter("jax_enable_x64", "jax_default_device")(jax.config)

    def one(arch: np.ndarray) -> Any:
        # What is set for a thread is not set for its children.
        with jax.enable_x64(x64), jax.default_device(device):
            return _measure(setting, arch)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = cores or 1
    executor = ThreadPoolExecutor(threads)
    pending: collections.deque[tuple[int, Future[Any]]] = collections.deque()
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


def compiled(setting: Setting, archs: np.ndarray) -> Iterator[Measured]:
    """Yield the measurements of the architectures `[A, D]`, bucket by bucket, in one program.

    Those of one pattern are a batch, in chunks that fit the memory of a device; each local device
    of the default backend takes a chunk. Chunks that are not full repeat their rows: the same
    program gives the same bits, whatever else is scored.
    """
    devices = tuple(jax.local_devices())
    size = _chunk_size(setting, devices[0])
    patterns = (setting.space.pattern or np.zeros_like)(archs)
    chunks: list[np.ndarray] = []
    for bucket in np.unique(patterns, axis=0):
        positions = np.flatnonzero((patterns == bucket).all(1))
        chunks += [positions[start : start + size] for start in range(0, len(positions), size)]
    for start in range(0, len(chunks), len(devices)):
        yield from _run_chunks(setting, archs, chunks[start : start + len(devices)], devices, size)


def _run_chunks(
    setting: Setting,
    archs: np.ndarray,
    chunks: list[np.ndarray],
    devices: tuple[jax.Device, ...],
    size: int,
) -> Iterator[Measured]:
    """Yield the measurements of one chunk of positions a device."""
    full = [np.resize(chunk, size) for chunk in chunks]
    filled = np.resize(np.array(full), (len(devices), size))
    bucketed = setting.space.pattern is not None
    program = _program(setting.space.bind, bucketed, setting.measures, devices)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        setting.key, np.array([_digest(arch) for arch in archs[filled.ravel()]], np.uint32)
    ).reshape(filled.shape)
    measured = _or_failure(lambda: program(archs[filled], keys, setting.params, setting.batch))
    for row, chunk in enumerate(chunks):
        for column, position in enumerate(chunk):
            if not isinstance(measured, str):
                own = jax.tree.map(lambda leaf, at=(row, column): leaf[at], measured)
            yield int(position), measured if isinstance(measured, str) else own


def _chunk_size(setting: Setting, device: jax.Device) -> int:
    """Return how many architectures may be a batch, by what one of them saves for its gradient."""

    def pullback(decisions: Array, params: Params) -> Any:
        network, own = setting.space.bind(decisions, params)
        return jax.vjp(lambda own: gradients.outputs(network, own, setting.batch.inputs), own)[1]

    saved = jax.eval_shape(
        pullback,
        jax.ShapeDtypeStruct((len(setting.space.num_choices),), np.int32),
        setting.params,
    )
    # As much again is at work as is saved.
    needed = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))
    there = (device.memory_stats() or {}).get("bytes_limit", _BYTES_OF_AN_UNKNOWN_DEVICE)
    return int(max(1, min(_MAX_CHUNK, _SHARE_OF_MEMORY * there // needed)))


def _measure(setting: Setting, arch: np.ndarray) -> Any:
    key = jax.random.fold_in(setting.key, _digest(arch))
    return _or_failure(
        lambda: measure_all(
            setting.measures, *setting.space.bind(arch, setting.params), setting.batch, key
        )
    )


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


def _or_failure(measure: Callable[[], Any]) -> Any:
    """Return the measurements on the host, or what went wrong in one line."""
    try:
        return jax.device_get(measure())
    except (FloatingPointError, MemoryError, jax.errors.JaxRuntimeError) as error:
        return "failed: " + f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _digest(arch: np.ndarray) -> int:
    return zlib.crc32(arch.tobytes())
