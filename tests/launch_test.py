"""A command ends in one line: with what was wrong, or with what interrupted it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _start(main, *, before="", stdout=subprocess.PIPE):
    """Start a command whose main function has these lines."""
    body = "\n    ".join(main.strip().splitlines())
    script = f"""
import os, signal, sys, time
from jaxnas.launch import launch, say
{before}
def main():
    {body}
launch(main)
"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


BUSY = {
    "Python": "while True: pass",
    "swallowed": """
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
""",
    "compiled": """
import jax
endless = jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: x + 1, x))
endless = endless.lower(0.0).compile()
print('compiled', flush=True)
jax.block_until_ready(endless(0.0))
""",
}


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_at_once_in_one_line(busy, number, status):
    with _start(f"print('begun', flush=True)\n{BUSY[busy].strip()}") as process:
        assert process.stdout.readline() == "begun\n"
        if busy == "compiled":
            assert process.stdout.readline() == "compiled\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        process.send_signal(number)
        _, error = process.communicate(timeout=10)
    assert process.returncode == status
    assert error == (
        f"interrupted by {number.name}: what is stored is safe, the same command goes on from "
        "there.\n"
    )


def test_a_signal_that_is_ignored_stays_so():
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    with _start("os.kill(os.getpid(), signal.SIGINT)\nprint('on')", before=ignored) as process:
        assert process.communicate(timeout=60) == ("on\n", "")
    assert process.returncode == 0


def test_wrong_input_is_one_line():
    with _start(
        "print('first')\nraise ValueError('It must be one:\\n got \\x1b[2J; take one.')"
    ) as process:
        output, error = process.communicate(timeout=60)
    assert (output, error) == ("first\n", "error: It must be one: got \ufffd[2J; take one.\n")
    assert process.returncode == 1


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("printing", "status"), [("say", 0), ("print", 1)])
def test_standard_output_that_takes_no_more(full, printing, status):
    """What is on disk as well is only told; what is not is lost, which is an error."""
    main = f"sys.stdin.readline()\n{printing}('x' * 100_000)\nprint('on', file=sys.stderr)"
    stdout = open("/dev/full", "w") if full else subprocess.PIPE  # noqa: SIM115
    with _start(f"time.sleep(1)\n{main}", stdout=stdout) as process:
        (stdout if full else process.stdout).close()
        error = process.stderr.read()
    assert process.returncode == status
    reason = "No space left on device" if full else "Broken pipe"
    lines = error.splitlines()
    assert reason in lines[0]
    assert lines[1:] == (["on"] if printing == "say" else [])


def test_letters_that_the_output_does_not_know():
    with _start(
        "print('\u03bb', flush=True)", before="sys.stdout.reconfigure(encoding='ascii')"
    ) as process:
        assert process.communicate(timeout=60) == ("\\u03bb\n", "")
    assert process.returncode == 0
