"""Fully connected networks whose wiring is data, and can be trained.

A stem, a cell of nodes that add what comes in, and a linear read-out, see `wired`. The defaults are
those of `connectivity.recursion` at finite width, if node 0 has the Gram matrix `X X^T / F` of
inputs `[B, F]`; `RELEASED` has the options of the released code of Chen et al., NeurIPS 2022, arXiv
2205.05662.
"""

import jax.numpy as jnp

from jaxnas import check
from jaxnas import wiring as wirings
from jaxnas.network import Net, Value
from jaxnas.network import operations as ops
from jaxnas.spaces.wired import Wired, check_module, wired_space
from jaxnas.types import Array, SearchSpace


class DagMLP(Wired):
    """Any wiring of fully connected layers; see `Wired` for its other options.

    Attributes:
        features: of an input, all axes together.
    """

    features: int = 3 * 32**2

    def enter(self, net: Net, x: Value) -> Value:
        """Write down inputs `[B, ...]` as rows."""
        return net(ops.flatten(), x)

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless the network can read the inputs."""
        if (
            inputs.ndim < 2
            or inputs[0].size != self.features
            or not jnp.issubdtype(inputs.dtype, jnp.floating)
        ):
            raise ValueError(
                f"This network reads floats [B, ...] of {self.features} features: got "
                f"{inputs.dtype}{list(inputs.shape)}; name the number when you make the space: "
                "dag_mlp(features=...)."
            )


RELEASED = DagMLP(
    width=1024, stem="relu", parameterization="standard", readout_gain=2**0.5, biases=True
)
"""The networks of the paper's released code: the theory has neither their stem nor their biases."""


def dag_mlp(
    module: DagMLP | None = None, *, nodes: int = 4, features: int = 3 * 32**2
) -> SearchSpace:
    """Return the space of all wirings of `nodes` nodes of fully connected layers.

    Args:
        module: the networks; `DagMLP()` if None.
        nodes: of the cell, input and output included.
        features: of an input, all axes together.

    Raises:
        ValueError: a size below 1 (2 nodes), or an unknown option of the module.
    """
    check.integer("nodes", nodes, 2, wirings.MAX_NODES)
    check.integer("features", features, 1)
    module = check.instance("module", DagMLP() if module is None else module, DagMLP, "a DagMLP")
    networks = module.clone(nodes=nodes, features=features)
    check_module(networks, {}, {})
    return wired_space("dag_mlp", networks, (features,))
