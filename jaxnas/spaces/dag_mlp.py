"""Fully connected networks whose wiring is data, and can be trained.

A stem, a cell of nodes that add what comes in (see `jaxnas.wiring`), and a linear read-out. In
`post` order an edge with weights is ReLU(W x), as in Chen et al., NeurIPS 2022, arXiv 2205.05662,
equation 1; in `pre` order it is W ReLU(x), as in NAS-Bench-201. The defaults are those of
`connectivity.recursion` at finite width, if node 0 has the Gram matrix `X X^T / F` of inputs
`[B, F]`; `RELEASED` has the options of the paper's released code.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from jaxnas import wiring as wirings
from jaxnas.types import Array, Network, Outputs, Params, SearchSpace
from jaxnas.wiring import LINEAR, SKIP, ZERO

Order = Literal["post", "pre"]
Stem = Literal["linear", "relu"]
Parameterisation = Literal["ntk", "standard"]


class DagMLP(nn.Module):
    """Any wiring of fully connected layers.

    Attributes:
        width: of every node.
        classes: number of logits, K.
        order: `post` or `pre`, see the module.
        stem: the layer before node 0, `linear` or `relu`.
        parameterisation: `ntk`, weights of variance 1 that are scaled in the forward pass, or
            `standard`, weights of the scaled variance: the same outputs, other gradients.
        readout_gain: standard deviation of the read-out's weights times sqrt(width).
        biases: whether layers have biases, zero at first.
    """

    width: int = 256
    classes: int = 10
    order: Order = "post"
    stem: Stem = "linear"
    parameterisation: Parameterisation = "ntk"
    readout_gain: float = 1.0
    biases: bool = False

    @nn.compact
    def __call__(self, wiring: ArrayLike, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for `inputs` `[B, ...]`.

        Args:
            wiring: `int32[E]`; a concrete one reads the parameters of its live edges only.
            inputs: flattened to `[B, F]`.
            statistics: ignored; there is no normalisation.
        """
        traced = isinstance(wiring, jax.core.Tracer)
        live = wirings.prune(wiring) if traced else pruned(wiring)
        rows = inputs.reshape(len(inputs), -1)
        relu_stem = self.stem == "relu"
        first = self._layer("stem", rows, self.width, 2**0.5 if relu_stem else 1.0)
        nodes = [nn.relu(first) if relu_stem else first]
        for edge, (source, target) in enumerate(wirings.edges(wirings.num_nodes(live))):
            if source == 0:
                nodes.append(jnp.zeros_like(first))
            if traced or live[edge] == LINEAR:
                layer = self._edge(source, target, nodes[source])
                nodes[target] += jnp.where(live[edge] == LINEAR, layer, 0)
            if traced or live[edge] == SKIP:
                nodes[target] += jnp.where(live[edge] == SKIP, nodes[source], 0)
        logits = self._layer("readout", nodes[-1], self.classes, self.readout_gain)
        return Outputs(logits, nodes[-1])

    def _edge(self, source: int, target: int, signal: Array) -> Array:
        name = edge_name(source, target)
        if self.order == "post":
            return nn.relu(self._layer(name, signal, self.width, 2**0.5))
        return self._layer(name, nn.relu(signal), self.width, 2**0.5)

    def _layer(self, name: str, signal: Array, outputs: int, gain: float) -> Array:
        fan_in = signal.shape[-1]
        scale = gain / fan_in**0.5
        stored, applied = (1.0, scale) if self.parameterisation == "ntk" else (scale, 1.0)
        shapes = {"kernel": (fan_in, outputs)} | ({"bias": (outputs,)} if self.biases else {})

        def initialise(key: Array) -> dict[str, Array]:
            tensors = {part: jnp.zeros(shape, signal.dtype) for part, shape in shapes.items()}
            kernel = stored * jax.random.normal(key, shapes["kernel"], signal.dtype)
            return tensors | {"kernel": kernel}

        tensors = self.param(name, initialise)
        product = applied * (signal @ tensors["kernel"])
        return product + tensors["bias"][None, :] if self.biases else product


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


RELEASED = DagMLP(
    width=1024, stem="relu", parameterisation="standard", readout_gain=2**0.5, biases=True
)
"""The networks of the paper's released code: the theory has neither their stem nor their biases."""


