"""Networks that are a chain of blocks and take the architecture as data.

A space says which blocks there are and what tensors they have; how the chain is applied,
differentiated by the parameters, read example by example and looked into stage by stage is the same
for all, and written here.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnas import gradients
from jaxnas.spaces import images, normalization, operations, plans, tensors
from jaxnas.types import Array, Outputs, Params, Passed, Pullback, Readings, Stage


class Link(NamedTuple):
    """A block that is repeated, once for each name; the parameters of each are under its name."""

    names: tuple[str, ...]
    block: plans.Block


class Chain(nn.Module):
    """A network of a space; a space's own derives from it.

    Attributes:
        norm: mode of the normalisation layers.
    """

    norm: normalization.Mode = "batch"

    def links(self, arch: plans.Arch) -> list[Link]:
        """Return the blocks of architecture `arch` in order; the last is `operations.linear`."""
        raise NotImplementedError

    def tensors(self, colours: int) -> dict[str, tensors.Tensors]:
        """Return the parameter tensors of each block, by name, for images of so many colours."""
        raise NotImplementedError

    def __call__(self, arch: plans.Arch, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs of architecture `arch` for `inputs` `[B, H, W, colours]`.

        Args:
            arch: a `StaticArch`, which reads only the parameters of its own operations, or a traced
                `int32[D]` or a `Bucket`, which read those of all.
            inputs: images.
            statistics: running statistics (as in `Outputs.statistics`) for the `eval` mode of a
                `StaticArch`; mean 0 and variance 1 if None.

        Raises:
            ValueError: `statistics` in another mode, or for a traced architecture.
        """
        if self.is_initializing():
            self.declare(inputs.shape[-1], inputs.dtype)
        params = self.variables["params"]
        return BoundChain(self.clone(parent=None), arch)(params, inputs, statistics)

    @nn.compact
    def declare(self, colours: int, dtype: jnp.dtype) -> None:
        """Declare the parameters of all operations, for images of so many colours."""
        for name, own in self.tensors(colours).items():
            self.param(name, functools.partial(tensors.initialise, own, dtype))


