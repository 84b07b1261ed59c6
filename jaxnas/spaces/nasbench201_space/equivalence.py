"""Which cells are the same function, up to the names of their weights: 5,485 classes of 15,625.

Such cells need to be scored once. The benchmark's own isomorphism classes (6,466) separate some of
them: cells that differ in an edge without effect, in where a sum is formed, or in how an identity
is spelled.
"""

import functools
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.spaces.nasbench201_space import cell

Key = tuple[object, ...]


class _Term(NamedTuple):
    """Something that is computed, and how often each earlier term is added to its input."""

    kind: str
    inputs: dict[int, int]


def representative(arch: ArrayLike) -> np.ndarray:
    """Return the cell `int32[6]` that stands for all that are the same function.

    Of these the one with the fewest operations, the first of them in lexicographic order.
    """
    code = encoding.encode(cell.one(arch), cell.NUM_CHOICES)
    return encoding.decode(_representatives()[code], cell.NUM_CHOICES)


def function_class(arch: ArrayLike) -> Key:
    """Return a key that cells share if they are the same function of the input and the weights.

    A cell is a graph of what it computes: convolutions, each with weights of its own, and poolings.
    Sums and identities vanish in the counts of who is added to whose input, poolings of the same
    are one, and what does not reach the output is left out. The key lists for each term what leads
    to it and what it leads to; on all cells that tells apart exactly the graphs that differ.
    """
    terms = _terms(cell.one(arch))
    before: list[Key] = []
    for kind, inputs in terms:
        before.append((kind, *sorted((before[source], count) for source, count in inputs.items())))
    after: list[list[Key]] = [[] for _ in terms]
    key: list[Key] = []
    for target in reversed(range(len(terms))):
        uses = tuple(sorted(after[target]))
        if uses:
            key.append((before[target], uses))
        if uses or target == len(terms) - 1:  # it reaches the output, or is it
            for source, count in terms[target].inputs.items():
                after[source].append((before[target], uses, count))
    return tuple(sorted(key))


def _terms(decisions: tuple[int, ...]) -> list[_Term]:
    """Return the terms in an order of computation: the input first, the output last."""
    terms = [_Term("input", {})]
    sums: list[dict[int, int]] = [{0: 1}, {}, {}, {}]
    for decision, (source, target) in zip(decisions, cell.EDGES, strict=True):
        inputs = sums[source]
        if decision == cell.SKIP_CONNECT:
            added = inputs
        elif decision in (cell.NOR_CONV_1X1, cell.NOR_CONV_3X3):
            # Without an input, both give the bias of their normalization.
            terms.append(_Term(cell.OPERATIONS[decision] if inputs else "bias", inputs))
            added = {len(terms) - 1: 1}
        elif decision == cell.AVG_POOL_3X3 and inputs:
            pooling = _Term(cell.OPERATIONS[decision], inputs)
            if pooling not in terms:
                terms.append(pooling)
            added = {terms.index(pooling): 1}
        else:
            added = {}
        sums[target] = sums[target] | {
            term: sums[target].get(term, 0) + count for term, count in added.items()
        }
    return [*terms, _Term("output", sums[-1])]


@functools.cache
def _representatives() -> np.ndarray:
    """Return the code of the representative of each cell, by code, `int64[15625]`."""
    archs = encoding.enumerate_archs(cell.NUM_CHOICES)
    first: dict[Key, int] = {}
    stands = np.zeros(len(archs), int)
    for code in np.argsort((archs != cell.NONE).sum(1), kind="stable").tolist():
        stands[code] = first.setdefault(function_class(archs[code]), code)
    return stands
