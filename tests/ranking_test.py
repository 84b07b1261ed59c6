"""How experiments tell how well scores order accuracies: one table, its bars, and the summary."""

import numpy as np
import pytest

from experiments import common

PARAMS = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
RANKED = {"#params": PARAMS, "score": np.array([[2, 1, 3, 4, 5], [1, 2, 4, 3, 5]])}
ONE, OTHER = np.array([10.0, 20.0, 30.0, 40.0, 50.0]), np.array([50.0, 40.0, 30.0, 20.0, 10.0])
FUNCTIONS = np.arange(5)[:, None]


def test_one_accuracy_has_no_column():
    (table, bars), lines = common.ranking(RANKED, ONE, FUNCTIONS, what="accuracy", k=2)
    assert "accuracy" not in table.frame
    frame = table.frame.set_index("score")
    assert lines == pytest.approx({"spearman_#params": 1, "spearman_score": 9 / 90**0.5})
    assert frame["spearman"].tolist() == list(lines.values())
    # The draws have .9 each, and .8 with one another; their mean has ties in both pairs.
    assert frame.loc["score", "sd of seeds"] == pytest.approx(0)
    assert frame.loc["score", "seed to seed"] == pytest.approx(0.8)
    assert frame.loc["score", "ties"] == 4
    assert frame.loc["score", "top-2 recall"] == 0.5
    assert frame.loc["score", "above the first %"] == 0
    assert np.isnan(
        frame.loc["#params", ["sd of seeds", "seed to seed", "partial | #params"]].astype(float)
    ).all()
    assert "accuracy" in bars.description


def test_several_accuracies_have_names():
    (table, bars), lines = common.ranking(RANKED, {"one": ONE, "other": OTHER}, FUNCTIONS)
    assert table.frame["accuracy"].tolist() == ["one", "other"] * 2
    size, score = 1, 9 / 90**0.5
    expected = {"#params_one": size, "#params_other": -size, "score_one": score}
    expected["score_other"] = -score
    assert lines == pytest.approx({f"spearman_{name}": each for name, each in expected.items()})
    above = table.frame.set_index(["score", "accuracy"])["above the first %"]
    assert above["score", "other"] == pytest.approx(80)  # it puts the last first
    assert "top-1 recall" in table.frame  # a tenth, but one at least
    assert "one" in bars.description  # the first alone: a bar for each score
    assert len(bars.figure.axes[0].patches) == 2
