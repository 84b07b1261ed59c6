"""A search space, given the networks that it has: what is the same for all spaces of images."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, encoding
from jaxnas.network import (
    Arch,
    Bucket,
    Network,
    StaticArch,
    architectures,
    graph,
    module,
    normalization,
)
from jaxnas.spaces.images import ImageNetwork
from jaxnas.types import Array, Cell, Params, SearchSpace, TrainableFn

_OF_FLAX = {"parent", "name"}  # fields that every module has


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

    shape = jax.ShapeDtypeStruct((1, image_size, image_size, networks.colors), np.float32)
    # Which tensors a network reads does not depend on the shape of its inputs: to find them, it is
    # written down for the inputs of `init`, for which it is probably going to run.
    expected = [shape]

    def init(key: Array, inputs: Array) -> Params:
        params = networks.init(key, inputs, method="declare")["params"]
        expected[0] = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
        return params

    def bind(arch: ArrayLike | Bucket, params: Params) -> tuple[TrainableFn, Params]:
        if architectures.is_traced(arch):
            return networks.bound(arch), params
        bound = networks.bound(one(arch))
        return bound, module.pick(params, bound.graph(expected[0]).tensors)

    def num_params(arch: ArrayLike) -> int:
        return module.count_params(networks, shape)(np.array(encoding.one(arch, choices)))

    fields = {field.name for field in dataclasses.fields(networks)} - _OF_FLAX
    given: dict[str, Any] = {
        "is_connected": functools.partial(always_connected, choices),
        "representative": lambda arch: np.array(encoding.one(arch, choices), np.int32),
        "num_params": num_params,
        "module": lambda arch: module.Architecture(networks, tuple(np.asarray(one(arch)).tolist())),
    }
    return SearchSpace(
        name=name,
        num_choices=choices,
        init=init,
        bind=bind,
        options={field: getattr(networks, field) for field in sorted(fields)},
        **(given | functions),
    )


def always_connected(choices: Sequence[int], arch: ArrayLike) -> np.bool_:
    """Return True, of one architecture of a space whose networks are all connected.

    Raises:
        ValueError: not one architecture of the space.
    """
    if not isinstance(arch, jax.core.Tracer):
        encoding.one(arch, choices)
    return np.True_


def factory(
    networks: type[ImageNetwork],
    *,
    notation: str,
    is_connected: Callable[[ArrayLike], ArrayLike],
    representative: Callable[[ArrayLike], np.ndarray],
    cells: Callable[[ArrayLike], Mapping[str, Cell]] | None = None,
) -> Callable[..., SearchSpace]:
    """Return `factory(**options)`, which gives the search space of some networks.

    The options are the fields of the module: sizes and a normalization mode. A size below 1 (2
    classes) or an unknown mode is a `ValueError`; an unknown name is a `TypeError`. Buckets follow
    from what the operations cost, so each decision must go to `net.choose` as it is.

    Args:
        networks: all of them in one.
        notation: of an architecture, with `{}` where each decision is a digit.
        is_connected: see `SearchSpace`.
        representative: see `SearchSpace`.
        cells: see `SearchSpace`.

    Raises:
        ValueError: the notation does not have a digit for each decision.
    """
    choices = networks.num_choices
    if notation.count("{}") != len(choices) or max(choices) > 10:
        raise ValueError(
            f"A notation has a {{}} for each decision, which is a digit: got {notation!r} for "
            f"decisions of {choices}; write {'-'.join(['{}'] * len(choices))!r}, or make the space "
            "by image_space."
        )
    fields = [field for field in dataclasses.fields(networks) if field.name not in _OF_FLAX]
    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature(
        [
            inspect.Parameter(field.name, keyword, default=field.default, annotation=field.type)
            for field in fields
        ],
        return_annotation=SearchSpace,
    )

    def checked(function: Callable[[Any], Any]) -> Callable[[ArrayLike], Any]:
        return lambda arch: function(
            arch if isinstance(arch, jax.core.Tracer) else np.array(encoding.one(arch, choices))
        )

    def make(**options: Any) -> SearchSpace:
        bound = signature.bind(**options)
        bound.apply_defaults()
        normalization.checked_mode(bound.arguments["norm"])
        for name in (field.name for field in fields if field.type is int):
            least = 2 if name == "classes" else 1
            bound.arguments[name] = check.integer(name, bound.arguments[name], least)
        chosen = networks(**bound.arguments)
        return image_space(
            networks.space,
            chosen,
            choices,
            to_string=lambda arch: notation.format(*encoding.one(arch, choices)),
            from_string=functools.partial(_from_digits, notation, choices),
            is_connected=checked(is_connected),
            representative=checked(representative),
            pattern=functools.partial(_pattern, chosen),
            cells=cells,
        )

    make.__name__ = make.__qualname__ = networks.space
    make.__doc__ = networks.__doc__
    make.__signature__ = signature  # type: ignore[attr-defined]
    return make


def _from_digits(notation: str, choices: Sequence[int], string: str) -> np.ndarray:
    """Return the architecture `int32[D]` of a string with a digit for each decision."""
    check.instance("string", string, str, "a string")
    literal = re.escape(notation).replace(re.escape("{}"), "{}")
    match = re.fullmatch(literal.format(*(f"([0-{count - 1}])" for count in choices)), string)
    if match is None:
        ranges = " or ".join(dict.fromkeys(f"0 to {count - 1}" for count in choices))
        raise ValueError(
            f"An architecture is written {notation}, with a digit {ranges} for each {{}}: "
            f"got {string!r}."
        )
    return np.array([int(digit) for digit in match.groups()], np.int32)


def _pattern(networks: ImageNetwork, archs: ArrayLike) -> np.ndarray:
    """Return the architectures `int32[..., D]` with the first light operation for all light ones.

    An operation is light if it costs no multiply-accumulates wherever its decision is read.
    """
    given = encoding.validate_archs(archs, networks.num_choices)
    return np.stack(
        [np.array(table)[given[..., place]] for place, table in enumerate(_light(networks))], -1
    ).astype(np.int32)


@functools.lru_cache(64)
def _light(networks: ImageNetwork) -> list[list[int]]:
    """Return by decision and operation what stands for it: the first light one for a light one."""
    size = 2**networks.halvings
    images = jax.ShapeDtypeStruct((1, size, size, networks.colors), np.float32)
    # Architectures of positions: each switch then holds the position of its decision.
    positions = np.arange(len(networks.num_choices))
    steps = graph.record(networks.forward, positions, images, networks.norm).steps
    heavy = [[False] * count for count in networks.num_choices]
    for step in steps:
        if isinstance(step.part, graph.Switch):
            costs = [described.macs for _, described in graph.described(step, networks.norm)]
            place = int(step.part.decision)
            heavy[place] = [
                known or cost > 0 for known, cost in zip(heavy[place], costs, strict=True)
            ]
    return [
        [number if known else row.index(False) for number, known in enumerate(row)] for row in heavy
    ]
