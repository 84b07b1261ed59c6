"""README and the pages of the documentation: their programs run as they stand, their links lead on.

The Python blocks of a page, in their order, are one program. A text block right after one of them
is what it prints: the words as they are, numbers within 2 %.
"""

import contextlib
import io
import math
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SLOW = {
    "README.md",
    *(f"docs/tutorials/{name}.md" for name in ("correlate", "family", "model", "score", "task")),
}
_BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.S)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?")
_NAMES = {path: path.relative_to(ROOT).as_posix() for path in PAGES}
PROGRAMS = {
    name: blocks
    for path, name in _NAMES.items()
    if (blocks := _BLOCK.findall(path.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize(
    "page",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW)) for name in PROGRAMS],
)
def test_the_program_of_a_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    """Each is whole; the slow ones take two minutes at most."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for code, shown in PROGRAMS[page]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), jax.numpy_rank_promotion("allow"):
            exec(compile(code, page, "exec"), names)
        print(out.getvalue())
        if shown:
            assert _words(out.getvalue()) == _words(shown)
            for number, expected in zip(_numbers(out.getvalue()), _numbers(shown), strict=True):
                assert math.isclose(number, expected, rel_tol=0.02, abs_tol=0.02)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text)]


def _words(text: str) -> list[str]:
    return _NUMBER.sub("0", text).split()


def test_the_pages_have_programs():
    tutorials = {name for name in _NAMES.values() if "/tutorials/" in name}
    assert tutorials < PROGRAMS.keys()
    assert len(tutorials) == 6
    assert PROGRAMS.keys() >= _SLOW


@pytest.mark.parametrize("page", PAGES, ids=_NAMES.values())
def test_lines_and_sentences_are_short(page):
    text = page.read_text(encoding="utf-8")
    assert [line for line in text.split("\n") if len(line) > 120] == []
    prose = re.sub(r"```.*?```|^\|.*?$|^#.*?$|^:::.*?$", "\n\n", text, flags=re.S | re.M)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    for paragraph in re.split(r"\n\s*\n|\n\s*- ", prose):
        for sentence in re.split(r"(?<=[.!?])[*)]*\s+", paragraph.strip()):
            assert len(sentence.split()) <= 30, sentence


@pytest.mark.parametrize("page", PAGES, ids=_NAMES.values())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
