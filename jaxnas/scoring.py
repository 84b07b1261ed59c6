"""Scoring: one network of your own, or a whole space, by any set of proxies."""

import functools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding, gradients, proxies
from jaxnas.types import ApplyFn, Array, Batch, Network, Params, Proxy, SearchSpace

_CHUNK = 16


class Scored(NamedTuple):
    """The scores of one architecture with one draw of weights and images.

    Attributes:
        position: index into the architectures given.
        seed: of the weights and the batch.
        scores: by name of the proxy; larger is better, `-inf` where `status` is not "ok".
        status: by name; "ok", "disconnected", "no gradient", "not finite" or "failed: reason".
        seconds: process CPU seconds.
    """

    position: int
    seed: int
    scores: dict[str, float]
    status: dict[str, str]
    seconds: float


def score(
    apply_fn: ApplyFn,
    params: Params,
    batch: Batch | tuple[ArrayLike, ArrayLike],
    proxies: Iterable[str | Proxy],
    *,
    key: Array | None = None,
) -> dict[str, float]:
    """Return the scores of one network; larger is better.

    Args:
        apply_fn: any `apply_fn(params, inputs)` that gives logits `[B, K]` or `Outputs`: Flax
            (linen, nnx), Equinox or plain JAX.
        params: its parameters, a pytree of arrays.
        batch: `(inputs [B, ...], labels [B])`.
        proxies: names from `jaxnas.proxies.BY_NAME`, or `Proxy` values.
        key: for scores that draw random numbers.

    Returns:
        Scores by name: `-inf` if no gradient reaches any tensor, nan if the network is not finite.

    Raises:
        ValueError: an unknown proxy, or a batch or a network that does not fit (see
            `validate_batch`).
    """
    chosen = _resolve(proxies)
    batch = validate_batch(batch)
    _validate_logits(apply_fn, params, batch)
    key = jax.random.key(0) if key is None else key
    measured = [measure(apply_fn, params, batch, key) for measure in _measures(chosen)]
    values = _reduce(tuple(chosen), jax.device_get(measured))
    return dict(zip((proxy.name for proxy in chosen), values.tolist(), strict=True))


def score_space(
    space: SearchSpace,
    archs: ArrayLike,
    batch: Batch | Callable[[int], Batch],
    proxies: Iterable[str | Proxy],
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
    chosen = _resolve(proxies)
    archs = encoding.validate_archs(archs, space.num_choices)
    if archs.ndim != 2 or not len(archs):
        raise ValueError(f"Nothing to score: got shape {archs.shape}; pass int32[A, D] with A > 0.")
    if not len(seeds):
        raise ValueError("Nothing to score: got no seed; pass seeds=(0,).")
    return _score_space(space, archs, batch, tuple(chosen), seeds, _runner(plan), skip)


def validate_batch(batch: Batch | tuple[ArrayLike, ArrayLike]) -> Batch:
    """Return the batch as arrays, checked.

    Raises:
        ValueError: no example, another number of labels, labels that are not integers `[B]` from 0,
            or inputs that are not finite numbers.
    """
    inputs, labels = (jax.numpy.asarray(part) for part in batch)
    if inputs.ndim < 2 or not inputs.shape[0]:
        raise ValueError(f"A batch needs examples [B, ...]: got inputs {inputs.shape}; pass B > 0.")
    if labels.shape != inputs.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels are integers [{inputs.shape[0]}], one an example: "
            f"got {labels.dtype}{list(labels.shape)}; pass class numbers, not one-hot rows."
        )
    if int(labels.min()) < 0:
        raise ValueError(f"Labels count from 0: got {int(labels.min())}; shift or drop them.")
    if inputs.dtype.kind == "f" and not bool(jax.numpy.isfinite(inputs).all()):
        raise ValueError("Inputs must be finite: got nan or inf; clean or normalise the images.")
    return Batch(inputs, labels)


def _validate_logits(apply_fn: ApplyFn, params: Params, batch: Batch) -> None:
    shape = jax.eval_shape(functools.partial(gradients.outputs, apply_fn), params, batch.inputs)
    logits = shape.logits.shape
    if len(logits) != 2 or logits[0] != batch.labels.size:
        raise ValueError(
            f"apply_fn must give logits [{batch.labels.size}, K]: got {list(logits)}; "
            "return one row of class scores an example."
        )
    if int(batch.labels.max()) >= logits[1]:
        raise ValueError(
            f"Labels must be below the {logits[1]} logits: got {int(batch.labels.max())}; "
            "match the number of classes."
        )


Runner = Callable[[SearchSpace, np.ndarray, Params, Batch, Array, tuple[Any, ...]], Iterator[Any]]


def _runner(plan: str) -> Runner:
    if plan == "auto":
        plan = "walk" if jax.default_backend() == "cpu" else "traced"
    runners: dict[str, Runner] = {"walk": _walk, "traced": _traced}
    if plan not in runners:
        raise ValueError(f"Unknown plan {plan!r}: use auto, walk or traced.")
    return runners[plan]


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
        examples = validate_batch(batch(seed) if callable(batch) else batch)
        key = jax.random.key(seed)
        params = space.init(jax.random.fold_in(key, 0), examples.inputs)
        _validate_logits(*space.bind(archs[todo[0]], params), examples)
        connected = {position for position in todo if space.is_connected(archs[position])}
        networked = tuple(proxy for proxy in chosen if proxy.name != "params")
        running = archs[sorted(connected)]
        results = runner(space, running, params, examples, key, _measures(networked))
        for position in todo:
            start = time.process_time()
            measured = next(results) if networked and position in connected else "disconnected"
            values, status = _judge(networked, measured)
            if len(networked) < len(chosen):
                values["params"], status["params"] = float(space.num_params(archs[position])), "ok"
            yield Scored(position, seed, values, status, time.process_time() - start)


def _judge(chosen: tuple[Proxy, ...], measured: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Return scores and status by name; a measurement that is a string says what went wrong."""
    names = [proxy.name for proxy in chosen]
    if isinstance(measured, str):
        return dict.fromkeys(names, -np.inf), dict.fromkeys(names, measured)
    values, status = {}, {}
    for name, value in zip(names, _reduce(chosen, measured).tolist(), strict=True):
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
            yield jax.device_get([measure(*network, batch, own_key) for measure in measures])
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
        network = bind(arch, params)
        return [measure(*network, batch, key) for measure in measures]

    return jax.lax.map(one, (archs, keys))


def _measures(chosen: Iterable[Proxy]) -> tuple[Any, ...]:
    """Return the measures, each once."""
    return tuple(dict.fromkeys(proxy.measure for proxy in chosen))


def _reduce(chosen: tuple[Proxy, ...], measured: Any) -> np.ndarray:
    """Return the scores in float64: differences and small eigenvalues are lost in float32."""
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf, measured
        )
        return np.asarray(_reduce_jitted(chosen, wide))


@functools.partial(jax.jit, static_argnums=0)
def _reduce_jitted(chosen: tuple[Proxy, ...], measured: Any) -> Array:
    by_measure = dict(zip(_measures(chosen), measured, strict=True))
    scores = [proxy.reduce(by_measure[proxy.measure]) for proxy in chosen]
    return jax.numpy.stack([jax.numpy.asarray(own, jax.numpy.float64) for own in scores])


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _resolve(chosen: Iterable[str | Proxy]) -> list[Proxy]:
    if isinstance(chosen, str):
        chosen = [chosen]
    return proxies.resolve(chosen)
