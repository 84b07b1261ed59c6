"""Networks whose wiring is data: a stem, nodes that add what comes in, and a linear read-out.

In `post` order an edge with weights is ReLU(W x), as in Chen et al., NeurIPS 2022, arXiv
2205.05662, equation 1; in `pre` order it is W ReLU(x), as in NAS-Bench-201. What `W` is (a matrix,
a convolution) is for `dag_mlp` and `dag_cnn` to say; for wirings see `jaxnas.wiring`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check
from jaxnas import wiring as wirings
from jaxnas.network import Net, Network, Operation, StaticArch, Value, Weights, layers, module
from jaxnas.network import operations as ops
from jaxnas.network.layers import Convolution
from jaxnas.network.normalization import Mode
from jaxnas.types import Array, Params, SearchSpace, TrainableFn
from jaxnas.wiring import ZERO

Order = Literal["post", "pre"]
Stem = Literal["linear", "relu"]
Parameterization = Literal["ntk", "standard"]

_CHOICES = {
    "order": ("post", "pre"),
    "stem": ("linear", "relu"),
    "parameterization": ("ntk", "standard"),
}


class Wired(Network):
    """Any wiring of layers of one kind; its subclasses say which.

    Attributes:
        nodes: of the cell, input and output included.
        width: of every node, in units or channels.
        classes: number of logits, K.
        order: `post` or `pre`, see the module.
        stem: the layer before node 0, `linear` or `relu`.
        parameterization: `ntk`, weights of variance 1 that are scaled in the forward pass, or
            `standard`, weights of the scaled variance: the same outputs, other gradients.
        readout_gain: standard deviation of the read-out's weights times sqrt(fan_in).
        biases: whether layers have biases, zero at first.
    """

    norm: Mode = "none"
    nodes: int = 4
    width: int = 256
    classes: int = 10
    order: Order = "post"
    stem: Stem = "linear"
    parameterization: Parameterization = "ntk"
    readout_gain: float = 1.0
    biases: bool = False

    kernel_size = 0
    """Side of the convolutions; 0 if layers are matrices."""

    def enter(self, net: Net, x: Value) -> Value:
        """Write down what the stem reads, of inputs `[B, ...]`."""
        return x

    def leave(self, net: Net, x: Value) -> Value:
        """Write down what the read-out reads, `[B, F]`, of the last node."""
        return x

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what the network of a wiring computes."""
        live = pruned(np.array(arch)) if isinstance(arch, tuple) else wirings.prune(arch)
        last = net.stage("stem", self._stem, x, scoped=False)
        last = net.stage("cell", functools.partial(self._cell, live), last, scoped=False)
        return net.stage("readout", self._readout, last, scoped=False)

    def _stem(self, net: Net, x: Value) -> Value:
        relu = "post" if self.stem == "relu" else ""
        first = self._layer(relu, 2**0.5 if relu else 1.0)
        return net(first, self.enter(net, x), name="stem")

    def _cell(self, live: Array | np.ndarray, net: Net, x: Value) -> Value:
        offered = {"zero": ops.NONE, "skip": ops.IDENTITY, "": self._layer(self.order, 2**0.5)}
        decisions = live if isinstance(live, jax.Array) else live.tolist()
        nodes, edge = [x], 0
        for target in range(1, self.nodes):
            into = []
            for source in range(target):
                name = edge_name(source, target)
                into.append(net.choose(name, offered, decisions[edge], nodes[source]))
                edge += 1
            nodes.append(net.add(*into))
        return nodes[-1]

    def _readout(self, net: Net, x: Value) -> Value:
        layer = weighted(features=self.classes, **self._options(self.readout_gain))
        return net(layer, self.leave(net, x), name="readout")

    def _layer(self, relu: str, gain: float) -> Operation:
        options = self._options(gain)
        return weighted(features=self.width, size=self.kernel_size, relu=relu, **options)

    def _options(self, gain: float) -> dict[str, Any]:
        return {"gain": gain, "scaled": self.parameterization == "ntk", "biased": self.biases}

    def num_decisions(self) -> int:
        """Return the number of possible edges."""
        return len(wirings.edges(self.nodes))


