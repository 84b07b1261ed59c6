"""Scores that need no pass: the baselines that every other score must beat."""

import statistics
import time
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import gradients
from jaxnas.types import ApplyFn, Array, Batch, Outputs, Params, Proxy, SearchSpace

_WARM_UP, _PASSES = 3, 5  # the latter in a block
_BLOCKS, _SECONDS = 10, 0.3  # at least


@runtime_checkable
class CountsMacs(Protocol):
    """A network that knows its cost; those of the spaces do."""

    def __call__(self, params: Params, inputs: Array) -> Outputs | Array:
        """Return the outputs for `inputs` `[B, ...]`."""

    def num_macs(self, params: Params, inputs: Any) -> ArrayLike:
        """Return the multiply-accumulates for one example; shapes will do for both."""


def params() -> Proxy:
    """Return the number of parameters. In a search space it is the space's exact formula."""
    return Proxy("params", num_params, jnp.asarray)


def flops() -> Proxy:
    """Return the multiply-accumulates for one example, which the field calls FLOPs.

    In a search space that has one, by the space's exact formula; of any other network half of what
    XLA counts for its program, before it optimizes.
    """
    return Proxy("flops", num_macs, jnp.asarray)


def latency_ms() -> Proxy:
    """Return the milliseconds of a compiled forward pass of the whole batch, on this device.

    After 3 passes that warm up, blocks of 5 passes are timed by the clock: 10 blocks or more, for
    .3 seconds or more. The latency is the median of the fastest block: other work on the machine
    makes some blocks slow and none fast, and one fast pass decides nothing. Passes that take longer
    than the machine lets a program run undisturbed need a machine without other work. A cost, so
    that smaller is better: see `jaxnas.find`. It is no name of a flag, as the same network is never
    measured alike twice.
    """
    return Proxy("latency_ms", latency, jnp.asarray)


def num_params(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    """Count the parameters."""
    return jnp.asarray(float(sum(tensor.size for tensor in jax.tree.leaves(params))))


def num_macs(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    """Count the multiply-accumulates for one example."""
    if isinstance(apply_fn, CountsMacs):
        return jnp.asarray(apply_fn.num_macs(params, batch.inputs), float)

    def logits(params: Params, inputs: Array) -> Array:
        return gradients.outputs(apply_fn, params, inputs).logits

    # What the network closes over may be traced, and becomes an argument.
    program = jax.make_jaxpr(logits)(params, jax.tree.map(lambda leaf: leaf[:1], batch.inputs))

    def on_shapes(constants: list[Array], *leaves: Array) -> list[Array]:
        return core.jaxpr_as_fun(core.ClosedJaxpr(program.jaxpr, constants))(*leaves)

    constants = [
        jax.ShapeDtypeStruct(each.shape, each.dtype) for each in map(jnp.asarray, program.consts)
    ]
    leaves = [jax.ShapeDtypeStruct(in_aval.shape, in_aval.dtype) for in_aval in program.in_avals]
    analysis = jax.jit(on_shapes).lower(constants, *leaves).cost_analysis()
    if not analysis or "flops" not in analysis:
        raise ValueError(
            "XLA does not count FLOPs for this backend: got no cost analysis; run on the CPU, or "
            "offer num_macs(params, inputs) on the network."
        )
    return jnp.asarray(analysis["flops"] / 2, float)


def latency(apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Array:
    """Measure the milliseconds of a forward pass; see `latency_ms`."""

    @jax.jit
    def logits(params: Params, inputs: Array) -> Array:
        return gradients.outputs(apply_fn, params, inputs).logits

    if isinstance(jax.tree.leaves(params)[0], jax.core.Tracer):
        raise ValueError("The latency of a network is measured by the clock: got one being traced.")

    def seconds() -> float:
        start = time.perf_counter()
        logits(params, batch.inputs).block_until_ready()
        return time.perf_counter() - start

    for _ in range(_WARM_UP):
        seconds()
    medians: list[float] = []
    timed = 0.0
    while len(medians) < _BLOCKS or timed < _SECONDS:
        block = [seconds() for _ in range(_PASSES)]
        medians.append(statistics.median(block))
        timed += sum(block)
    return jnp.asarray(1e3 * min(medians))


COUNTS = (num_params, num_macs, latency)
"""Measures of an architecture as it is: those that are the same function may differ."""


def params_of(space: SearchSpace, archs: np.ndarray) -> NDArray[Any]:
    """Return the numbers of parameters, `[A]`; nan of what cannot be built."""

    def count(arch: np.ndarray) -> float:
        try:
            return space.num_params(arch)
        except Exception:
            if space.is_traceable:
                raise
            return np.nan

    return np.array([count(arch) for arch in archs])
