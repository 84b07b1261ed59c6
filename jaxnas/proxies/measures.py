"""The expensive halves of proxies: proxies that share a measure share its cost.

A measure that reads gradients, or looks at activations, says only what to keep of them: those of
one request share their passes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import activations, gradients
from jaxnas.kernels import empirical
from jaxnas.types import ApplyFn, Array, Batch, Measure, Params, Passed, Statistic, is_floating


@dataclasses.dataclass(frozen=True)
class GradientMeasure:
    """A measure of gradients: those of one request share their passes; see `measure_all`.

    Attributes:
        of: what is differentiated, such as `gradients.loss_cotangent`.
        statistic: what to keep of each tensor's gradients.
        collect: `collect(kept, params, batch)`: the measurement, given what was kept, a pytree like
            `params`.
    """

    of: gradients.Cotangent
    statistic: Statistic
    collect: Callable[[Params, Params, Batch], Any]

    def __call__(self, apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Any:
        """Return the measurement of one network."""
        return measure_all((self,), apply_fn, params, batch, key)[0]


@dataclasses.dataclass(frozen=True)
class StageMeasure:
    """A measure that looks at the stages of a network; those of one request share a forward pass.

    Attributes:
        keep: `keep(inputs, passed, key, position)`: what to keep of a stage, given its inputs (a
            tuple), what it gave, a key that all stages share, and its number, from 0.
        collect: `collect(kept)`: the measurement, given what was kept of each stage.
        of_noise: whether the network is given normal noise in place of the inputs of the batch.
    """

    keep: Callable[[Any, Passed, Array, int], Any]
    collect: Callable[[list[Any]], Any]
    of_noise: bool = False

    def __call__(self, apply_fn: ApplyFn, params: Params, batch: Batch, key: Array) -> Any:
        """Return the measurement of one network."""
        return measure_all((self,), apply_fn, params, batch, key)[0]


def measure_all(
    measures: Sequence[Measure], apply_fn: ApplyFn, params: Params, batch: Batch, key: Array
) -> list[Any]:
    """Return all measurements of one network, at full precision also on GPU and TPU.

    Measures that read gradients share one forward pass, and one backward pass for each function
    that is differentiated; those that look at stages share one forward pass.
    """
    wanted: dict[gradients.Cotangent, list[Statistic]] = {}
    for measure in measures:
        if isinstance(measure, GradientMeasure):
            wanted.setdefault(measure.of, []).append(measure.statistic)
    with jax.default_matmul_precision("highest"):
        together = {of: tuple(statistics) for of, statistics in wanted.items()}
        read = gradients.read(apply_fn, params, batch, together) if together else {}
        kept = {of: iter(found) for of, found in read.items()}
        looks = [one for one in measures if isinstance(one, StageMeasure)]
        seen = _look(looks, apply_fn, params, batch.inputs, key) if looks else {}

        def one(measure: Measure) -> Any:
            if isinstance(measure, GradientMeasure):
                return measure.collect(next(kept[measure.of]), params, batch)
            if isinstance(measure, StageMeasure):
                return measure.collect(seen[measure])
            return measure(apply_fn, params, batch, key)

        return [one(measure) for measure in measures]


def _look(
    measures: Sequence[StageMeasure], apply_fn: ApplyFn, params: Params, inputs: Any, key: Array
) -> dict[StageMeasure, list[Any]]:
    """Return what each measure keeps of each stage, given inputs `[B, ...]` or noise like them."""
    of_noise, of_stages = jax.random.split(key)
    kept: dict[StageMeasure, list[Any]] = {measure: [] for measure in measures}
    for is_noise in {measure.of_noise for measure in measures}:
        first = normal_like(of_noise, inputs) if is_noise else inputs
        given: tuple[Any, ...] = (first,)
        for position, stage in enumerate(activations.stages(apply_fn, params, first)):
            passed = stage(given)
            for measure in measures:
                if measure.of_noise == is_noise:
                    kept[measure].append(measure.keep(given, passed, of_stages, position))
            given = passed.outputs
    return kept


def _collect_grams(kept: Params, params: Params, batch: Batch) -> empirical.TensorGrams:
    return empirical.stack_grams(kept, params)


def _collect_squares(kept: Params, params: Params, batch: Batch) -> Array:
    return empirical.stack(jax.tree.leaves(kept)) / batch.size**2


def _square(tensor: Array, gradient: Array) -> Array:
    return jnp.square(gradient).sum()


tensor_grams = GradientMeasure(gradients.loss_cotangent, empirical.GRAM, _collect_grams)
"""The Gram matrix of each tensor's per-example loss gradients: `empirical.TensorGrams`."""

batch_gradient_squares = GradientMeasure(
    gradients.loss_cotangent, Statistic(_square, per_example=False), _collect_squares
)
"""The squared norm of each tensor's gradient of the mean loss, `[L]`."""


def compared(count: int, name: str) -> None:
    """Refuse a score that compares examples where there are fewer than two.

    Raises:
        ValueError: there is one example.
    """
    if count < 2:
        raise ValueError(f"{name} compares examples: got a batch of {count}; use 2 or more.")


def or_nothing(value: Array, alive: Array) -> Array:
    """Return `value`, but -inf where nothing is alive; nan stays nan."""
    return jnp.where(alive.any() | jnp.isnan(value), value, -jnp.inf)


def normal_like(key: Array, inputs: Any) -> Any:
    """Return normal noise in place of inputs `[B, ...]`; tokens are left as they are."""
    leaves, structure = jax.tree.flatten(inputs)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    noise = [
        jax.random.normal(one, leaf.shape, leaf.dtype) if is_floating(leaf) else leaf
        for one, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noise)
