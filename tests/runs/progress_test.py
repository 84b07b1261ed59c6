"""The progress bar changes nothing and is quiet where nobody watches."""

import sys

from jaxnas.runs.progress import track


def test_items_pass_and_short_work_is_silent(capsys):
    assert list(track(iter("abc"), 3, "scoring")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_counts_what_was_done(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track([1, 2], 4, "scoring", done=2)) == [1, 2]
    assert "scoring" in capsys.readouterr().err.split("\r")[-1]
    assert capsys.readouterr().out == ""


def test_the_bar_ends_at_its_total(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(track([1, 2], 4, "scoring", done=2))
    assert "4/4" in capsys.readouterr().err
