"""Networks whose wiring is data: a stem, nodes that add what comes in, and a linear read-out.

In `post` order an edge with weights is ReLU(W x), as in Chen et al., NeurIPS 2022, arXiv
2205.05662, equation 1; in `pre` order it is W ReLU(x), as in NAS-Bench-201. What `W` is (a matrix,
a convolution) is for `dag_mlp` and `dag_cnn` to say; for wirings see `jaxnas.wiring`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from jaxnas import wiring as wirings
from jaxnas.network.convolution import convolve
from jaxnas.types import Array, Network, Outputs, Params, SearchSpace
from jaxnas.wiring import LINEAR, SKIP, ZERO

Order = Literal["post", "pre"]
Stem = Literal["linear", "relu"]
Parameterisation = Literal["ntk", "standard"]

_CHOICES = {
    "order": ("post", "pre"),
    "stem": ("linear", "relu"),
    "parameterisation": ("ntk", "standard"),
}


class Wired(nn.Module):
    """Any wiring of layers of one kind; its subclasses say which.

    Attributes:
        width: of every node, in units or channels.
        classes: number of logits, K.
        order: `post` or `pre`, see the module.
        stem: the layer before node 0, `linear` or `relu`.
        parameterisation: `ntk`, weights of variance 1 that are scaled in the forward pass, or
            `standard`, weights of the scaled variance: the same outputs, other gradients.
        readout_gain: standard deviation of the read-out's weights times sqrt(fan_in).
        biases: whether layers have biases, zero at first.
    """

    width: int = 256
    classes: int = 10
    order: Order = "post"
    stem: Stem = "linear"
    parameterisation: Parameterisation = "ntk"
    readout_gain: float = 1.0
    biases: bool = False

    def enter(self, inputs: Array) -> Array:
        """Return what the stem reads, of inputs `[B, ...]`."""
        raise NotImplementedError

    def kernel_shape(self, fan_in: int) -> tuple[int, ...]:
        """Return the shape of the weights of the stem or of an edge: `(..., fan_in, width)`."""
        raise NotImplementedError

    def leave(self, signal: Array) -> Array:
        """Return what the read-out reads, `[B, F]`, of the last node."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, wiring: ArrayLike, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for `inputs` `[B, ...]`.

        Args:
            wiring: `int32[E]`; a concrete one reads the parameters of its live edges only.
            inputs: what `enter` takes.
            statistics: ignored; there is no normalisation.
        """
        traced = isinstance(wiring, jax.core.Tracer)
        live = wirings.prune(wiring) if traced else pruned(wiring)
        relu_stem = self.stem == "relu"
        first = self._layer("stem", self.enter(inputs), 2**0.5 if relu_stem else 1.0)
        nodes = [nn.relu(first) if relu_stem else first]
        for edge, (source, target) in enumerate(wirings.edges(wirings.num_nodes(live))):
            if source == 0:
                nodes.append(jnp.zeros_like(first))
            if traced or live[edge] == LINEAR:
                layer = self._edge(source, target, nodes[source])
                nodes[target] += jnp.where(live[edge] == LINEAR, layer, 0)
            if traced or live[edge] == SKIP:
                nodes[target] += jnp.where(live[edge] == SKIP, nodes[source], 0)
        features = self.leave(nodes[-1])
        shape = (features.shape[-1], self.classes)
        return Outputs(self._weighted("readout", features, shape, self.readout_gain), features)

    def _edge(self, source: int, target: int, signal: Array) -> Array:
        name = edge_name(source, target)
        if self.order == "post":
            return nn.relu(self._layer(name, signal, 2**0.5))
        return self._layer(name, nn.relu(signal), 2**0.5)

    def _layer(self, name: str, signal: Array, gain: float) -> Array:
        return self._weighted(name, signal, self.kernel_shape(signal.shape[-1]), gain)

    def _weighted(self, name: str, signal: Array, shape: tuple[int, ...], gain: float) -> Array:
        scale = gain / math.prod(shape[:-1]) ** 0.5
        stored, applied = (1.0, scale) if self.parameterisation == "ntk" else (scale, 1.0)

        def initialise(key: Array) -> dict[str, Array]:
            kernel = stored * jax.random.normal(key, shape, signal.dtype)
            bias = jnp.zeros(shape[-1], signal.dtype)
            return {"kernel": kernel} | ({"bias": bias} if self.biases else {})

        tensors = self.param(name, initialise)
        kernel = tensors["kernel"]
        product = applied * (signal @ kernel if kernel.ndim == 2 else convolve(signal, kernel))
        return product + jnp.broadcast_to(tensors.get("bias", 0.0), product.shape)


def edge_name(source: int, target: int) -> str:
    """Return the name of the parameters of an edge."""
    return f"edge_{source:03d}_{target:03d}"


def pruned(wiring: ArrayLike) -> np.ndarray:
    """Return one concrete wiring without its dead edges, `int32[E]`.

    Raises:
        ValueError: not one wiring.
    """
    checked = wirings.validate(wiring)
    if checked.ndim != 1:
        raise ValueError(f"One wiring at a time: got shape {list(checked.shape)}; pass [E].")
    with jax.ensure_compile_time_eval():
        return np.asarray(wirings.prune(checked))


def wired_space(
    name: str,
    module: Wired,
    nodes: int,
    shape: Sequence[int],
    check: Callable[[Array], None],
) -> SearchSpace:
    """Return the space of all wirings of `nodes` nodes, `3**(nodes (nodes - 1) / 2)` of them.

    Its `representative` leaves out dead edges and no more, so equal ones are equal for any weights.
    If edges could swap weights there were fewer: the 290 wirings of four nodes that it tells apart
    have 77 different kernels at infinite width, 70 in `pre` order.

    Args:
        name: of the space.
        module: the networks, see `check_module`.
        nodes: of the cell, input and output included.
        shape: of one input.
        check: raises `ValueError` for inputs that do not fit.

    Raises:
        ValueError: fewer than 2 nodes.
    """
    wirings.num_nodes(np.broadcast_to(ZERO, max(nodes * (nodes - 1) // 2, 0)))
    count = len(wirings.edges(nodes))

    def init(key: Array, inputs: Array) -> Params:
        check(inputs)
        return module.init(key, np.full(count, LINEAR, np.int32), inputs)["params"]

    @functools.cache
    def sizes() -> dict[str, int]:
        inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        tensors = jax.eval_shape(init, jax.random.key(0), inputs)
        return {part: sum(leaf.size for leaf in own.values()) for part, own in tensors.items()}

    def bind(arch: ArrayLike, params: Params) -> tuple[Network, Params]:
        if np.shape(arch) != (count,):
            raise ValueError(
                f"A wiring of {nodes} nodes is int32[{count}]: got shape {list(np.shape(arch))}; "
                "use jax.vmap for many."
            )
        if isinstance(arch, jax.core.Tracer):
            return functools.partial(_apply, module, check, arch), params
        live = pruned(arch)
        return functools.partial(_apply, module, check, live), _read(params, live)

    def from_string(code: str) -> np.ndarray:
        wiring = wirings.from_code(code)
        if len(wiring) != count:
            raise ValueError(f"A wiring of this space has {nodes} nodes: got {code!r}.")
        return wiring

    return SearchSpace(
        name=name,
        num_choices=(3,) * count,
        init=init,
        bind=bind,
        to_string=wirings.to_code,
        from_string=from_string,
        is_connected=wirings.is_connected,
        representative=pruned,
        num_params=lambda arch: sum(_read(sizes(), pruned(arch)).values()),
        options={"nodes": nodes}
        | {
            field.name: getattr(module, field.name)
            for field in dataclasses.fields(module)
            if field.name not in ("parent", "name")
        },
    )


def check_module(module: Wired, sizes: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """Check the options of a module.

    Args:
        module: the networks.
        sizes: by name, what must be a positive integer beside width and classes.
        choices: by name, the values of an option that the subclass adds.

    Raises:
        ValueError: an unknown option, a size below 1, or a ReLU stem in `pre` order.
    """
    for name, values in {**_CHOICES, **choices}.items():
        if getattr(module, name) not in values:
            raise ValueError(
                f"{name} must be one of {', '.join(values)}: got {getattr(module, name)!r}."
            )
    for name, value in {**sizes, "width": module.width, "classes": module.classes}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer: got {value!r}.")
    if module.order == "pre" and module.stem == "relu":
        raise ValueError(
            "In pre order the stem is linear, a ReLU follows anyway: got stem='relu'; use "
            "order='post' or stem='linear'."
        )


def _apply(
    module: Wired,
    check: Callable[[Array], None],
    wiring: ArrayLike,
    params: Params,
    inputs: Array,
    statistics: Any = None,
) -> Outputs:
    check(inputs)
    outputs = module.apply({"params": params}, wiring, inputs, statistics)
    assert isinstance(outputs, Outputs)
    return outputs


def _read(parts: Mapping[str, Any], live: np.ndarray) -> dict[str, Any]:
    """Return those of `parts`, by the names of parameters, that a pruned wiring reads."""
    unread = {
        edge_name(*edge)
        for edge, kind in zip(wirings.edges(wirings.num_nodes(live)), live, strict=True)
        if kind != LINEAR
    }
    return {name: own for name, own in parts.items() if name not in unread}