@ops.operation
def weighted(
    weights: Weights,
    x: Array,
    *,
    features: int,
    gain: float,
    scaled: bool,
    biased: bool,
    size: int = 0,
    relu: str = "",
) -> Array:
    """Return a layer whose weights have the standard deviation `gain / sqrt(fan_in)`.

    Args:
        weights: of the layer.
        x: activations `[B, F]`, or images.
        features: of the outputs.
        gain: see above.
        scaled: whether weights have variance 1, and are scaled here.
        biased: whether there is a bias, zero at first.
        size: side of a convolution; 0 for a matrix.
        relu: where there is a ReLU, `pre`, `post` or nowhere.
    """
    x = ops.relu(weights, x) if relu == "pre" else x
    shape = (*(size,) * (2 if size else 0), x.shape[-1], features)
    scale = gain / math.prod(shape[:-1]) ** 0.5
    kernel = weights.tensor("kernel", shape, deviation=1.0 if scaled else scale)
    outputs = weights.layer(Convolution() if size else layers.Dense(), {"kernel": kernel}, x)
    weights.cost(math.prod(x.shape[1:-1]) * kernel.size)
    outputs = scale * outputs if scaled else outputs
    if biased:
        bias = weights.tensor("bias", (features,))
        outputs = weights.layer(layers.Readable(_add_bias), {"bias": bias}, outputs)
    return ops.relu(weights, outputs) if relu == "post" else outputs


def _add_bias(tensors: layers.Tensors, x: Array) -> Array:
    return x + tensors["bias"][(None,) * (x.ndim - 1)]


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


def wired_space(name: str, networks: Wired, shape: Sequence[int]) -> SearchSpace:
    """Return the space of all wirings of n nodes, `3**(n (n - 1) / 2)` of them.

    Its `representative` leaves out dead edges and no more, so equal ones are equal for any weights.
    If edges could swap weights there were fewer: the 290 wirings of four nodes that it tells apart
    have 77 different kernels at infinite width, 70 in `pre` order.

    Args:
        name: of the space.
        networks: all of them in one, see `check_module`.
        shape: of one input.

    Raises:
        ValueError: fewer than 2 nodes.
    """
    nodes, count = networks.nodes, networks.num_decisions()
    wirings.num_nodes(np.broadcast_to(ZERO, count))
    one_input = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def init(key: Array, inputs: Array) -> Params:
        return networks.init(key, inputs, method="declare")["params"]

    def bind(arch: ArrayLike, params: Params) -> tuple[TrainableFn, Params]:
        if np.shape(arch) != (count,):
            raise ValueError(
                f"A wiring of {nodes} nodes is int32[{count}]: got shape {list(np.shape(arch))}; "
                "use jax.vmap for many."
            )
        if isinstance(arch, jax.core.Tracer):
            return networks.bound(arch), params
        bound = networks.bound(StaticArch(pruned(arch).tolist()))
        return bound, module.pick(params, bound.graph(one_input).tensors)

    def from_string(code: str) -> np.ndarray:
        wiring = wirings.from_code(code)
        if len(wiring) != count:
            raise ValueError(f"A wiring of this space has {nodes} nodes: got {code!r}.")
        return wiring

    fields = {field.name for field in dataclasses.fields(networks)}
    return SearchSpace(
        name=name,
        num_choices=(3,) * count,
        init=init,
        bind=bind,
        to_string=wirings.to_code,
        from_string=from_string,
        is_connected=wirings.is_connected,
        representative=pruned,
        num_params=lambda arch: module.count_params(networks, one_input)(pruned(arch)),
        cells=wirings.drawn,
        module=lambda arch: module.Architecture(networks, tuple(pruned(arch).tolist())),
        options={
            field: getattr(networks, field)
            for field in sorted(fields - {"parent", "name", "norm", "colors"})
        },
    )


def check_module(networks: Wired, sizes: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """Check the options of a module.

    Args:
        networks: the module.
        sizes: by name, what must be a positive integer beside width and classes.
        choices: by name, the values of an option that the subclass adds.

    Raises:
        ValueError: an unknown option, a size below 1, or a ReLU stem in `pre` order.
    """
    for name, values in {**_CHOICES, **choices}.items():
        check.choice(name, getattr(networks, name), values)
    for name, value in {**sizes, "width": networks.width, "classes": networks.classes}.items():
        check.integer(name, value, 1)
    if networks.order == "pre" and networks.stem == "relu":
        raise ValueError(
            "In pre order the stem is linear, a ReLU follows anyway: got stem='relu'; use "
            "order='post' or stem='linear'."
        )
