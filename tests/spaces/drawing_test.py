"""What is drawn of an architecture is what its notation says."""

import ast

import numpy as np
import pytest

from jaxnas import wiring
from jaxnas.runs import figures
from jaxnas.spaces import BY_NAME, dag_mlp

DRAWN = ("nasbench101", "nasbench201", "darts", "transnas")


def test_a_nasbench201_cell_by_hand():
    space = BY_NAME["nasbench201"]()
    arch = space.from_string(
        "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    )
    (cell,) = space.cells(arch).values()
    assert list(cell.edges) == [
        (0, 1, "nor_conv_3x3"),
        (1, 2, "avg_pool_3x3"),
        (0, 3, "skip_connect"),
        (2, 3, "nor_conv_1x1"),
    ]
    assert list(cell.nodes) == ["in", "1", "2", "out"]


def test_a_transnas_cell_by_hand():
    space = BY_NAME["transnas"]()
    (cell,) = space.cells(space.from_string("64-41414-3_13_120")).values()
    assert list(cell.edges) == [
        *((0, 1, "conv_3x3"), (0, 2, "skip"), (1, 2, "conv_3x3"), (0, 3, "skip")),
        (1, 3, "conv_1x1"),
    ]


def test_a_nasbench101_cell_shows_operations_on_its_vertices():
    space = BY_NAME["nasbench101"]()
    arch = space.from_string("0110/0011/0001/0000:input,conv3x3-bn-relu,maxpool3x3,output")
    (cell,) = space.cells(arch).values()
    assert list(cell.nodes) == ["in", "conv3x3", "maxpool3x3", "out"]
    assert sorted(cell.edges) == [(0, 1, ""), (0, 2, ""), (1, 2, ""), (1, 3, ""), (2, 3, "")]


def test_darts_cells_are_those_of_the_genotype():
    space = BY_NAME["darts"]()
    arch = np.array([count - 1 for count in space.num_choices])
    call = ast.parse(space.to_string(arch), mode="eval").body
    written = {keyword.arg: keyword.value for keyword in call.keywords}
    for title, cell in space.cells(arch).items():
        pairs = ast.literal_eval(written[title.split()[0]])
        edges = [(state, 2 + at // 2, name) for at, (name, state) in enumerate(pairs)]
        assert list(cell.edges)[: len(edges)] == edges
        assert list(cell.edges)[len(edges) :] == [(node, 6, "") for node in range(2, 6)]


def test_a_wiring_shows_its_kinds():
    (cell,) = dag_mlp().cells(wiring.from_code("2_01_102")).values()
    kinds = [(0, 1, "linear"), (1, 2, "skip"), (0, 3, "skip"), (2, 3, "linear")]
    assert list(cell.edges) == kinds


@pytest.mark.parametrize("name", DRAWN)
def test_every_architecture_can_be_drawn(name):
    space, rng = BY_NAME[name](), np.random.default_rng(0)
    for _ in range(20):
        arch = rng.integers(0, space.num_choices)
        if name == "nasbench101":
            arch[: len(arch) - 5] *= rng.random(len(arch) - 5) < 0.5
        try:
            space.to_string(arch)
        except ValueError:
            continue  # more edges than the benchmark has
        for cell in space.cells(arch).values():
            assert figures.cell_svg(cell).startswith("<svg")
