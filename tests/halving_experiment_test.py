"""The race over rungs of fidelity: its parts by hand, and whole with small flags."""

import functools
import json

import numpy as np
import pandas as pd
import pytest

from experiments.halving import Race, _parsed, _recall, _rungs, _winners
from jaxnas.benchmarks import nasbench201
from jaxnas.runs import ScoreStore
from jaxnas.scorer import Scores
from jaxnas.search import Rung, successive_halving

SMALL = ["--channels=2", "--cells=1", "--batch_size=4", "--image_size=8", "--num_archs=12"]


@pytest.mark.parametrize(
    ("text", "rung"),
    [
        ("8@16:4%", (8, 16, 0.04)),
        ("8@16:12.5%", (8, 16, 0.125)),
        ("64@32:100%", (64, 32, 1.0)),
        ("64@32:1", (64, 32, 1)),
    ],
)
def test_rungs_as_text(text, rung):
    assert _parsed(text) == rung
    assert type(_parsed(text)[2]) is type(rung[2])


@pytest.mark.parametrize(
    "text", ["", "8@16", "8@16:", "8x16:5%", "8@16:0.5", "8@16:-1", "8@16:1.2.3%", "8@16:%", "8@:1"]
)
def test_rungs_that_are_none(text):
    with pytest.raises(ValueError, match=r"must be IMAGES@PIXELS:KEPT.*write 8@16:4%"):
        _parsed(text)


def _raced(cheap, full, keep, *, check=True):
    """Return a race of the first cells of the benchmark between two known scores."""
    archs = nasbench201().archs[: len(full)]
    place = {tuple(arch): number for number, arch in enumerate(archs.tolist())}
    tables = np.array(cheap, float), np.array(full, float)
    rungs = [
        Rung(lambda leaf, table=table: [table[place[tuple(arch)]] for arch in leaf.tolist()], kept)
        for table, kept in zip(tables, (keep, 1.0), strict=True)
    ]
    result = successive_halving(archs, rungs)
    scored = [
        Scores(None, None, (0, 1), {"score": rung.scores[None]}, {}, {}, None, seconds)
        for rung, seconds in zip(result.steps, (3.0, 1.0), strict=True)
    ]
    everything = Scores(None, None, (0, 1), {"score": tables[1][None]}, {}, {}, None, 16.0)
    names = ["2@8", "4@8"]
    return Race("score", archs, names, result, scored, everything if check else None)


def test_recall_by_hand():
    # In full the 200 cells are ranked 0, 1, 2, ...; the cheap score keeps 1, 3, 5, ..., 39.
    full = -np.arange(200.0)
    cheap = np.where(np.arange(200) % 2, full, full - 1000)
    table = _recall(_raced(cheap, full, 20), full).set_index("reached")
    assert table.columns.tolist() == ["top 1 %", "top 10", "top 5 %"]  # 2, 10 and 10 of 200
    assert table.loc["2@8"].tolist() == [1, 1, 1]
    assert table.loc["4@8"].tolist() == [0.5, 0.5, 0.5]
    assert table.loc["random"].tolist() == [0.1, 0.1, 0.1]
    params = nasbench201().params[:200]
    largest = np.argsort(-params, kind="stable")[:20]
    expected = [np.isin(np.arange(top), largest).mean() for top in (2, 10, 10)]
    assert table.loc["#params"].tolist() == expected


def test_tops_of_a_small_pool():
    table = _recall(_raced([1, 2, 3], [3, 2, 1], 2), np.array([3.0, 2, 1])).set_index("reached")
    assert table.loc["4@8"].tolist() == [0, 2 / 3, 0]


def test_costs_by_hand():
    table = _rungs(_raced(range(8), range(8), 2)).set_index("rung")
    assert table.index.tolist() == ["2@8", "4@8", "all at 4@8"]
    assert table["scored"].tolist() == [8, 2, 8]
    assert table["kept"].tolist()[:2] == [2, 2]
    assert pd.isna(table["kept"].iloc[2])
    assert table["CPU s"].tolist() == [3, 1, 16]
    # Two draws: 3 s / 16, 1 s / 4 and 16 s / 16.
    assert table["ms each"].tolist() == [187.5, 250, 1000]
    assert len(_rungs(_raced(range(8), range(8), 2, check=False))) == 2


