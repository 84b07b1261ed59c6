"""The tables of trained transformers against their sources and what is said of them."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxnas import benchmarks, spaces
from jaxnas.benchmarks import transformers
from tools.build_transformers import build

TOOLS = Path(__file__).parents[2] / "tools"

TABLES = {name: getattr(benchmarks, name)() for name in transformers.BY_NAME}


def test_rows_are_those_of_the_sources():
    found = TABLES["pit"]
    assert transformers.chosen(transformers.PIT, found.archs[0]) == {
        **{"base_dim": (40,), "mlp_ratio": (4,), "heads": ("4/4/8",)},
        **{"depth_1": (1,), "depth_2": (6,), "depth_3": (6,)},
    }
    assert found.columns["c100_base_acc"][0] == 74.43
    found = TABLES["autoformer"]
    first = transformers.chosen(transformers.AUTOFORMER, found.archs[0])
    assert (first["hidden_dim"], first["depth"], first["mlp_ratio"][:4]) == (
        *((240,), (13,)),
        (3.5, 3.5, 4.0, 4.0),
    )
    assert found.columns["imagenet_super_acc"][0] == 71.498
    found = TABLES["nasbench_bert"]
    assert found.columns["glue"][0] == 70.7537
    assert found.columns["declared_operations"][0] == "SA:SDP SA:WMA DSC:9 DSC:9"
    assert [len(table.archs) for table in TABLES.values()] == [60, 60, 300]
    with pytest.raises(ValueError, match="read-only"):
        found.archs[0, 0] = 1


def test_parameters_rank_pit_so_well():
    result, space = TABLES["pit"], spaces.pit(classes=100)
    assert result.params[:5].tolist() == [space.num_params(arch) for arch in result.archs[:5]]
    names = ("c100_base_acc", "flower_base_acc", "chaoyang_base_acc")
    found = [stats.spearmanr(result.params, result.columns[name]).statistic for name in names]
    np.testing.assert_allclose(found, [0.884, 0.922, 0.735], atol=0.02)


def test_declared_operations_explain_nothing():
    found = TABLES["nasbench_bert"]
    chosen = [transformers.chosen(transformers.BERT, arch) for arch in found.archs]
    operations = ("SA:SDP", "SA:WMA", "LT:DFT", "LT:DCT", "DSC:5", "DSC:9")
    declared = [text.split(" ") for text in found.columns["declared_operations"].tolist()]
    # One of six shares follows from the others.
    shares = np.array([[one.count(name) / len(one) for name in operations[1:]] for one in declared])
    size = np.array(
        [
            [one["layers"][0], one["hidden_size"][0], np.mean(one["heads"][: one["layers"][0]])]
            for one in chosen
        ]
    )
    design = np.hstack([np.ones((len(size), 1)), size, shares])
    glue = found.columns["glue"]
    weights, residual, *_ = np.linalg.lstsq(design, glue)
    variance = residual[0] / (len(glue) - design.shape[1])
    deviations = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    assert 1 - residual[0] / ((glue - glue.mean()) ** 2).sum() > 0.7
    assert (np.abs(weights / deviations)[1:3] > 10).all()
    assert (np.abs(weights / deviations)[4:] < 2).all()


@pytest.mark.parametrize("name", transformers.BY_NAME)
def test_strings_are_notations(name):
    choices = transformers.BY_NAME[name]
    for arch in TABLES[name].archs[:5]:
        string = transformers.to_string(choices, arch)
        np.testing.assert_array_equal(transformers.from_string(choices, string), arch)
    with pytest.raises(ValueError, match=r"^An architecture is written .* got 'depth=3'"):
        transformers.from_string(choices, "depth=3")


def _rows(name):
    """Return the first rows of a shipped table as those of the CSV that it was built from."""
    found, choices = TABLES[name], transformers.BY_NAME[name]
    for number, arch in enumerate(found.archs[:4]):
        row = {
            of: " ".join(map(str, values))
            for of, values in transformers.chosen(choices, arch).items()
        }
        if name == "pit":
            heads = row.pop("heads").split("/")
            row |= {f"heads_{stage}": count for stage, count in enumerate(heads, start=1)}
        measured = found.columns.keys() - {"params"}  # which are counted, not read
        yield row | {of: str(found.columns[of][number]) for of in measured}


def _write(folder):
    paths = {}
    for name in transformers.BY_NAME:
        paths[name] = folder / f"{name}.csv"
        rows = list(_rows(name))
        with paths[name].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), quoting=csv.QUOTE_NONE)
            writer.writeheader()
            writer.writerows(rows)
    return paths


def test_build_gives_the_shipped_arrays_and_the_same_bytes_each_time(tmp_path):
    paths = _write(tmp_path)
    build(paths, tmp_path / "first.npz")
    build(paths, tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    with np.load(tmp_path / "first.npz") as built, np.load(transformers.TABLE) as shipped:
        assert built.files == shipped.files
        for name in built.files:
            np.testing.assert_array_equal(built[name], shipped[name][:4])


def test_build_refuses_what_is_not_offered(tmp_path):
    paths = _write(tmp_path)
    text = paths["pit"].read_text(encoding="utf-8")
    paths["pit"].write_text(text.replace("40,4,", "41,4,", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^base_dim must be of 16, 24, 32, 40: got '41'"):
        build(paths, tmp_path / "table.npz")


def test_command_line_says_how_it_is_used(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build_transformers.py"])
    with pytest.raises(SystemExit, match=r"^usage: python -m tools\.build_transf"):
        runpy.run_path(str(TOOLS / "build_transformers.py"), run_name="__main__")
