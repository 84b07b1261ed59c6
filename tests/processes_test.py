"""Two processes of one job share the work, and lose none of it when one is killed."""

import signal
import socket
import subprocess
import sys
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


@pytest.fixture
def port():
    return _free_port()


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _start_two(command, folder):
    shared = [f"--coordinator=127.0.0.1:{_free_port()}", "--num_processes=2"]
    return [_start(command, folder, *shared, f"--process_id={each}") for each in range(2)]


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
        (("auto", None, None), "auto needs a cluster that JAX knows, .* got '"),
        (("nonsense", 2, 0), "must be HOST:PORT .* got 'nonsense'"),
        (("localhost:x", 2, 0), "must be HOST:PORT .* got 'localhost:x'"),
        (("localhost:70000", 2, 1), "must be HOST:PORT"),
        (("", 2, 1), "must be HOST:PORT"),
        (("no.such.machine.invalid:80", 2, 1), "a machine that is known here"),
    ],
)
def test_wrong_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*arguments)


def test_one_process_has_all_the_work():
    processes.join(None, None, None)
    assert processes.shard() == (0, 1)
    processes.wait("nobody")


@pytest.mark.parametrize(
    ("process_id", "message"),
    [(0, "got no call from 1, 2 within 0 s"), (1, "must be at 127.0.0.1:.* within 0 s")],
)
def test_a_partner_that_never_comes(process_id, message, port):
    with pytest.raises(TimeoutError, match=message):
        processes.join(f"127.0.0.1:{port}", 3, process_id, timeout_seconds=0.3)


def test_a_port_that_is_taken(port):
    with (
        socket.create_server(("", port)),
        pytest.raises(OSError, match=f"must be free: got {port}"),
    ):
        processes.join(f"127.0.0.1:{port}", 2, 0)


def _run(*arguments, then="", **options):
    """Start a process that joins, waits once and does `then`."""
    script = f"""
from jaxnas import processes
processes.join(*{arguments}, **{options})
processes.wait("begun")
print(*processes.shard(), flush=True)
{then}
processes.wait("ended")
"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("dying", [0, 2])
def test_a_partner_that_dies(dying, port):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    started = [
        _run(f"127.0.0.1:{port}", 3, each, then=killed * (each == dying)) for each in range(3)
    ]
    printed = [process.communicate(timeout=60) for process in started]
    for found, (process, (output, error)) in enumerate(zip(started, printed, strict=True)):
        assert output == f"{found} 3\n"
        if found == dying:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 1
            last = error.splitlines()[-1]
            assert last.startswith("ConnectionError: Every process must stay until all have ended")
            assert "Gloo" not in error


def test_strangers_are_ignored_and_one_number_twice_is_refused(port):
    first = _run(f"127.0.0.1:{port}", 3, 0, timeout_seconds=30)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n")
            break
        except OSError:
            time.sleep(0.05)
    others = [_run(f"127.0.0.1:{port}", 3, 1, timeout_seconds=30) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in (first, *others)]
    assert "got two with process_id 1" in errors[0].splitlines()[-1]
    assert all("All 3 processes must come" in error for error in errors[1:])
