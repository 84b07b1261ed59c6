"""Networks written forwards, once: operations, their layers, and the ways to run them."""

from jaxnas.network.architectures import Arch, Bucket, StaticArch, SuperArch
from jaxnas.network.graph import Net, Value
from jaxnas.network.module import Architecture, BoundNetwork, Network
from jaxnas.network.operations import Operation, Weights, operation

__all__ = [
    "Arch",
    "Architecture",
    "BoundNetwork",
    "Bucket",
    "Net",
    "Network",
    "Operation",
    "StaticArch",
    "SuperArch",
    "Value",
    "Weights",
    "operation",
]
