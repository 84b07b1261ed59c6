"""A search space, given the networks that it has: what is the same for all spaces of images."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.network import Arch, Bucket, Network, StaticArch, architectures, module
from jaxnas.types import Array, Params, SearchSpace, TrainableFn


def image_space(
    name: str,
    networks: Network,
    num_choices: Sequence[int],
    *,
    concrete: Callable[[ArrayLike], Arch] | None = None,
    image_size: int = 32,
    **functions: Any,
) -> SearchSpace:
    """Return the search space of some networks; the module's fields are its options.

    Args:
        name: the field's name of the space.
        networks: all of them in one.
        num_choices: see `SearchSpace`.
        concrete: checks a concrete architecture; `encoding.one` of the choices if None.
        image_size: height and width of the images for which parameters are counted.
        **functions: the other fields of `SearchSpace`, as its notation; without them a space is
            connected, knows no equal functions, and counts the parameters of its network.
    """
    choices = tuple(num_choices)

    def one(arch: Any) -> Arch:
        return StaticArch(encoding.one(arch, choices)) if concrete is None else concrete(arch)

    def init(key: Array, inputs: Array) -> Params:
        return networks.init(key, inputs, method="declare")["params"]

    shape = jax.ShapeDtypeStruct((1, image_size, image_size, networks.colors), np.float32)

    def bind(arch: ArrayLike | Bucket, params: Params) -> tuple[TrainableFn, Params]:
        if architectures.is_traced(arch):
            return networks.bound(arch), params
        bound = networks.bound(one(arch))
        return bound, module.pick(params, bound.graph(shape).tensors)

    def num_params(arch: ArrayLike) -> int:
        return module.count_params(networks, shape)(np.array(encoding.one(arch, choices)))

    fields = {field.name for field in dataclasses.fields(networks)} - {"parent", "name"}
    given: dict[str, Any] = {
        "is_connected": lambda arch: np.True_,
        "representative": lambda arch: np.array(encoding.one(arch, choices), np.int32),
        "num_params": num_params,
    }
    return SearchSpace(
        name=name,
        num_choices=choices,
        init=init,
        bind=bind,
        options={field: getattr(networks, field) for field in sorted(fields)},
        **(given | functions),
    )


def validate_sizes(
    *sizes: tuple[str, Any, int, int], advice: str = "; the default is the benchmark's."
) -> None:
    """Raise `ValueError` unless each `(name, value, least, most)` is an integer in its range."""
    for name, value, least, most in sizes:
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"{name} must be an integer from {least} to {most}: got {value!r}{advice}"
            )
