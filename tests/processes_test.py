"""Two processes of one job share the work, and lose none of it when one is killed."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from jaxnas import processes
from jaxnas.runs import ScoreRow, ScoreStore

ROOT = Path(__file__).parents[1]
ARGUMENTS = [
    *("--channels=2", "--cells=1", "--batch_size=4", "--image_size=8", "--num_archs=60"),
    *("--proxies=mgm,layer_balance", "--num_seeds=3"),
]


def _start(command, folder, *arguments):
    return subprocess.Popen(
        command("correlations", folder, *ARGUMENTS, *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _start_two(command, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [_start(command, folder, *shared, f"--process_id={own}") for own in range(2)]


def _finish(started):
    for process in started:
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed


def _table(folder):
    with ScoreStore(folder / "scores.sqlite") as store:
        return store.frame()


def test_two_processes_one_killed_and_one(tmp_path, experiment_command):
    _finish([_start(experiment_command, tmp_path / "one")])
    whole = _table(tmp_path / "one")

    killed = _start_two(experiment_command, tmp_path / "two")
    part = tmp_path / "two" / "scores.process1.sqlite"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed[1].poll() is None:
        if part.exists() and len(_table_of(part)):
            break
        time.sleep(0.1)
    for process in reversed(killed):  # the other would wait for its share
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(_table_of(part))
    assert len(_table(tmp_path / "two")) < len(whole)

    _finish(_start_two(experiment_command, tmp_path / "two"))
    pd.testing.assert_frame_equal(_table(tmp_path / "two"), whole, check_exact=True)
    assert not part.exists()
    assert (tmp_path / "two" / "report.html").exists()


def _table_of(path):
    with ScoreStore(path) as store:
        return store.frame()


def test_parts_are_absorbed_once(tmp_path):
    with ScoreStore(tmp_path / "scores.sqlite") as store:
        run = store.open_run({"space": "toy"})
        store.add(run, [ScoreRow("a", "mgm", 0, 1.0), ScoreRow("b", "mgm", 0, -1.0, "failed: x")])
        for process in (1, 2):
            with store.part(process) as part:
                assert part.open_run({"space": "toy"}) == run
                rows = [ScoreRow("a", "mgm", 0, 9.0), ScoreRow("b", "mgm", 0, 2.0)]
                part.add(run, [*rows, ScoreRow("c", "mgm", process, 3.0)], cpu_seconds=process)
        for _ in range(2):
            store.absorb_parts()
            frame = store.frame(run)
            assert frame["arch"].tolist() == ["a", "b", "c", "c"]
            assert frame["score"].tolist() == [1, 2, 3, 3]
            assert store.cpu_seconds(run) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["scores.sqlite"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:1", 2, None), "need coordinator, num_processes and process_id"),
        ((None, 2, 0), "need coordinator, num_processes and process_id"),
        (("127.0.0.1:1", 2, 2), "got 2 of 2"),
        (("127.0.0.1:1", 2, -1), "got -1 of 2"),
    ],
)
def test_wrong_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*arguments)


def test_one_process_has_all_the_work():
    processes.join(None, None, None)
    assert processes.shard() == (0, 1)
    processes.wait("nobody")
