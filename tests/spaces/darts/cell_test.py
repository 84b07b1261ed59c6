import itertools

import numpy as np
import pytest

from jaxnas.spaces.darts_space import cell, darts

OPS = cell.OPERATIONS
# The first order cells of the paper, as its authors' code writes them.
DARTS_V1 = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('skip_connect', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])"
)


def _random(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, cell.NUM_CHOICES, (count, 32)).astype(np.int32)


def test_the_published_notation_by_hand():
    arch = cell.from_string(DARTS_V1)
    sep, skip, largest, average = 3, 2, 0, 1
    normal = [*(1, 0, sep, sep), *(0, 0, skip, sep), *(0, 0, skip, sep), *(0, 1, sep, skip)]
    # The second state is a position among the others: 0 is the first of all but 2.
    reduce = [
        *(0, 0, largest, largest),
        *(2, 0, skip, largest),
        *(0, 1, largest, skip),
        *(2, 0, skip, average),
    ]
    assert arch.tolist() == normal + reduce
    assert arch.dtype == np.int32
    expected = DARTS_V1.replace("[2, 3, 4, 5]", "range(2, 6)")
    assert cell.to_string(arch) == expected


def test_strings_there_and_back():
    for arch in _random(200):
        string = cell.to_string(arch)
        np.testing.assert_array_equal(cell.from_string(string), arch)


def test_a_string_is_what_python_reads():
    """Evaluated with a tuple for `Genotype`, as the field's code does."""
    arch = _random(1)[0]
    read = eval(cell.to_string(arch), {"Genotype": dict})
    assert list(read["normal_concat"]) == [2, 3, 4, 5]
    assert len(read["reduce"]) == 8
    assert all(name in OPS for name, _ in read["normal"])


def test_positions_and_spaces_do_not_matter():
    arch = cell.from_string(DARTS_V1)
    fields = DARTS_V1.replace("normal=", "").replace("reduce=", "").replace("_concat=", "=")
    positional = fields.replace("normal=", "").replace("reduce=", "")
    positional = positional.replace("normal[", "[").replace("reduce[", "[")
    for string in (
        "\n " + DARTS_V1.replace(", ", ",\n   "),
        DARTS_V1.replace("[2, 3, 4, 5]", "range(2,6)"),
        "genotypes." + DARTS_V1,
        positional,
    ):
        np.testing.assert_array_equal(cell.from_string(string), arch)


def test_every_operation_and_every_pair_of_states_is_reachable():
    found = [cell.genotype(tuple(arch)) for arch in _random(2000).tolist()]
    for result, node in itertools.product(("normal", "reduce"), range(4)):
        pairs = [getattr(each, result)[node] for each in found]
        assert {edge.operation for pair in pairs for edge in pair} == set(OPS)
        states = {(first.state, second.state) for first, second in pairs}
        assert states == set(itertools.permutations(range(2 + node), 2))


def test_representatives_sort_the_operations_of_a_node():
    arch = cell.from_string(DARTS_V1)
    swapped = cell.from_string(
        DARTS_V1.replace(
            "normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0)",
            "normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)",
        )
    )
    assert (arch != swapped).any()
    np.testing.assert_array_equal(cell.representative(arch), cell.representative(swapped))


def test_representatives_forget_the_order_of_the_nodes():
    """Nodes 0 and 1 read only the inputs, node 2 reads both: they can change places."""
    text = "Genotype(normal={}, normal_concat=range(2, 6), reduce={}, reduce_concat=range(2, 6))"
    first = [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]
    second = [("avg_pool_3x3", 0), ("dil_conv_5x5", 1)]
    rest = [("skip_connect", 3), ("sep_conv_5x5", 0)]
    before = first + second + [("max_pool_3x3", 2), ("dil_conv_3x3", 3)] + rest
    after = second + first + [("max_pool_3x3", 3), ("dil_conv_3x3", 2)]
    after += [("skip_connect", 2), ("sep_conv_5x5", 0)]
    other = second + first + [("max_pool_3x3", 2), ("dil_conv_3x3", 3)] + rest
    stands = [
        cell.representative(cell.from_string(text.format(each, before))).tolist()
        for each in (before, after, other)
    ]
    assert stands[0] == stands[1] != stands[2]


