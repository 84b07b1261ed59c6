"""A search space of transformers: the shapes of a network follow from its architecture.

So a network draws weights of its own when it is bound, and runs eagerly, layer by layer. Layers of
equal shapes share their programs, also those of different networks.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, encoding
from jaxnas.benchmarks import transformers
from jaxnas.benchmarks.transformers import Choices
from jaxnas.network import Architecture, Network, StaticArch, graph, tensors
from jaxnas.network.normalization import Mode
from jaxnas.spaces.image_space import always_connected
from jaxnas.types import Array, Params, SearchSpace, TrainableFn, is_floating


class Transformer(Network):
    """All networks of a space of transformers; a space's class derives from it.

    Attributes:
        norm: always `instance`: tokens are normalized each by itself.
        colors: channels of the images.
        classes: number of logits, K.
        space: name of its factory.
        choices: what an architecture decides.
    """

    norm: Mode = "instance"
    classes: int = 10
    space: ClassVar[str]
    choices: ClassVar[Choices]

    def num_decisions(self) -> int:
        """Return how many decisions an architecture has."""
        return len(transformers.num_choices(self.choices))

    def chosen(self, arch: Any) -> dict[str, Any]:
        """Return by name what an architecture chooses: a value, or several in order."""
        found = transformers.chosen(self.choices, arch)
        return {
            choice.name: found[choice.name] if choice.places > 1 else found[choice.name][0]
            for choice in self.choices
        }

    def representative(self, arch: ArrayLike) -> np.ndarray:
        """Return the architecture `int32[D]` that stands for all that are the same network."""
        return np.array(arch, np.int32)

    def example(self) -> jax.ShapeDtypeStruct:
        """Return the shape of a batch of one example."""
        raise NotImplementedError


class VisionTransformer(Transformer):
    """A space of transformers that read square images.

    Attributes:
        image_size: height and width of the images in pixels.
    """

    image_size: int = 224

    def example(self) -> jax.ShapeDtypeStruct:
        """Return the shape of a batch of one image."""
        shape = (1, self.image_size, self.image_size, self.colors)
        return jax.ShapeDtypeStruct(shape, np.float32)

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless the networks can read the images."""
        wanted = list(self.example().shape[1:])
        if list(inputs.shape[1:]) != wanted or not is_floating(inputs):
            raise ValueError(
                f"This {self.space} reads normalized images {['B', *wanted]}: got "
                f"{inputs.dtype}{list(inputs.shape)}; resize them, or name image_size and colors "
                "when you make the space."
            )


def space_of(networks: Transformer) -> SearchSpace:
    """Return the search space of some transformers; the module's fields are its options.

    Raises:
        ValueError: fewer than two classes.
    """
    check.integer("classes", networks.classes, 2)
    choices = networks.choices
    sizes = transformers.num_choices(choices)

    def one(arch: ArrayLike) -> np.ndarray:
        return networks.representative(np.array(encoding.one(arch, sizes), np.int32))

    def init(key: Array, inputs: Array) -> Params:
        networks.validate(inputs)
        return key, inputs

    def bind(arch: Any, params: Params) -> tuple[TrainableFn, Params]:
        if isinstance(arch, jax.core.Tracer):
            raise ValueError(
                f"The networks of {networks.space} have different shapes: got a traced "
                "architecture; score concrete ones, by jaxnas.Scorer."
            )
        key, inputs = params
        bound = networks.bound(StaticArch(one(arch).tolist()))
        shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
        dtype = inputs.dtype if is_floating(inputs) else float
        return bound, _draw(bound.graph(shape), key, dtype)

    def num_params(arch: ArrayLike) -> int:
        bound = networks.bound(StaticArch(one(arch).tolist()))
        return tensors.count(bound.graph(networks.example()).tensors)

    fields = {field.name for field in dataclasses.fields(networks)} - {"parent", "name"}
    return SearchSpace(
        name=networks.space,
        num_choices=sizes,
        init=init,
        bind=bind,
        to_string=lambda arch: transformers.to_string(choices, arch),
        from_string=lambda string: transformers.from_string(choices, string),
        is_connected=functools.partial(always_connected, sizes),
        representative=one,
        num_params=num_params,
        options={field: getattr(networks, field) for field in sorted(fields)},
        is_traceable=False,
        module=lambda arch: Architecture(networks, tuple(one(arch).tolist())),
    )


def _draw(steps: graph.Graph, key: Array, dtype: Any) -> Params:
    """Return the weights of a network: those of the same step and shape are alike in all networks.

    By NumPy, for which a new shape is nothing to compile.
    """
    numbers = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist()).spawn
    params: dict[str, Any] = {}
    for step, rng in zip(steps.steps, numbers(len(steps.steps)), strict=True):
        for path, described in graph.described(step, steps.norm):
            at = params
            for name in path if described.tensors else ():
                at = at.setdefault(name, {})
            at.update(
                jax.tree.map(
                    functools.partial(_drawn, rng, dtype), described.tensors, is_leaf=_is_tensor
                )
            )
    return params


def _drawn(rng: np.random.Generator, dtype: Any, tensor: tensors.Tensor) -> Array:
    normal = (
        tensor.deviation * rng.standard_normal(tensor.shape, np.float32) if tensor.deviation else 0
    )
    return jnp.asarray(np.full(tensor.shape, tensor.value) + normal, dtype)


def _is_tensor(node: Any) -> bool:
    return isinstance(node, tensors.Tensor)


def validate_tokens(inputs: Array, positions: int) -> None:
    """Raise `ValueError` unless `inputs` are tokens `int32[B, 2, T]` that the encoder can read."""
    if inputs.ndim != 3 or inputs.shape[1] != 2 or inputs.dtype.kind not in "iu":
        raise ValueError(
            "An encoder reads tokens int32[B, 2, T], their numbers and segments: got "
            f"{inputs.dtype}{list(inputs.shape)}; use datasets.tokens.tokenize."
        )
    if not 1 <= inputs.shape[2] <= positions:
        raise ValueError(
            f"This encoder reads 1 to {positions} tokens an example: got "
            f"{inputs.shape[2]}; cut the texts when they are tokenized."
        )
