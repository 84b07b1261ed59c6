"""The pictures of the pages are those that their tables give."""

import re
from pathlib import Path

from tools import figures

IMAGES = figures.PAGES / "images"


def _texts(path: Path) -> list[str]:
    return re.findall(r">([^<>]+)</text>", path.read_text(encoding="utf-8"))


def test_the_pictures_show_the_tables_as_they_stand(tmp_path):
    figures.draw(tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert {*drawn, "front.svg"} == {path.name for path in IMAGES.iterdir()}
    for name in drawn:
        assert _texts(tmp_path / name) == _texts(IMAGES / name), f"{name}: run tools/figures.py"


def test_a_bar_is_as_long_as_the_table_says():
    rows = figures.read_table("knas", "| score | CIFAR-10 | interval")
    names, values = figures.column(rows, 0)
    assert dict(zip(names, values, strict=True))["mgm (KNAS)"] == 0.649
    assert values[-1] == -0.010
    assert len(names) == 12


def test_the_front_shows_the_scores_of_the_page():
    shown = _texts(IMAGES / "front.svg")
    rows = figures.read_table("scores", "| score | CIFAR-10 | 95 % | CIFAR-100 | ")
    for name, value in zip(*figures.column(rows, 0), strict=True):
        assert {name, f"{value:.2f}"} <= set(shown)
