import hashlib
import itertools

import numpy as np
import pytest

from jaxnas.benchmarks import nasbench101_channels as channels
from jaxnas.benchmarks import nasbench101_notation as notation
from jaxnas.benchmarks.nasbench101_table import nasbench101

TABLE = nasbench101()

# Rows of the published file: its key of the cell and the number of parameters.
ROWS = {
    "0100000/0010110/0001100/0000100/0000010/0000001/0000000:input,maxpool3x3,maxpool3x3,"
    "conv1x1-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,output": (
        "08aa0adb3cf74e329a04a944f112f5de",
        20510346,
    ),
    "010011/001100/000001/000010/000001/000000:input,conv3x3-bn-relu,maxpool3x3,"
    "conv1x1-bn-relu,conv3x3-bn-relu,output": ("004aa9ed650cc212ba00ec1426f9d3a4", 6667274),
}


@pytest.mark.parametrize("string", ROWS)
def test_rows_copied_by_hand(string):
    key, params = ROWS[string]
    arch = notation.from_string(string)
    assert notation.module_hash(arch) == key
    assert channels.num_params(notation.graph(notation.one(arch))) == params
    assert TABLE.params[TABLE.index(string)] == params


def test_parameters_of_all_cells_are_the_published_ones():
    found = [channels.num_params(notation.graph(notation.one(arch))) for arch in TABLE.archs]
    np.testing.assert_array_equal(found, TABLE.params)


def test_the_order_of_the_decisions():
    """Input to vertex 1 to vertex 2 to the output, input to output: edges 0, 2, 15 and 17."""
    string = "0101/0010/0001/0000:input,maxpool3x3,conv1x1-bn-relu,output"
    arch = notation.from_string(string)
    assert np.flatnonzero(arch[:21]).tolist() == [0, 2, 15, 17]
    assert arch[21:].tolist() == [2, 1, 0, 0, 0]
    assert notation.EDGES[15:18] == ((0, 6), (1, 6), (2, 6))
    assert notation.to_string(arch) == (
        "0100001/0010000/0000001/0000000/0000000/0000000/0000000:"
        "input,maxpool3x3,conv1x1-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,output"
    )


def test_strings_there_and_back():
    rng = np.random.default_rng(0)
    disconnected = [0] * 21 + rng.integers(0, 3, 5).tolist()
    for arch in [*TABLE.archs[::250], disconnected]:
        again = notation.from_string(notation.to_string(arch))
        np.testing.assert_array_equal(again, arch)
        assert again.dtype == np.int32


def test_what_has_no_effect_is_left_out():
    """Vertex 1 leads nowhere, vertex 3 comes from nowhere."""
    string = "01100/00000/00001/00001/00000:input,maxpool3x3,conv1x1-bn-relu,maxpool3x3,output"
    found = notation.graph(notation.one(notation.from_string(string)))
    assert found.sources == ((), (), (0,), (), (), (), (2,))
    assert found.inner == (2,)
    assert found.num_edges == 2
    plain = notation.from_string("010/001/000:input,conv1x1-bn-relu,output")
    np.testing.assert_array_equal(notation.canonical(notation.from_string(string)), plain)


def _renumbered(arch, order):
    """Return the cell with its inner vertices in another order, or None if an edge goes back."""
    edges = {edge for edge, there in zip(notation.EDGES, arch, strict=False) if there}
    place = {0: 0, 6: 6} | {vertex: i for i, vertex in enumerate(order, 1)}
    moved = {(place[source], place[target]) for source, target in edges}
    if any(source > target for source, target in moved):
        return None
    operations = [arch[20 + vertex] for vertex in order]
    return [int(edge in moved) for edge in notation.EDGES] + operations


def test_isomorphic_cells_have_one_representative_and_one_hash():
    moved = 0
    for arch in TABLE.archs[:10].tolist():
        others = [_renumbered(arch, order) for order in itertools.permutations(range(1, 6))]
        others = [other for other in others if other]
        moved += len(others) - 1
        assert len({notation.canonical(other).tobytes() for other in others}) == 1
        assert len({notation.module_hash(other) for other in others}) == 1
        np.testing.assert_array_equal(
            notation.canonical(notation.canonical(arch)), notation.canonical(arch)
        )
    assert moved > 10


