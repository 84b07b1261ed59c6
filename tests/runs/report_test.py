"""The page is whole, escaped and self-contained; the text says the same."""

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from jaxnas.runs.report import Plot, Report, Table, Text, Winner, save, to_html, to_text
from jaxnas.runs.tables import Svg
from jaxnas.types import Cell

VOID = {"meta", "img", "br", "link", "input"}
PNG = b"\x89PNG\r\n\x1a\n"


def drawing():
    figure = Figure(figsize=(2.0, 1.0))
    figure.subplots().plot([1, 2])
    return figure


@pytest.fixture
def report():
    frame = pd.DataFrame(
        {
            "cell": [Svg('<svg viewBox="0 0 1 1"><title>cell</title></svg>'), Svg("<svg></svg>")],
            "rho": [0.5, -0.25],
            "notation": ["|<script>alert(1)</script>~0|", "a & b " * 10],
        }
    )
    return Report(
        "Scores <& more>",
        "two cells",
        [
            Text("In short", "First paragraph\ngoes on.\n\nSecond <b>paragraph</b>."),
            Table("Cells", frame, "A note & more."),
            Plot("Recall, top-k", drawing(), 'The "curve" rises.', "Read from the left."),
            Plot("Recall, top-k", drawing(), "Another."),
        ],
    )


