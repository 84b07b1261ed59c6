"""Reports in a browser, wide and narrow, light and dark; skipped where there is no Chromium."""

import numpy as np
import pandas as pd
import pytest

from jaxnas.runs import Plot, Report, Table, Text, Winner, figures, save
from jaxnas.spaces import darts, nasbench201
from tests.chromium import Chromium, executable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        executable() is None,
        reason="No Chromium was found: install Debian's package chromium to look at reports.",
    ),
]

# Texts with the color that they have and the one behind them, as red, green, blue, alpha.
COLORS = """
[...document.querySelectorAll("h1, h2, p, th button, td, code, button, figcaption, svg text")]
  .filter(own => own.textContent.trim())
  .map(own => {
    const numbers = text => (text.match(/[0-9.]+/g) || [0, 0, 0, 0]).map(Number);
    const style = getComputedStyle(own);
    const color = numbers(own.closest("svg") ? style.fill : style.color).slice(0, 3);
    let behind = own;
    const back = () => numbers(getComputedStyle(behind).backgroundColor);
    while (behind.parentElement && (back()[3] ?? 1) < 0.5) behind = behind.parentElement;
    return [own.textContent.slice(0, 30), color, back().slice(0, 3)];
  })
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Two reports: one of a pool with accuracies, one of long names and two drawings."""
    rng = np.random.default_rng(0)
    first, second = nasbench201(), darts()
    archs = rng.integers(0, 5, (200, 6))
    names = [first.to_string(arch) for arch in archs]
    scores, accuracies = rng.random((2, 200))
    scatter = figures.score_versus_accuracy(
        scores, 90 + accuracies, score_name="score", accuracy_name="accuracy (%)"
    )
    table = pd.DataFrame({f"column {n}": rng.random(30) * 10**n for n in range(10)})
    table = table.assign(arch=names[:30], count=np.arange(30) * 1000)
    chosen = np.array([rng.integers(0, count) for count in second.num_choices])
    plain = Table("Scores", table, "A note on the columns.")
    bars = figures.correlation_bars(
        pd.DataFrame({"score": ["a", "b"], "spearman": [0.5, np.nan], "low": 0.4, "high": 0.6})
    )
    described = {
        "pool": [
            Plot("Score and accuracy", scatter, "A cloud.", names=names),
            Winner("The best", names[0], first.cells(archs[0]), "Chosen at random."),
            plain,
        ],
        "long": [
            Plot("Correlations", bars, "Two bars."),
            Winner("The best", second.to_string(chosen), second.cells(chosen)),
            Text("In words", "A paragraph.\n\n" + "averylongword" * 30),
            plain,
        ],
    }
    folder = tmp_path_factory.mktemp("reports")
    return {
        name: save(Report(f"A report: {name}", "What it shows.", parts), folder / name)
        for name, parts in described.items()
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


def luminance(color):
    shares = np.array(color) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["pool", "long"])
def test_a_report_fits_the_window_and_can_be_read(reports, browser, name, width, dark):
    browser.open(reports[name], width, dark=dark)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.images].every(own => own.naturalWidth > 0)")
    assert browser.errors == []
    for text, *both in browser.evaluate(COLORS):
        low, high = sorted(map(luminance, both))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, both)


def test_the_page_is_dark_where_the_reader_wants_it(reports, browser):
    backgrounds = []
    for dark in (False, True):
        browser.open(reports["pool"], 1280, dark=dark)
        color = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        backgrounds.append(luminance([int(each) for each in color[4:-1].split(",")]))
    assert backgrounds[0] > 0.9
    assert backgrounds[1] < 0.02


def test_a_click_on_a_heading_sorts(reports, browser):
    browser.open(reports["pool"], 1280)

    def column(place):
        return browser.evaluate(
            f"[...document.querySelectorAll('tbody tr')].map(r => r.children[{place}].textContent)"
        )

    def click(place):
        browser.evaluate(f"document.querySelectorAll('th button')[{place}].click()")

    counts = [float(each.replace(",", "")) for each in column(11)]
    assert counts == sorted(counts)
    click(11)
    assert [float(each.replace(",", "")) for each in column(11)] == counts[::-1]
    click(11)
    assert [float(each.replace(",", "")) for each in column(11)] == counts
    click(10)
    names = column(10)
    click(10)
    assert column(10) == names[::-1] != names
    sorts = browser.evaluate("[...document.querySelectorAll('th')].map(h => h.ariaSort)")
    assert [sort for sort in sorts if sort] == ["descending"]


@pytest.mark.parametrize("width", [1280, 390])
def test_pointing_at_a_point_shows_its_architecture(reports, browser, width):
    browser.open(reports["pool"], width)
    x, y, name, left, top, wide, high = browser.evaluate(
        "(() => { const b = document.querySelector('figure img').getBoundingClientRect();"
        "const points = JSON.parse(document.querySelector('figure script').textContent)"
        ".filter(p => p[0] < 4000);"
        "return [...points[0], b.left, b.top, b.width, b.height] })()"
    )
    shown = "(own => own.hidden ? null : own.textContent)(document.querySelector('output'))"
    assert browser.evaluate(shown) is None
    browser.point(left + wide * x / 1e4, top + high * y / 1e4)
    assert browser.evaluate(shown) == name
    box = "(own => [own.left, own.right])(document.querySelector('output').getBoundingClientRect())"
    start, end = browser.evaluate(box)
    assert 0 <= start < end <= width
    browser.point(1, 1)
    assert browser.evaluate(shown) is None


def test_the_notation_is_copied(reports, browser):
    browser.open(reports["pool"], 1280)
    browser.evaluate("document.querySelector('.copy button').click()")
    assert browser.evaluate("getSelection().toString()") == browser.evaluate(
        "document.querySelector('code').textContent"
    )