def test_winners():
    # The cheap score drops cell 7, the best in full; 6 is the best of what is left.
    race = _raced([7, 6, 5, 4, 3, 2, 8, 1], range(8), 3)
    table = _winners(race).set_index("chosen by")
    assert table.index.tolist() == ["race", "full score", "#params", "random"]
    accuracies = nasbench201().columns["cifar10"][:8]
    largest = int(np.argmax(nasbench201().params[:8]))
    expected = [accuracies[6], accuracies[7], accuracies[largest], accuracies.mean()]
    assert table["cifar10"].tolist() == pytest.approx(expected)


@pytest.fixture
def halving(tmp_path, experiment):
    """`halving(*flags)`: the experiment on a few cells; its files lie in `tmp_path`."""
    return functools.partial(experiment, "halving", tmp_path, *SMALL)


def _summary(folder):
    return json.loads((folder / "summary.json").read_text())


def _runs(folder):
    """Return context, mean scores by cell and CPU seconds of every run in the store."""
    with ScoreStore(folder / "scores.sqlite") as store:
        return [
            (
                context,
                store.frame(run).groupby("arch")["score"].mean(),
                store.cpu_seconds(run),
            )
            for run, context in store.contexts().items()
        ]


def test_race_and_check(tmp_path, halving):
    arguments = ["--rungs=2@8:50%,4@8:3", "--check"]
    first = halving(*arguments)
    assert first.returncode == 0, first.stderr
    assert "<html" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "cheap_versus_full.png").exists()
    for words in ("2@8", "4@8", "all at 4@8", "#params", "random", "top 1 %", "ms each"):
        assert words in first.stdout

    summary, runs = _summary(tmp_path), _runs(tmp_path)
    assert [summary[f"rung_{number}_scored"] for number in (1, 2, 3)] == [12, 6, 3]
    by_size = {(item["batch_size"], len(scores)): (scores, cost) for item, scores, cost in runs}
    assert by_size.keys() == {(2, 12), (4, 6), (4, 3), (4, 12)}
    assert all(item["pool_seeds"] == [0, 1] for item, *_ in runs)
    # What reached a rung are the best of the one below, and the last one has the full scores.
    assert set(by_size[4, 6][0].index) == set(by_size[2, 12][0].nlargest(6).index)
    assert set(by_size[4, 3][0].index) == set(by_size[4, 6][0].nlargest(3).index)
    full, finalists = by_size[4, 12][0], by_size[4, 3][0]
    pd.testing.assert_series_equal(full[finalists.index], finalists, check_exact=True)
    assert summary["winner"] == finalists.idxmax()
    best = full.nlargest(10).index
    assert summary["recall_top_10"] == best.isin(finalists.index).mean()
    assert summary["recall_top_1_percent"] == float(full.idxmax() in finalists.index)
    cost = sum(by_size[rung][1] for rung in ((2, 12), (4, 6), (4, 3)))
    assert summary["race_cpu_seconds"] == pytest.approx(cost)
    assert summary["cost_ratio"] == pytest.approx(cost / by_size[4, 12][1])

    again = halving(*arguments)
    assert again.returncode == 0, again.stderr
    same = [name for name in summary if name.startswith(("rung", "recall", "race", "cost", "win"))]
    assert {name: _summary(tmp_path)[name] for name in same} == {n: summary[n] for n in same}


def test_without_check_only_the_race_is_run(tmp_path, halving):
    run = halving("--rungs=2@8:2", "--fresh_draws", "--num_seeds=1", "--proxy=mgm")
    assert run.returncode == 0, run.stderr
    assert "cost_ratio" not in _summary(tmp_path)
    assert "Recall" not in run.stdout
    runs = {
        (each["batch_size"], *each["pool_seeds"]): len(scores)
        for each, scores, _ in _runs(tmp_path)
    }
    assert runs == {(2, 1): 12, (4, 0): 2}


def test_no_cheap_rung_is_the_full_score(tmp_path, halving):
    run = halving("--rungs=", "--check", "--num_seeds=1")
    assert run.returncode == 0, run.stderr
    summary = _summary(tmp_path)
    assert summary["cost_ratio"] == summary["recall_top_5_percent"] == 1
    assert len(_runs(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rungs=2@8"], "got '2@8'; write 8@16:4%"),
        (["--rungs=2@8:13"], "1 to the 12 that reach rung 1"),
        (["--proxy=nothing"], "Unknown proxy 'nothing'"),
    ],
)
def test_wrong_input(arguments, message, halving):
    run = halving(*arguments)
    assert run.returncode != 0
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
