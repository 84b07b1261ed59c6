"""The macro network of NAS-Bench-201 as a Flax module that takes the architecture as data.

Stem - N cells - residual reduction - N cells - residual reduction - N cells - classifier, at C, 2C
and 4C channels. Source: Dong and Yang, ICLR 2020, arXiv 2001.00326, figure 1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnas import gradients
from jaxnas.spaces import normalization, operations, plans
from jaxnas.spaces.nasbench201 import blocks, parameters
from jaxnas.types import Array, Outputs, Params, Pullback, Readings


class NASBench201(nn.Module):
    """Any NAS-Bench-201 network.

    Attributes:
        channels: width of the stem, C.
        cells: number of cells in each of the three stages, N.
        classes: number of logits, K.
        norm: mode of the normalisation layers.
    """

    channels: int = 16
    cells: int = 5
    classes: int = 10
    norm: normalization.Mode = "batch"

    def __call__(self, arch: plans.Arch, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs of architecture `arch` for `inputs` `[B, H, W, colours]`.

        Args:
            arch: a `StaticArch`, which reads only the parameters of its own operations, or a traced
                `int32[6]` or a `Bucket`, which read those of all.
            inputs: images; H and W divisible by 4.
            statistics: running statistics (as in `Outputs.statistics`) for the `eval` mode of a
                `StaticArch`; mean 0 and variance 1 if None.

        Raises:
            ValueError: `statistics` in another mode, or for a traced architecture.
        """
        if self.is_initializing():
            self.declare(inputs.shape[-1], inputs.dtype)
        if statistics is not None and not (
            self.norm == "eval" and isinstance(arch, plans.StaticArch)
        ):
            raise ValueError(
                "Running statistics belong to one trained network in eval mode: got them in mode "
                f"{self.norm!r} for a {type(arch).__name__}; bind a concrete architecture."
            )
        return _network(self._wiring(), arch, self.variables["params"], inputs, statistics)

    @nn.compact
    def declare(self, colours: int, dtype: jnp.dtype) -> None:
        """Declare the parameters of all operations, for images of so many colours."""
        for name, block in self._parameters(colours).items():
            self.param(name, functools.partial(parameters.initialise, block, dtype))

    def per_example_vjp(
        self, arch: plans.Arch, params: Params, inputs: Array
    ) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients; see `types.Pullback`.

        In the modes that couple examples (`batch`) these are the contributions of each example to
        the gradient of the batch, input times back-propagated error layer by layer; in all others
        they are what a loop over the examples gives.
        """
        wiring = self._wiring()
        outputs, saved = _forward(wiring, arch, params, inputs, None)

        def pullback(cotangent: Array, readings: Readings) -> tuple[Params, ...]:
            kept = _backward(wiring, arch, saved, cotangent, None, readings)[1]
            nothing = functools.partial(_read_zeros, readings=readings, batch=inputs.shape[0])
            return gradients.by_reading(_each(params, kept, nothing), readings, params)

        return outputs, pullback

    def _wiring(self) -> "_Wiring":
        return _Wiring(self.cells, self.norm)

    def _parameters(self, colours: int) -> dict[str, parameters.Block]:
        """Return the parameter tensors of each block, by name."""
        width, normalised = self.channels, self.norm != "none"
        blocks_by_name = {}
        for name in _names(self.cells):
            kind = name[3:]
            if kind == "stem":
                block = parameters.conv(3, colours, width, normalised)
            elif kind == "cell":
                block = parameters.cell(width, normalised)
            elif kind == "reduction":
                block = parameters.reduction(width, 2 * width, normalised)
                width *= 2
            elif kind == "norm":
                block = parameters.norm(width, normalised)
            else:
                block = parameters.linear(width, self.classes)
            blocks_by_name[name] = block
        return blocks_by_name


class _Wiring(NamedTuple):
    """What decides how the blocks are put together."""

    cells: int
    norm: normalization.Mode


def _names(cells: int) -> list[str]:
    """Return the names of all blocks; sorted, they are in the order of the network."""
    stage = ["cell"] * cells
    kinds = ["stem", *stage, "reduction", *stage, "reduction", *stage, "norm", "classifier"]
    return [f"{position:02d}_{kind}" for position, kind in enumerate(kinds)]


def _groups(wiring: _Wiring, arch: plans.Arch) -> list[tuple[list[str], plans.Block]]:
    """Return runs of blocks that repeat, in order, with their names."""
    mode = wiring.norm
    by_kind = {
        "stem": plans.block(operations.convolution_norm(mode, relu=False)),
        "cell": blocks.cell(arch, mode),
        "reduction": blocks.reduction(mode),
        "norm": plans.block(operations.norm_relu_pool(mode)),
        "classifier": plans.block(operations.linear()),
    }
    groups: list[tuple[list[str], plans.Block]] = []
    previous = None
    for name in _names(wiring.cells):
        kind = name[3:]
        if kind == previous:
            groups[-1][0].append(name)
        else:
            groups.append(([name], by_kind[kind]))
        previous = kind
    return groups


def _forward(
    wiring: _Wiring, arch: plans.Arch, params: Params, inputs: Array, statistics: Any
) -> tuple[Outputs, Any]:
    x, saved = inputs, []
    walk = isinstance(arch, plans.StaticArch)
    for names, block in _groups(wiring, arch):
        own = [(statistics or {}).get(name) for name in names]
        x, saved_by_group = plans.repeat_forward(
            block, [params.get(n, {}) for n in names], x, own, walk
        )
        saved.append(saved_by_group)
    features = saved[-1][0].inputs
    return Outputs(x, features, _statistics(wiring, saved) if walk else ()), saved


def _backward(
    wiring: _Wiring,
    arch: plans.Arch,
    saved: Any,
    logits_cotangent: Array,
    features_cotangent: Array | None,
    readings: Readings,
) -> tuple[Array, dict[str, Any]]:
    groups = _groups(wiring, arch)
    cotangent = logits_cotangent
    kept: dict[str, Any] = {}
    for (names, block), saved_by_group in reversed(list(zip(groups, saved, strict=True))):
        cotangent, by_name = plans.repeat_backward(block, saved_by_group, cotangent, readings)
        kept |= dict(zip(names, by_name, strict=True))
        if names[-1].endswith("classifier") and features_cotangent is not None:
            cotangent = cotangent + features_cotangent
    return cotangent, kept


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _network(
    wiring: _Wiring, arch: plans.Arch, params: Params, inputs: Array, statistics: Any
) -> Outputs:
    return _forward(wiring, arch, params, inputs, statistics)[0]


def _network_forward(
    wiring: _Wiring, arch: plans.Arch, params: Params, inputs: Array, statistics: Any
) -> tuple[Outputs, Any]:
    outputs, saved = _forward(wiring, arch, params, inputs, statistics)
    return outputs, (arch, params, saved)


def _network_backward(wiring: _Wiring, kept: Any, cotangent: Outputs) -> tuple[Any, ...]:
    arch, params, saved = kept
    only = (gradients.GRADIENT,)
    inputs_gradient, kept = _backward(
        wiring, arch, saved, cotangent.logits, cotangent.features, only
    )
    kept = _each(params, kept, lambda tensor: (jnp.zeros_like(tensor),))
    return None, gradients.by_reading(kept, only, params)[0], inputs_gradient, None


_network.defvjp(_network_forward, _network_backward)


def _statistics(wiring: _Wiring, saved: list[Any]) -> dict[str, Any]:
    """Return the batch statistics of each normalisation layer, named as the parameters are."""
    names = iter(_names(wiring.cells))
    by_name = {next(names): own for group in saved for own in group}
    return jax.tree.map(
        lambda residuals: residuals.normalized and residuals.normalized.statistics,
        by_name,
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
