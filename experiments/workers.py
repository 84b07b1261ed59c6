"""Programs that a benchmark measures, each a process of its own that answers requests.

A request is a line of JSON, `[method, arguments]`, and so is the reply, a dictionary. Needs nothing
but Python, so that no side brings another's libraries along.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

_ROOT = Path(__file__).parents[1]


class Side(NamedTuple):
    """A program to measure.

    Attributes:
        name: in tables.
        command: starts its worker.
        options: of the worker's `open`, beside the problem and the threads.
        warm_up: cells that it scores, once a score, before the clock starts.
    """

    name: str
    command: tuple[str, ...]
    options: dict[str, Any]
    warm_up: list[list[int]]


class Worker:
    """A process that answers requests, one at a time."""

    def __init__(self, side: Side, threads: str, cache: Path):
        """Start it; `cache` holds what XLA compiles."""
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
        }
        self.side = side
        self.scores: list[str] = []
        with _cores(threads):
            self._process = subprocess.Popen(
                side.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=_ROOT,
                env=os.environ | environment,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended before it read all
            self._requests.close()
        self._replies.close()
        self._process.wait()

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """Return the reply; raises `ChildProcessError` where there is none."""
        with contextlib.suppress(BrokenPipeError):  # then the reply is empty, too
            print(json.dumps([call, arguments]), file=self._requests, flush=True)
        line = self._replies.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in reply:
            raise ChildProcessError(f"{self.side.name} could not {call}: {reply['error']}")
        return reply

    def open(self, problem: str, threads: str, names: Sequence[str]) -> dict[str, float]:
        """Pose a problem; return the wall seconds of warming up, and of doing so `again`."""
        count = 1 if threads == "one" else None
        known = self.ask("open", problem=problem, threads=count, **self.side.options)["scores"]
        self.scores = [name for name in names if name in known]
        first, again = (
            sum(
                self.ask("score", name=name, archs=self.side.warm_up)["wall"]
                for name in self.scores
            )
            for _ in range(2)
        )
        return {"first": first, "again": again}

    def peak_megabytes(self) -> float:
        """Return the resident memory at its highest; nan where the system does not tell."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
            for peak in re.findall(r"VmHWM:\s*(\d+) kB", status):
                return int(peak) * 1024 / 1e6
        return float("nan")


@contextlib.contextmanager
def _cores(threads: str) -> Iterator[None]:
    """Let processes that start meanwhile have one core, where that is asked for and possible."""
    if threads == "all" or not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def serve(worker: object) -> None:
    """Answer requests, which are calls of the worker's methods, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for whoever asks, who says so
    replies, sys.stdout = sys.stdout, sys.stderr  # what a worker prints is no reply
    for line in sys.stdin:
        call, arguments = json.loads(line)
        try:
            reply = getattr(worker, call)(**arguments)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