@dataclasses.dataclass(frozen=True)
class BoundChain:
    """A `Chain` with its architecture filled in: a `PerExampleDifferentiable`, and `Staged`."""

    module: Chain
    arch: plans.Arch

    def __call__(self, params: Params, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for `inputs` `[B, H, W, colours]`; see `Chain.__call__`."""
        plans.validate_statistics(statistics, self.module.norm, self.arch)
        return _network(self.module, self.arch, params, inputs, statistics)

    def per_example_vjp(self, params: Params, inputs: Array) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients; see `types.Pullback`.

        In the modes that couple examples (`batch`) these are the contributions of each example to
        the gradient of the batch, input times back-propagated error layer by layer; in all others
        they are what a loop over the examples gives.
        """
        outputs, saved = _forward(self.module, self.arch, params, inputs, None)

        def pullback(cotangent: Array, readings: Readings) -> tuple[Params, ...]:
            kept = _backward(self.module, self.arch, saved, cotangent, None, readings)[1]
            nothing = functools.partial(_read_zeros, readings=readings, batch=inputs.shape[0])
            return gradients.by_reading(_each(params, kept, nothing), readings, params)

        return outputs, pullback

    def stages(self, params: Params, *, normalized: bool = True) -> list[Stage]:
        """Return the blocks as stages; without normalisation layers if not `normalized`."""
        module = self.module if normalized else self.module.clone(norm="none")

        def stage(block: plans.Block, own: Params, inputs: Any) -> Passed:
            outputs, saved = block.forward(own, inputs, None)
            return Passed(outputs, block.see(saved), functools.partial(block.backward, saved))

        return [
            functools.partial(stage, block, params.get(name, {}))
            for names, block in module.links(self.arch)
            for name in names
        ]


@dataclasses.dataclass(frozen=True)
class ImageChain(BoundChain):
    """A `BoundChain` that says which images it can read; the bound network of a space.

    Attributes:
        space: name of its factory.
    """

    space: ClassVar[str]

    def __call__(self, params: Params, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for `inputs` `[B, H, W, colours]`."""
        self._validate(params, inputs)
        return super().__call__(params, inputs, statistics)

    def per_example_vjp(self, params: Params, inputs: Array) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients."""
        self._validate(params, inputs)
        return super().per_example_vjp(params, inputs)

    def _validate(self, params: Params, inputs: Array) -> None:
        colours = params["00_stem"]["kernel"].shape[2]
        images.validate(inputs, space=self.space, colours=colours, norm=self.module.norm)


def initialiser(module: Chain, *, space: str, colours: int) -> Callable[[Array, Array], Params]:
    """Return `init(key, inputs) -> params` of a space whose networks read images.

    Args:
        module: any of its networks.
        space: name of its factory.
        colours: channels of the images.
    """

    def init(key: Array, inputs: Array) -> Params:
        images.validate(inputs, space=space, colours=colours, norm=module.norm)
        return module.init(key, inputs.shape[-1], inputs.dtype, method="declare")["params"]

    return init


def validate_sizes(
    *sizes: tuple[str, Any, int, int], advice: str = "; the default is the benchmark's."
) -> None:
    """Raise `ValueError` unless each `(name, value, least, most)` is an integer in its range."""
    for name, value, least, most in sizes:
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"{name} must be an integer from {least} to {most}: got {value!r}{advice}"
            )


def _forward(
    module: Chain, arch: plans.Arch, params: Params, inputs: Array, statistics: Any
) -> tuple[Outputs, Any]:
    x, saved = inputs, []
    by_name: dict[str, Any] = {}
    walk = isinstance(arch, plans.StaticArch | plans.SuperArch)
    for names, block in module.links(arch):
        own = [(statistics or {}).get(name) for name in names]
        x, of_link = plans.repeat_forward(block, [params.get(n, {}) for n in names], x, own, walk)
        saved.append(of_link)
        if walk:
            by_name |= dict(zip(names, of_link, strict=True))
    return Outputs(x, saved[-1][0].inputs, _statistics(by_name) if walk else ()), saved


def _backward(
    module: Chain,
    arch: plans.Arch,
    saved: Any,
    logits_cotangent: Array,
    features_cotangent: Array | None,
    readings: Readings,
) -> tuple[Array, dict[str, Any]]:
    links = list(zip(module.links(arch), saved, strict=True))
    cotangent = logits_cotangent
    kept: dict[str, Any] = {}
    for position, ((names, block), of_link) in reversed(list(enumerate(links))):
        cotangent, of_names = plans.repeat_backward(block, of_link, cotangent, readings)
        kept |= dict(zip(names, of_names, strict=True))
        if position == len(links) - 1 and features_cotangent is not None:
            cotangent = cotangent + features_cotangent
    return cotangent, kept


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _network(
    module: Chain, arch: plans.Arch, params: Params, inputs: Array, statistics: Any
) -> Outputs:
    return _forward(module, arch, params, inputs, statistics)[0]


def _network_forward(
    module: Chain, arch: plans.Arch, params: Params, inputs: Array, statistics: Any
) -> tuple[Outputs, Any]:
    outputs, saved = _forward(module, arch, params, inputs, statistics)
    return outputs, (arch, params, saved)


def _network_backward(module: Chain, kept: Any, cotangent: Outputs) -> tuple[Any, ...]:
    arch, params, saved = kept
    only = (gradients.GRADIENT,)
    inputs_gradient, kept = _backward(
        module, arch, saved, cotangent.logits, cotangent.features, only
    )
    kept = _each(params, kept, lambda tensor: (jnp.zeros_like(tensor),))
    return None, gradients.by_reading(kept, only, params)[0], inputs_gradient, None


_network.defvjp(_network_forward, _network_backward)


def _statistics(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the batch statistics of each normalisation layer, named as the parameters are."""
    return jax.tree.map(
        lambda residuals: residuals.normalized and residuals.normalized.statistics,
        saved,
        is_leaf=lambda node: isinstance(node, operations.Residuals),
    )


def _each(params: Params, kept: Any, nothing: Callable[[Array], Any]) -> list[Any]:
    """Return what is kept of each tensor, `nothing(tensor)` where no gradient reaches it."""
    if not isinstance(params, dict):
        return [nothing(params) if kept is None else kept]
    found = {} if kept is None else kept
    return [
        leaf for name in sorted(params) for leaf in _each(params[name], found.get(name), nothing)
    ]


@functools.partial(jax.jit, static_argnames=("readings", "batch"))
def _read_zeros(tensor: Array, *, readings: Readings, batch: int) -> Any:
    return gradients.read_tensor(
        readings,
        tensor,
        lambda: jnp.zeros_like(tensor),
        lambda: jnp.zeros((batch, *tensor.shape), tensor.dtype),
    )
