"""Whatever is damaged in a checkpoint, it is read as it was or refused by name."""

import gc
import shutil

import numpy as np
import pytest

from jaxnas.training import checkpoints

STATE = {"weights": np.arange(1000, dtype=np.float32), "step": np.ones(3, np.int32)}
RUN = {"seed": 1}


def _restore(folder):
    with checkpoints.open_folder(folder) as manager:
        return checkpoints.restore(manager, STATE, RUN)


# Orbax leaves tasks of its reading behind, which complain when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("harm", ["cut", "emptied", "gone"])
def test_damaged_files(tmp_path, harm):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    with checkpoints.open_folder(whole) as manager:
        checkpoints.save(manager, STATE, [(1.0, 2.0)], RUN)
    outcomes = []
    for path in sorted(each for each in whole.rglob("*") if each.is_file()):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged)
        victim = damaged / path.relative_to(whole)
        content = victim.read_bytes()
        victim.unlink()
        if harm != "gone":
            victim.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
        try:
            state, history = _restore(damaged)
        except ValueError as error:
            outcomes.append(str(error).partition("; ")[0])
        else:
            np.testing.assert_array_equal(state["weights"], STATE["weights"])
            assert history == [[1.0, 2.0]]
    gc.collect()
    assert outcomes
    assert set(outcomes) == {f"{damaged / '1'} is no checkpoint of a training"}
