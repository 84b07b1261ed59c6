"""What experiments remember in a file of JSON: begun, found again, or refused by name."""

import json

import pytest

from experiments import common


def test_begun_and_found_again(tmp_path):
    path = tmp_path / "runs.json"
    done = common.remembered(path, "runs", {"seed": 1})
    assert done == {"context": {"seed": 1}, "runs": {}}
    path.write_text(json.dumps(done | {"runs": {"a": 2}}))
    assert common.remembered(path, "runs", {"seed": 1})["runs"] == {"a": 2}
    with pytest.raises(ValueError, match=r"runs\.json holds runs of another setting; choose"):
        common.remembered(path, "runs", {"seed": 2})


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b'{"runs": {}}', b'{"context": {}, "runs": 1}', b"[" * 100_000],
)
def test_damaged(tmp_path, content):
    path = tmp_path / "runs.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"runs\.json must hold the runs of an experiment: got"):
        common.remembered(path, "runs", {})
