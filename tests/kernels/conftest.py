import os
import pathlib
import subprocess
import sys

import pytest

import jaxnas


@pytest.fixture(scope="session")
def run_program():
    """`run_program(program, *first)`: in a Python that looks for modules in `first` first."""

    def run(program, *first, arguments=()):
        path = [*map(str, first), str(pathlib.Path(jaxnas.__file__).parents[1])]
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
