"""The forms in which an architecture can enter a network.

What an architecture is decides how its network is carried out:

- **eager**: of a concrete architecture (`StaticArch`) only the chosen operations run, one after the
  other, each a small compiled program that all architectures share. Fastest on a CPU.
- **compiled**: a traced architecture is an argument of one program that is all architectures: each
  decision switches between its operations. Made for GPU and TPU.
- **bucket**: compiled, many at once. `jax.vmap` turns a switch into all of its branches; so the
  architectures of a `Bucket` agree in their heavy operations and switch between them together,
  and only what is light is computed in all its forms.
- **supernet**: each decision of a `SuperArch` is a set of operations, whose outputs are added.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

from jaxnas.types import Array


@jax.tree_util.register_static
class StaticArch(tuple[int, ...]):
    """A concrete architecture; static under every JAX transformation, so it stays concrete."""

    __slots__ = ()


@jax.tree_util.register_static
class SuperArch(tuple[tuple[int, ...], ...]):
    """A concrete supernet: for each decision the operations that are alive, in order."""

    __slots__ = ()


class Decision(NamedTuple):
    """A decision in a bucket: `each`, and `shared` by all where it is a heavy operation."""

    each: Array
    shared: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bucket:
    """A traced architecture that stands, under `jax.vmap`, for many with the same pattern.

    Attributes:
        decisions: `int32[D]`, mapped.
        pattern: `int32[D]`, not mapped; the decisions, but for which light operation they name.
    """

    decisions: Array
    pattern: Array

    def __getitem__(self, position: int) -> Decision:
        """Return one decision."""
        return Decision(self.decisions[position], self.pattern[position])


Arch = StaticArch | SuperArch | Array | Bucket


def is_traced(arch: Any) -> bool:
    """Return whether an architecture is an argument of a compiled program."""
    return isinstance(arch, jax.core.Tracer | Bucket)


def each(decision: Any) -> Array:
    """Return a traced decision as that of each architecture, also one in a bucket."""
    return decision.each if isinstance(decision, Decision) else decision


def validate_traced(arch: Array, num_decisions: int) -> None:
    """Raise `ValueError` unless a traced architecture is one, `int32[D]`."""
    if arch.shape != (num_decisions,) or arch.dtype.kind not in "iu":
        raise ValueError(
            f"An architecture of this space is int32[{num_decisions}]: got "
            f"{arch.dtype}{list(arch.shape)}; use jax.vmap or jax.lax.map for many."
        )
