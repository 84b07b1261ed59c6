"""Running many architectures: walked by threads, or compiled in chunks over all local devices."""

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

from jaxnas.proxies.measures import measure_all
from jaxnas.types import Array, Batch, Measure, Network, Params, SearchSpace

_CHUNK = 16


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


def walk(setting: Setting, archs: np.ndarray) -> Iterator[Measured]:
    """Yield the measurements of the architectures `[A, D]`, each walked by one of a few threads.

    A thread that computes holds no lock of Python's, so one walks while others compute.
    """
    x64, device = operator.attrgetter("jax_enable_x64", "jax_default_device")(jax.config)

    def one(arch: np.ndarray) -> Any:
        # What is set for a thread is not set for its children.
        with jax.enable_x64(x64), jax.default_device(device):
            return _measure(setting, arch)

    ahead = len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2
    executor = ThreadPoolExecutor(ahead)
    pending: collections.deque[tuple[int, Future[Any]]] = collections.deque()
    try:
        for position, arch in enumerate(archs):
            pending.append((position, executor.submit(one, arch)))
            if len(pending) > ahead:
                first, future = pending.popleft()
                yield first, future.result()
        for position, future in pending:
            yield position, future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def traced(setting: Setting, archs: np.ndarray) -> Iterator[Measured]:
    """Yield the measurements of the architectures `[A, D]`, chunk by chunk in one program.

    Each local device of the default backend takes its share of a chunk.
    """
    devices = jax.local_devices()
    size = _CHUNK * len(devices)
    measure = _chunk_program(setting.space.bind, setting.measures, tuple(devices))
    for start in range(0, len(archs), size):
        chunk = archs[start : start + size]
        padded = np.resize(chunk, (size, archs.shape[1]))  # repeats rows: one shape, one program
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            setting.key, np.array([_digest(arch) for arch in padded], np.uint32)
        )
        measured = _or_failure(
            functools.partial(measure, padded, keys, setting.params, setting.batch)
        )
        for position in range(len(chunk)):
            if not isinstance(measured, str):
                own = jax.tree.map(lambda leaf, p=position: leaf[p], measured)
            yield start + position, measured if isinstance(measured, str) else own


def _measure(setting: Setting, arch: np.ndarray) -> Any:
    key = jax.random.fold_in(setting.key, _digest(arch))
    return _or_failure(
        lambda: measure_all(
            setting.measures, *setting.space.bind(arch, setting.params), setting.batch, key
        )
    )


@functools.cache
def _chunk_program(
    bind: Callable[[Array, Params], tuple[Network, Params]],
    measures: tuple[Measure, ...],
    devices: tuple[jax.Device, ...],
) -> Callable[..., Any]:
    """Return the compiled `program(archs, keys, params, batch)`, a device's share after another."""

    def share(archs: Array, keys: Array, params: Params, batch: Batch) -> Any:
        def one(arch_and_key: tuple[Array, Array]) -> Any:
            arch, key = arch_and_key
            return measure_all(measures, *bind(arch, params), batch, key)

        return jax.lax.map(one, (archs, keys))

    split, whole = PartitionSpec("archs"), PartitionSpec()
    mesh = Mesh(np.array(devices), ("archs",))
    return jax.jit(
        jax.shard_map(
            share,
            mesh=mesh,
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
