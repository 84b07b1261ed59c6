import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import encoding
from jaxnas.spaces import nasbench201
from jaxnas.spaces.nasbench201_space import cell, equivalence

ARCHS = encoding.enumerate_archs(cell.NUM_CHOICES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((3, 0, 0, 1, 0, 0), (0, 2, 0, 1, 0, 0)),  # edges without effect: only 0 -> 3 counts
        ((3, 0, 0, 0, 1, 0), (0, 3, 0, 0, 0, 1)),  # the same chain through node 1 or node 2
        ((1, 0, 3, 0, 0, 1), (1, 0, 0, 0, 3, 0)),  # identities before and after a convolution
        ((3, 2, 0, 0, 1, 1), (2, 3, 0, 0, 1, 1)),  # the terms of a sum
        ((0, 0, 0, 0, 2, 0), (0, 0, 0, 0, 3, 0)),  # fed by nothing: the bias of either
        ((4, 4, 0, 0, 1, 1), (1, 1, 0, 0, 4, 4)),  # twice the same pooling
    ],
)
def test_the_same_function(one, other):
    assert equivalence.function_class(one) == equivalence.function_class(other)
    np.testing.assert_array_equal(
        equivalence.representative(one), equivalence.representative(other)
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((3, 0, 0, 0, 1, 0), (2, 0, 0, 0, 1, 0)),  # 3x3 or 1x1
        ((3, 0, 1, 0, 1, 1), (3, 3, 0, 0, 1, 1)),  # twice one convolution, or two of their own
        ((1, 1, 0, 0, 1, 1), (0, 1, 0, 0, 0, 1)),  # twice the input, or once
        ((3, 0, 0, 0, 4, 0), (4, 0, 0, 0, 3, 0)),  # the order of a convolution and a pooling
        ((3, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0)),
    ],
)
def test_another_function(one, other):
    assert equivalence.function_class(one) != equivalence.function_class(other)


def _reaching(terms):
    """Return the terms that the last one is computed from, with it."""
    needed = {len(terms) - 1}
    for position in reversed(range(len(terms))):
        if position in needed:
            needed.update(terms[position].inputs)
    kept = sorted(needed)
    return [
        (terms[old].kind, {kept.index(s): n for s, n in terms[old].inputs.items()}) for old in kept
    ]


def _by_every_renaming(arch):
    """Return the smallest description of the graph under all orders of its inner terms."""
    terms = _reaching(equivalence._terms(cell.one(arch)))
    inner = [at for at, (kind, _) in enumerate(terms) if kind not in ("input", "output")]
    descriptions = []
    for order in itertools.permutations(inner):
        new = {at: at for at in range(len(terms))} | dict(zip(inner, order, strict=True))
        described = (
            (new[at], kind, tuple(sorted((new[s], n) for s, n in inputs.items())))
            for at, (kind, inputs) in enumerate(terms)
        )
        descriptions.append(tuple(sorted(described)))
    return terms[0][0], min(descriptions)


def test_classes_are_those_of_graphs_that_differ():
    codes = np.random.default_rng(0).choice(len(ARCHS), 1500, replace=False)
    by_key = {equivalence.function_class(ARCHS[c]): set() for c in codes}
    for code in codes:
        by_key[equivalence.function_class(ARCHS[code])].add(_by_every_renaming(ARCHS[code]))
    assert all(len(graphs) == 1 for graphs in by_key.values())
    assert len(set.union(*by_key.values())) == len(by_key)


def test_representatives():
    stands = np.array([equivalence.representative(arch) for arch in ARCHS])
    assert len(np.unique(stands, axis=0)) == 5485
    for stand in stands[::100]:
        np.testing.assert_array_equal(equivalence.representative(stand), stand)
    assert ((stands != cell.NONE).sum(1) <= (ARCHS != cell.NONE).sum(1)).all()
    connected = np.array([cell.is_connected(arch) for arch in ARCHS])
    assert [cell.is_connected(stand) for stand in stands[::7]] == connected[::7].tolist()
    # Our classes only merge the benchmark's own.
    for name in {cell.isomorphism_class(arch) for arch in ARCHS[::400]}:
        alike = [at for at in range(0, len(ARCHS), 25) if cell.isomorphism_class(ARCHS[at]) == name]
        assert len(np.unique(stands[alike], axis=0)) <= 1


@pytest.mark.parametrize("arch", [(3, 2, 1, 0, 4, 3), (1, 3, 3, 4, 0, 1), (0, 0, 3, 1, 4, 2)])
def test_a_representative_computes_the_same(arch):
    # Give every edge the same weights: then names do not matter, and outputs must be equal.
    space = nasbench201(channels=2, cells=1, norm="batch")
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 3)))
    with jax.enable_x64(True):
        images = images.astype(float)
        params = space.init(jax.random.key(0), images)
        params = {
            name: dict.fromkeys(block, block["edge_0"]) if name.endswith("_cell") else block
            for name, block in params.items()
        }
        network, read = space.bind(arch, params)
        expected = network(read, images).logits
        network, read = space.bind(equivalence.representative(arch), params)
        np.testing.assert_allclose(network(read, images).logits, expected, rtol=1e-10)