def test_a_representative_is_its_own():
    for arch in _random(50):
        stands = cell.representative(arch)
        np.testing.assert_array_equal(cell.representative(stands), stands)
        assert darts(channels=2, layers=4).num_params(arch) == darts(
            channels=2, layers=4
        ).num_params(stands)


def test_facts_of_the_space():
    space = darts()
    assert space.name == "darts"
    assert space.num_choices == (*(2, 1, 7, 7), *(3, 2, 7, 7), *(4, 3, 7, 7), *(5, 4, 7, 7)) * 2
    assert space.is_connected([0] * 32)
    assert space.options == {
        "channels": 16,
        "layers": 8,
        "classes": 10,
        "colors": 3,
        "norm": "batch",
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("Genotype", "Recipe"), "no call of Genotype"),
        (("sep_conv_3x3", "sep_conv_7x7"), "operation 'sep_conv_7x7'"),
        (("'sep_conv_3x3', 1", "'none', 1"), "operation 'none'"),
        (("'skip_connect', 2", "'skip_connect', 5"), "state 5 for node 3 of normal"),
        (("('sep_conv_3x3', 1), ", ""), "5 operations in normal"),
        (("('sep_conv_3x3', 1), (", "('sep_conv_3x3', 0), ("), "normal that reads a state twice"),
        (("[2, 3, 4, 5]", "[3, 4, 5]"), r"normal_concat=\[3, 4, 5\]"),
        (("[2, 3, 4, 5]", "range(10**10)"), "Genotype"),
        (("reduce_concat", "last"), "fields"),
        (("[2, 3, 4, 5]", "__import__('os').getcwd()"), "Genotype"),
        (("Genotype(", "Genotype(("), "Genotype"),
    ],
)
def test_bad_strings_are_refused(change, sentence):
    with pytest.raises(ValueError, match="An architecture is written .*: got .*" + sentence):
        cell.from_string(DARTS_V1.replace(*change))


@pytest.mark.parametrize(
    ("arch", "sentence"),
    [
        ([0] * 31, "32 decisions"),
        ([0, 1] + [0] * 30, r"Decision 1 must be in \[0, 1\): got 1"),
        ([0, 0, 7] + [0] * 29, r"Decision 2 must be in \[0, 7\): got 7"),
        (np.zeros((2, 32), int), "One architecture at a time"),
    ],
)
def test_bad_architectures_are_refused(arch, sentence):
    for act in (cell.to_string, cell.representative, darts().num_params):
        with pytest.raises(ValueError, match=sentence):
            act(arch)


def test_a_pattern_has_the_same_heavy_operations():
    """It is an architecture itself, its pattern is itself, and what it changes is light."""
    rng = np.random.default_rng(0)
    archs = rng.integers(0, np.broadcast_to(cell.NUM_CHOICES, (200, 32))).astype(np.int32)
    patterns = cell.pattern(archs)
    np.testing.assert_array_equal(cell.pattern(patterns), patterns)

    def heavy(arch):
        return [
            (reduction, node, which, edge.operation, reduction and edge.state < cell.INPUTS)
            for reduction, each in enumerate(cell.genotype(cell.one(arch)))
            for node, pair in enumerate(each)
            for which, edge in enumerate(pair)
            if "conv" in edge.operation
            or (edge.operation == "skip_connect" and reduction and edge.state < cell.INPUTS)
        ]

    for arch, pattern in zip(archs, patterns, strict=True):
        assert heavy(arch) == heavy(pattern)
    assert (patterns != archs).any(1).all()
