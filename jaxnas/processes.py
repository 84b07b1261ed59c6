"""Several processes on one pool, on one machine or many.

Each scores its share into a file of its own; the first collects them. All need the same folder.
They meet at a port of the first, and learn there when another has ended; on a cluster that JAX
knows, its own runtime does the same.
"""

import contextlib
import re
import socket
import time
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>\d{1,5})")
_GREETING = re.compile(rb"jaxnas (\d{1,9}) of (\d{1,9})\n")
_GREETING_SECONDS = 5.0
_GO = b"."
# A machine that is gone without a word is missed after two minutes.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class _Group(NamedTuple):
    """Which process this is, of how many, and its lines by process: the first has one to each."""

    number: int
    total: int
    lines: dict[int, socket.socket]


_joined: _Group | None = None


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    timeout_seconds: float = 300.0,
) -> None:
    """Join the other processes, before anything else is asked of JAX.

    Args:
        coordinator: `host:port` of the first process; `auto` lets JAX ask the cluster (Slurm, a
            TPU slice, ...) for all three; None for a single process.
        num_processes: how many there are.
        process_id: which of them this one is, from 0.
        timeout_seconds: how long to wait for the others to come.

    Raises:
        ValueError: some but not all of the three, a number out of range or given twice, no
            address, or `auto` outside of a cluster.
        TimeoutError: another process did not come.
        OSError: the port is not to be had.
    """
    global _joined
    if coordinator is None and num_processes is None and process_id is None:
        return
    if coordinator == "auto":
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:  # what JAX makes of it differs by cluster
            raise ValueError(
                "--coordinator=auto needs a cluster that JAX knows, such as Slurm or a TPU slice: "
                f"got '{' '.join(str(error).split())}'; name coordinator, num_processes and "
                "process_id."
            ) from error
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            f"Several processes need coordinator, num_processes and process_id: got {coordinator}, "
            f"{num_processes} and {process_id}; name all three, or --coordinator=auto on a cluster."
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id counts from 0 to num_processes - 1: got {process_id} of {num_processes}; "
            "give each process its own number."
        )
    address = _ADDRESS.fullmatch(coordinator)
    if address is None or not 0 < int(address["port"]) < 2**16:
        raise ValueError(
            f"The coordinator must be HOST:PORT with a port from 1 to 65535, or auto: got "
            f"{coordinator!r}; name the first process, such as 10.0.0.1:1234."
        )
    if process_id == 0:
        lines = _await_calls(int(address["port"]), num_processes, timeout_seconds)
    else:
        where = address["v6"] or address["host"], int(address["port"])
        lines = {0: _call(where, process_id, num_processes, timeout_seconds)}
    _joined = _Group(process_id, num_processes, lines)


def shard() -> tuple[int, int]:
    """Return which process this is, and how many there are."""
    if _joined is not None:
        return _joined.number, _joined.total
    return jax.process_index(), jax.process_count()


def wait(reason: str) -> None:
    """Wait until every process has come to this point.

    Args:
        reason: a word for it.

    Raises:
        ConnectionError: another process has ended.
    """
    lost = (
        f"Every process must stay until all have {reason}: got no word from {{}}; what is stored "
        "is safe, start all of them again to go on."
    )
    if _joined is not None:
        # The first hears from each, and then tells each to go on.
        for number, line in _joined.lines.items():
            if not (_joined.number == 0 or _send(line)) or not _hear(line):
                raise ConnectionError(lost.format(f"process {number}"))
        if _joined.number == 0:
            for line in _joined.lines.values():
                _send(line)
    elif jax.process_count() > 1:
        try:
            multihost_utils.sync_global_devices(reason)
        except (ValueError, RuntimeError) as error:  # what JAX makes of it differs by backend
            raise ConnectionError(lost.format("another process")) from error


def _await_calls(port: int, count: int, seconds: float) -> dict[int, socket.socket]:
    """Return a line to each other process, once all have called."""
    deadline = time.monotonic() + seconds
    dual = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            backlog=count,
            dualstack_ipv6=dual,
        )
    except OSError as error:
        raise OSError(
            f"The port of the coordinator must be free: got {port} ('{error.strerror}'); name "
            "another one in --coordinator of every process."
        ) from error
    lines: dict[int, socket.socket] = {}
    with server, contextlib.ExitStack() as opened:
        while len(lines) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                line = opened.enter_context(server.accept()[0])
            except TimeoutError as error:
                missing = ", ".join(str(item) for item in range(1, count) if item not in lines)
                raise TimeoutError(
                    f"All {count} processes must come: got no call from {missing} within "
                    f"{seconds:.0f} s; start them with the same --coordinator."
                ) from error
            number = _greeted(line, count)
            if number is None:  # somebody else's call
                line.close()
            elif number in lines:
                raise ValueError(
                    f"Each process must have its own number: got two with process_id {number}; "
                    "count from 0."
                )
            else:
                lines[number] = _kept_alive(line)
        opened.pop_all()
    for line in lines.values():
        _send(line)
    return lines


def _greeted(line: socket.socket, count: int) -> int | None:
    """Return the number of the process that calls; None if it is none of ours."""
    line.settimeout(_GREETING_SECONDS)
    try:
        with line.makefile("rb", buffering=0) as words:
            greeting = _GREETING.fullmatch(words.readline(64))
    except OSError:
        return None
    if greeting is None:
        return None
    number, its_count = map(int, greeting.groups())
    if its_count != count or not 0 < number < count:
        raise ValueError(
            f"All processes must be given one num_processes: got {count} and, by process {number}, "
            f"{its_count}; start them with the same."
        )
    return number


def _call(where: tuple[str, int], number: int, count: int, seconds: float) -> socket.socket:
    """Return the line to the first process, once all have called it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            line = socket.create_connection(where, max(deadline - time.monotonic(), 0.001))
            break
        except socket.gaierror as error:
            raise ValueError(
                f"The coordinator must be a machine that is known here: got {where[0]!r} "
                f"('{error.strerror}'); correct --coordinator."
            ) from error
        except OSError as error:  # not there yet
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"The first process must be at {where[0]}:{where[1]}: got no answer within "
                    f"{seconds:.0f} s ('{error.strerror or error}'); start it, or correct "
                    "--coordinator."
                ) from error
            time.sleep(0.1)
    line.settimeout(max(deadline - time.monotonic(), 1.0))
    if not _send(line, b"jaxnas %d of %d\n" % (number, count)) or not _hear(line):
        line.close()
        raise TimeoutError(
            f"All {count} processes must come: got no word from the first at "
            f"{where[0]}:{where[1]} that they have; see what it says, and start all again."
        )
    return _kept_alive(line)


def _kept_alive(line: socket.socket) -> socket.socket:
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return line


def _send(line: socket.socket, words: bytes = _GO) -> bool:
    """Return whether the other side was there to be told."""
    try:
        line.sendall(words)
    except OSError:
        return False
    return True


def _hear(line: socket.socket) -> bool:
    """Return whether the other side says to go on."""
    try:
        return line.recv(1) == _GO
    except OSError:
        return False
