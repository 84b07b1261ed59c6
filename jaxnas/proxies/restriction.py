"""Scores of chosen tensors only: the head, the kernels, one layer.

A gradient score reads every tensor of a network in one pass, so scores of parts of it cost nothing
beside the score of the whole.
"""

import dataclasses
import functools
import re
from typing import Any

import jax

from jaxnas.proxies.measures import GradientMeasure
from jaxnas.types import Array, Batch, Params, Proxy


@functools.cache
def restrict(proxy: Proxy, pattern: str) -> Proxy:
    """Return a gradient score of the tensors whose path `pattern` is found in, `NAME@PATTERN`.

    Args:
        proxy: one that reads gradients tensor by tensor, such as `mgm`.
        pattern: a regular expression, searched in paths such as `layers/layer_03/query/kernel`.

    Raises:
        ValueError: the pattern is none, or the score does not read gradients; and when measured, no
            tensor of the network has such a path.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{proxy.name}@ needs a regular expression: got {pattern!r} ({error})."
        ) from error
    if not isinstance(proxy.measure, GradientMeasure):
        raise ValueError(
            f"Only scores that read gradients can be of chosen tensors: got {proxy.name}@{pattern};"
            " mgm is one."
        )
    return Proxy(f"{proxy.name}@{pattern}", _restricted(proxy.measure, pattern), proxy.reduce)


@functools.cache
def _restricted(measure: GradientMeasure, pattern: str) -> GradientMeasure:
    """Return the one measure for a pattern: equal measures share their cost."""

    def collect(kept: Params, params: Params, batch: Batch) -> Any:
        paths = jax.tree_util.tree_leaves_with_path(params)
        structure: Any = jax.tree.structure(params)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        chosen = [re.search(pattern, name) is not None for name in names]
        if not any(chosen):
            raise ValueError(
                f"No tensor has {pattern!r} in its path: got {', '.join(names[:3])} and so on."
            )

        def select(leaves: list[Any]) -> list[Any]:
            return [leaf for leaf, each in zip(leaves, chosen, strict=True) if each]

        tensors: list[Array] = [tensor for _, tensor in paths]
        return measure.collect(select(structure.flatten_up_to(kept)), select(tensors), batch)

    return dataclasses.replace(measure, collect=collect)
