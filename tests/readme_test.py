"""README's programs run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "\nimport " in code]


@pytest.mark.slow
@pytest.mark.parametrize("code", PROGRAMS, ids=lambda code: code.split("\n")[-2][:40])
def test_a_program_runs_as_it_stands(code, tmp_path):
    """Each is whole: it takes two minutes at most."""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout
    print(run.stdout)