def dag_mlp(
    module: DagMLP | None = None, *, nodes: int = 4, features: int = 3 * 32**2
) -> SearchSpace:
    """Return the space of all wirings of `nodes` nodes, `3**(nodes (nodes - 1) / 2)` of them.

    Its `representative` leaves out dead edges; it does not know that a chain of skips can be
    spelled in several ways, so some wirings that are the same function keep their own.

    Args:
        module: the networks; `DagMLP()` if None.
        nodes: of the cell, input and output included.
        features: of an input, all axes together.

    Raises:
        ValueError: a size below 1 (2 nodes), or an unknown option of the module.
    """
    module = DagMLP() if module is None else module
    _check_module(module, features)
    wirings.num_nodes(np.broadcast_to(ZERO, max(nodes * (nodes - 1) // 2, 0)))
    count = len(wirings.edges(nodes))

    def init(key: Array, inputs: Array) -> Params:
        _check_inputs(inputs, features)
        everything = np.full(count, LINEAR, np.int32)
        return module.init(key, everything, inputs)["params"]

    def bind(arch: ArrayLike, params: Params) -> tuple[Network, Params]:
        if np.shape(arch) != (count,):
            raise ValueError(
                f"A wiring of {nodes} nodes is int32[{count}]: got shape {list(np.shape(arch))}; "
                "use jax.vmap for many."
            )
        if isinstance(arch, jax.core.Tracer):
            return functools.partial(_apply, module, arch), params
        live = pruned(arch)
        unread = {
            edge_name(*edge)
            for edge, kind in zip(wirings.edges(nodes), live, strict=True)
            if kind != LINEAR
        }
        own = {name: tensors for name, tensors in params.items() if name not in unread}
        return functools.partial(_apply, module, live), own

    def from_string(code: str) -> np.ndarray:
        wiring = wirings.from_code(code)
        if len(wiring) != count:
            raise ValueError(f"A wiring of this space has {nodes} nodes: got {code!r}.")
        return wiring

    def num_params(arch: ArrayLike) -> int:
        sizes = [features * module.width, module.width * module.classes]
        outputs = [module.width, module.classes]
        linear = int((pruned(arch) == LINEAR).sum())
        weights = sum(sizes) + linear * module.width**2
        return weights + module.biases * (sum(outputs) + linear * module.width)

    return SearchSpace(
        name="dag_mlp",
        num_choices=(3,) * count,
        init=init,
        bind=bind,
        to_string=wirings.to_code,
        from_string=from_string,
        is_connected=wirings.is_connected,
        representative=pruned,
        num_params=num_params,
        options={"nodes": nodes, "features": features}
        | {name: getattr(module, name) for name in _OPTIONS},
    )


def _apply(
    module: DagMLP, wiring: ArrayLike, params: Params, inputs: Array, statistics: Any = None
) -> Outputs:
    _check_inputs(inputs, params["stem"]["kernel"].shape[0])
    outputs = module.apply({"params": params}, wiring, inputs, statistics)
    assert isinstance(outputs, Outputs)
    return outputs


def _check_module(module: DagMLP, features: int) -> None:
    for name, choices in _CHOICES.items():
        if getattr(module, name) not in choices:
            raise ValueError(
                f"{name} must be one of {', '.join(choices)}: got {getattr(module, name)!r}."
            )
    for name, value in {
        "features": features,
        "width": module.width,
        "classes": module.classes,
    }.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer: got {value!r}.")
    if module.order == "pre" and module.stem == "relu":
        raise ValueError(
            "In pre order the stem is linear, a ReLU follows anyway: got stem='relu'; use "
            "order='post' or stem='linear'."
        )


def _check_inputs(inputs: Array, features: int) -> None:
    if (
        inputs.ndim < 2
        or inputs[0].size != features
        or not jnp.issubdtype(inputs.dtype, jnp.floating)
    ):
        raise ValueError(
            f"This network reads floats [B, ...] of {features} features: got {inputs.dtype}"
            f"{list(inputs.shape)}; name the number when you make the space: dag_mlp(features=...)."
        )


_CHOICES = {
    "order": ("post", "pre"),
    "stem": ("linear", "relu"),
    "parameterisation": ("ntk", "standard"),
}
_OPTIONS = ("width", "classes", *_CHOICES, "readout_gain", "biases")