class Page(HTMLParser):
    """Checks that elements nest, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_page_is_whole_and_escaped(report):
    page = Page(to_html(report))
    assert page.all("html") == [{"lang": "en"}]
    assert "Scores <& more>" in page.text
    assert "|<script>alert(1)</script>~0|" in page.text
    assert "Second <b>paragraph</b>." in page.text
    assert "A note & more." in page.text
    (script,) = page.all("script")  # that of the page itself
    assert script == {}
    assert not page.all("b")
    assert len(page.all("svg")) == 2
    assert len(page.all("h1")) == 1
    assert len(page.all("h2")) == 4
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )


def test_page_asks_nothing_of_a_network(report):
    text = to_html(report)
    page = Page(text)
    assert not {"link", "iframe", "object", "a", "base"} & {n for n, _ in page.elements}
    sources = [attributes["src"] for _, attributes in page.elements if "src" in attributes]
    assert len(sources) == 2
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|import\(", text)
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in " ".join(policy.split())


def test_figures_are_embedded_with_their_description(report):
    one, other = Page(to_html(report)).all("img")
    assert one["alt"] == 'The "curve" rises.'
    assert other["alt"] == "Another."
    assert (one["width"], one["height"]) == ("192", "96")
    drawn = ElementTree.fromstring(base64.b64decode(one["src"].split(",")[1]))
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    text = ElementTree.tostring(drawn, "unicode")
    assert "#000000" not in text  # black is what the page writes in, light or dark
    assert "prefers-color-scheme" in text


def test_named_points_are_where_the_figure_has_them():
    figure = Figure(figsize=(2.0, 1.0))
    axes = figure.add_axes((0.25, 0.5, 0.5, 0.25))
    axes.set(xlim=(0, 10), ylim=(0, 4))
    axes.scatter([0, 5, float("nan"), 10], [0, 4, 1, 2])
    names = ["</script>&", "b", "nowhere", "d"]
    text = to_html(Report("t", "s", [Plot("P", figure, "Four.", names=names)]))
    data = text.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(data) == [[2500, 5000, "</script>&"], [5000, 2500, "b"], [7500, 3750, "d"]]
    with pytest.raises(ValueError, match="got 1 names and 4 points in 'P'"):
        to_html(Report("t", "s", [Plot("P", figure, "Four.", names=["a"])]))


def test_the_winner_is_drawn_and_written():
    winner = Winner("Best", "a<b>~0", {"cell": Cell([(0, 1, "a<b>")], ("in", "out"))}, "Why.")
    page = Page(to_html(Report("t", "s", [winner])))
    assert len(page.all("svg")) == len(page.all("code")) == 1
    assert "a<b>~0copy" in page.text.replace("\n", "")
    assert to_text(Report("t", "s", [winner]), 80).endswith("Best\n----\n\na<b>~0\n\nWhy.\n")


def test_the_first_picture_comes_first(report):
    titles = [part.title for part in report.picture_first().parts]
    assert titles == ["Recall, top-k", "In short", "Cells", "Recall, top-k"]
    without = report._replace(parts=report.parts[:2])
    assert without.picture_first().parts == without.parts


def test_table_is_accessible_and_aligned(report):
    page = Page(to_html(report))
    assert [head["scope"] for head in page.all("th")] == ["col"] * 3
    assert [head.get("class") for head in page.all("th")] == [None, "number", "long"]
    assert {"role": "region", "aria-label": "Cells"}.items() <= page.all("div")[0].items()
    assert "0.500" in page.text
    assert "-0.250" in page.text


def test_empty_table(report):
    empty = Report("t", "s", [Table("none", pd.DataFrame({"a": []})), Table("x", pd.DataFrame())])
    assert Page(to_html(empty)).text.count("nothing to show") == 2
    assert to_text(empty, 80).count("(nothing to show)") == 2


def test_text_by_hand(report):
    report = Report("Scores", "two", [*report.parts[:1], report.parts[2]])
    assert to_text(report, 30) == (
        "Scores\n======\n\ntwo\n\n"
        "In short\n--------\n\nFirst paragraph goes on.\n\nSecond <b>paragraph</b>.\n\n"
        'Recall, top-k\n-------------\n\nThe "curve" rises.\n\nRead from the left.\n'
    )


def test_text_takes_the_width_of_the_terminal(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "37")
    text = to_text(report)
    assert text == to_text(report, 37)
    assert max(map(len, text.splitlines())) <= 37
    assert "svg" not in text
    assert "A note & more." in text


def test_save_writes_page_and_figures(report, tmp_path):
    page = save(report, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    assert page.read_text(encoding="utf-8") == to_html(report)
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == ["recall_top_k.png", "recall_top_k_2.png", "report.html"]
    image = (page.parent / "recall_top_k.png").read_bytes()
    assert image.startswith(PNG)
    assert hashlib.sha256(image).hexdigest() in page.read_text(encoding="utf-8")


def figures_in(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def with_plots(*titles):
    return Report("t", "s", [Plot(title, drawing(), "A line.") for title in titles])


def test_figures_are_named_apart(tmp_path):
    page = save(with_plots("A", "A!", "A 2", "?"), tmp_path)
    assert figures_in(page.parent) == ["a.png", "a_2.png", "a_2_2.png", "figure.png"]


def test_save_removes_the_figures_of_the_report_before(tmp_path):
    save(with_plots("Kept", "R & <b>", "R & <b>", "Changed since"), tmp_path)
    assert figures_in(tmp_path) == ["changed_since.png", "kept.png", "r_b.png", "r_b_2.png"]
    # Neither the name nor the content of a figure alone makes a file ours.
    (tmp_path / "changed_since.png").write_bytes(b"edited")
    (tmp_path / "copy.png").write_bytes((tmp_path / "r_b.png").read_bytes())
    (tmp_path / "notes.txt").write_text("mine")
    page = save(with_plots("Kept"), tmp_path)
    assert figures_in(tmp_path) == ["changed_since.png", "copy.png", "kept.png"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert page.read_text(encoding="utf-8") == to_html(with_plots("Kept"))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"<h2>Mine</h2>\n<figure>\n<img src='mine.png'>"]
)
def test_save_takes_another_page_as_no_report(tmp_path, content):
    (tmp_path / "report.html").write_bytes(content)
    (tmp_path / "mine.png").write_bytes(b"")
    save(with_plots("New"), tmp_path)
    assert figures_in(tmp_path) == ["mine.png", "new.png"]


def test_saving_twice_gives_equal_files(report, tmp_path):
    first = save(report, tmp_path / "1").read_bytes()
    assert save(report, tmp_path / "2").read_bytes() == first


@pytest.mark.parametrize("write", [to_html, lambda report: to_text(report, 80)])
def test_a_plot_needs_a_description(write):
    with pytest.raises(ValueError, match="must have a description: got none for 'P'"):
        write(Report("t", "s", [Plot("P", drawing(), " ")]))


def test_nothing_that_a_terminal_obeys_comes_through():
    obeyed = "\x1b[2J\x1b]0;title\x07\x9b31m\x00\x7f\u202e"
    frame = pd.DataFrame({f"a{obeyed}": [f"b{obeyed}\r\nc\td"], "n": [1]})
    report = Report(
        f"d{obeyed}",
        f"e{obeyed}",
        [
            Text(f"f{obeyed}", f"g{obeyed}\rh"),
            Table(f"i{obeyed}", frame, f"j{obeyed}"),
            Plot(f"k{obeyed}", drawing(), f"l{obeyed}", f"m{obeyed}"),
        ],
    )
    for shown in (to_text(report, 200), to_html(report)):
        assert not {character for character in shown if not character.isprintable()} - {"\n"}
    assert "b\ufffd[2J" in to_text(report, 200)
    lines = to_text(report, 200).splitlines()
    assert any(line.startswith("b") and "c d" in line and line.endswith(" 1") for line in lines)
