"""Digits and alignment of tables."""

import math

import numpy as np
import pandas as pd
import pytest

from jaxnas.runs.tables import Svg, aligned, columns_of


def cells(values):
    (column,) = columns_of(pd.DataFrame({"a": pd.Series(values, dtype=object)}))
    return list(column.cells)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.81234, -0.05, 0.0], ["0.812", "-0.050", "0.000"]),
        ([93.456, 10.0], ["93.46", "10.00"]),
        ([1234.5678, 20.25], ["1235", "20"]),
        ([1234.5678, 0.25], ["1235", "0.25"]),  # whole numbers would hide the second
        ([3.25e-9, 1.0], ["3.25e-09", "1"]),
        ([12345678.0], ["1.235e+07"]),
        ([0.5, -math.inf, math.inf], ["0.500", "-inf", "inf"]),
        ([math.nan, None, pd.NA, pd.NaT, np.float32("nan")], ["-"] * 5),
        ([1, 9999, 10000, -1234567], ["1", "9999", "10,000", "-1,234,567"]),
        ([np.int64(10000), np.float32(0.5)], ["10,000", "0.500"]),
        ([True, np.bool_(False)], ["yes", "no"]),
        (["text", ("a", 1)], ["text", "('a', 1)"]),
        ([], []),
    ],
)
def test_cells_by_hand(values, expected):
    assert cells(values) == expected


def test_numbers_stand_right():
    frame = pd.DataFrame({"n": [1.0, None], "t": ["1", "2"], "b": [True, False], 7: [1, 2]})
    assert [(c.label, c.is_numeric) for c in columns_of(frame)] == [
        ("n", True),
        ("t", False),
        ("b", False),
        ("7", True),
    ]


def test_aligned_by_hand():
    frame = pd.DataFrame({"score": ["knas", "#params"], "rho": [0.5, -0.25], "n": [10, 12000]})
    assert aligned(frame, 80) == (
        "score       rho       n\n"
        "-------  ------  ------\n"
        "knas      0.500      10\n"
        "#params  -0.250  12,000"
    )


def test_drawings_are_left_out_of_text():
    frame = pd.DataFrame({"cell": [Svg("<svg/>"), Svg("<svg/>")], "n": [1, 2]})
    assert aligned(frame, 80) == "n\n-\n1\n2"
    assert columns_of(frame)[0].cells == [Svg("<svg/>"), Svg("<svg/>")]
    assert aligned(frame[["cell"]], 80) == "(nothing to show)"
    assert aligned(pd.DataFrame({"n": []}), 80) == "(nothing to show)"


def test_equal_labels_are_kept_apart():
    frame = pd.DataFrame([[1, 2]], columns=["n", "n"])
    assert aligned(frame, 80).splitlines()[-1] == "1  2"


def test_long_texts_are_cut_before_columns_move():
    frame = pd.DataFrame({"name": ["short"], "rho": [0.5], "arch": ["|nor_conv_3x3~0|" * 4]})
    lines = aligned(frame, 42).splitlines()
    assert max(map(len, lines)) == 42
    assert lines[2] == "short  0.500  |nor_conv_3x3~0||nor_conv_3…"


def test_keys_are_whole_in_every_block():
    names = [f"gradient_correlation_{rule}" for rule in ("published", "published_aliased")]
    frame = pd.DataFrame(
        [
            {"score": name, "accuracy": data, "spearman": 0.5, "low": 0.25, "ties": 0, "sd": 0.125}
            for name in names
            for data in ("cifar10", "imagenet16-120")
        ]
    )
    blocks = [block.splitlines() for block in aligned(frame, 72).split("\n\n")]
    assert [block[0].split()[2:] for block in blocks] == [["spearman", "low"], ["ties", "sd"]]
    for block in blocks:
        assert max(map(len, block)) <= 72
        assert [line.split()[:2] for line in block[2:]] == frame[
            ["score", "accuracy"]
        ].to_numpy().tolist()


@pytest.mark.parametrize("first", [{"rank": [1]}, {"name": ["n"]}])
def test_the_first_column_leads_where_no_text_parts_from_numbers(first):
    # Numbers first, or texts alone.
    frame = pd.DataFrame({**first, "one": ["o" * 30], "other": ["p" * 30]})
    heads = [block.split() for block in aligned(frame, 40).split("\n\n")]
    (name,) = first
    assert [head[:2] for head in heads] == [[name, "one"], [name, "other"]]
    assert heads[0][-1] == "o" * 23 + "…"


def test_keys_alone_are_one_block():
    frame = pd.DataFrame({"name": ["n" * 50]})
    assert aligned(frame, 40).splitlines()[-1] == "n" * 50


def test_columns_that_do_not_fit_go_into_further_blocks():
    frame = pd.DataFrame({"score": ["a"], **{f"column{i}": [i] for i in range(6)}})
    blocks = aligned(frame, 30).split("\n\n")
    assert [block.splitlines()[0].split() for block in blocks] == [
        ["score", "column0", "column1"],
        ["score", "column2", "column3"],
        ["score", "column4", "column5"],
    ]
    assert all(len(line) <= 30 for block in blocks for line in block.splitlines())
    # Narrower than any pair of columns, it still ends.
    assert len(aligned(frame, 1).split("\n\n")) == 6