def test_different_cells_have_different_representatives_and_hashes():
    archs = TABLE.archs[:300]
    assert len({notation.canonical(arch).tobytes() for arch in archs}) == 300
    assert len({notation.module_hash(arch) for arch in archs}) == 300


def test_the_hash_by_hand():
    """Two vertices, three rounds of keys: (out, in, label), then neighbors, as text."""

    def md5(text):
        return hashlib.md5(text.encode()).hexdigest()

    first, last = md5("(1, 0, -1)"), md5("(0, 1, -2)")
    for _ in range(2):
        first, last = md5(f"|{last}|{first}"), md5(f"{first}||{last}")
    arch = notation.from_string("01/00:input,output")
    assert notation.module_hash(arch) == md5(str(sorted([first, last])))


@pytest.mark.parametrize(
    ("string", "expected"),
    [
        # Three vertices share 8 channels, the first two get one more.
        ("01110/00001/00001/00001/00000", (0, 3, 3, 2, 0, 0, 8)),
        # Vertex 1 leads to 2 and 3 and has as many as the larger, 2.
        ("01000/00110/00001/00001/00000", (0, 4, 4, 4, 0, 0, 8)),
        ("01001/00110/00010/00001/00000", (0, 8, 8, 8, 0, 0, 8)),
    ],
)
def test_channels_by_hand(string, expected):
    ops = "input,conv3x3-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,output"
    arch = notation.from_string(f"{string}:{ops}")
    assert channels.widths(notation.graph(notation.one(arch)), 8) == expected


def test_parameters_by_hand():
    """A 1x1 convolution between input and output; C = 2, one cell a stack, 4 classes, 1 color."""
    arch = notation.from_string("010/001/000:input,conv1x1-bn-relu,output")
    sizes = {"channels": 2, "cells": 1, "classes": 4, "colors": 1}
    found = channels.num_params(notation.graph(notation.one(arch)), **sizes)
    stem = 9 * 2 + 2 * 2
    cells = (2 * 2 + 4 + 2 * 2 + 4) + (2 * 4 + 8 + 4 * 4 + 8) + (4 * 8 + 16 + 8 * 8 + 16)
    assert found == stem + cells + 8 * 4 + 4


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: notation.from_string("011/001/000"), "upper triangular matrix .*got '011/001"),
        (lambda: notation.from_string("01/00:input,output,"), "upper triangular"),
        (lambda: notation.from_string("01/10:input,output"), "upper triangular"),
        (lambda: notation.from_string("11/00:input,output"), "upper triangular"),
        (lambda: notation.from_string("0:input,output"), "upper triangular"),
        (lambda: notation.from_string("010/001/000:input,conv5x5,output"), "upper triangular"),
        (lambda: notation.from_string("010/001/000:input,output"), "upper triangular"),
        (lambda: notation.from_string("01/0:input,output"), "upper triangular"),
        (lambda: notation.one([1] * 21 + [0] * 5), "at most 9 edges .*: got 21; remove some"),
        (lambda: notation.one([0] * 25), "26 decisions"),
        (lambda: notation.one([0] * 25 + [3]), r"Decision 25 must be in \[0, 3\): got 3"),
        (lambda: notation.one(np.zeros((2, 26), int)), "One architecture at a time"),
        (lambda: notation.module_hash([0] * 26), "has no hash: connect it"),
        (
            lambda: channels.widths(notation.graph(notation.one(_fan())), 3),
            "4 vertices share the channels of this cell: got 3",
        ),
    ],
)
def test_bad_requests_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()


def _fan():
    """Four vertices between input and output."""
    rows = "/".join(["011110", *["000001"] * 4, "000000"])
    return notation.from_string(f"{rows}:input,{'maxpool3x3,' * 4}output")
