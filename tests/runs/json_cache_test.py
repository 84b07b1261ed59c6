"""What is remembered in a file of JSON: computed once, found again, or refused by name."""

import json

import pytest

from jaxnas.runs import JsonCache


def test_computed_once_and_found_again(tmp_path):
    path = tmp_path / "runs.json"
    cache = JsonCache(path, "runs", {"seed": 1})
    assert cache("a", lambda: [2.5]) == [2.5]
    assert json.loads(path.read_text()) == {"context": {"seed": 1}, "runs": {"a": [2.5]}}
    before = path.read_bytes()
    again = JsonCache(path, "runs", {"seed": 1})
    assert again("a", lambda: pytest.fail("computed again")) == [2.5]
    assert path.read_bytes() == before
    assert again("b", lambda: "new") == "new"
    assert list(json.loads(path.read_text())["runs"]) == ["a", "b"]
    with pytest.raises(ValueError, match=r"runs\.json holds runs of another setting; choose"):
        JsonCache(path, "runs", {"seed": 2})


def test_a_setting_is_what_json_makes_of_it(tmp_path):
    path = tmp_path / "runs.json"
    JsonCache(path, "runs", {"sizes": (1, 2)})("a", lambda: 1)
    assert JsonCache(path, "runs", {"sizes": (1, 2)})("a", lambda: 2) == 1
    with pytest.raises(TypeError, match="not JSON serializable"):
        JsonCache(path, "runs", {"sizes": {1, 2}})


def test_what_fails_leaves_no_trace(tmp_path):
    cache = JsonCache(tmp_path / "runs.json", "runs")
    with pytest.raises(KeyboardInterrupt):
        cache("a", _stopped)
    assert not (tmp_path / "runs.json").exists()
    assert cache("a", lambda: 1) == 1


def _stopped():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b'{"runs": {}}', b'{"context": {}, "runs": 1}', b"[" * 100_000],
)
def test_damaged(tmp_path, content):
    path = tmp_path / "runs.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"runs\.json must hold runs and their context: got"):
        JsonCache(path, "runs", {})
