"""How every command of jaxnas starts and ends: under absl, and with what went wrong in one line."""

import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import jax
from absl import app, flags, logging

from jaxnas import allocator
from jaxnas.runs.tables import printable

_INTERRUPTED = "interrupted by {}: what is stored is safe, the same command goes on from there.\n"


def launch(main: Callable[[], None]) -> None:
    """Parse the flags and run `main`; wrong input ends the process with one line and status 1.

    Ctrl-C and SIGTERM end it with one line and status 130 or 143.
    """

    def guarded(arguments: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            # JAX logs which accelerators are not there: nothing that a user asked for.
            logging.set_verbosity(logging.WARNING)
        if len(arguments) > 1:
            raise app.UsageError(f"Unknown arguments: {' '.join(arguments[1:])}.")
        allocator.keep_memory()
        try:
            main()
        except (ValueError, ImportError, OSError) as error:
            _flush_or_let_go()
            raise SystemExit(f"error: {printable(' '.join(str(error).split()))}") from error

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all letters
    _end_on_signals()
    app.run(guarded)


def keep_programs(folder: str) -> None:
    """Let JAX keep compiled programs in a folder between runs; "" is none."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def say(text: str) -> None:
    """Print what is also on disk; where standard output takes no more, say so and go on."""
    try:
        print(text, flush=True)
    except OSError as error:
        _flush_or_let_go()
        logging.warning("standard output takes no more ('%s'); the run goes on", error.strerror)


def _flush_or_let_go() -> None:
    """Make sure that the end of the process has nothing left to print that cannot be printed."""
    try:
        print(end="", flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _end_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end the process at once, in one line, whatever it is doing.

    An exception would wait until XLA has compiled, and may be lost in a callback of JAX. Nothing
    needs it: the store and all files are whole at any moment. So the interpreter only passes the
    number of the signal on, through a pair of sockets, to a thread that ends the process.
    """
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # such as under nohup
    ]
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach())
    for number in numbers:
        signal.signal(number, _pass_on)

    def end() -> None:
        while True:
            (number,) = heard.recv(1)
            if number in numbers:
                os.write(2, _INTERRUPTED.format(signal.Signals(number).name).encode())
                os._exit(128 + number)

    threading.Thread(target=end, daemon=True).start()


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Do nothing: the interpreter has written the number already."""
