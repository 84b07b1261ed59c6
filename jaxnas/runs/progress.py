"""Progress: a bar for people, a sparse log for machines, and scalars for a dashboard."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(
    iterable: Iterable[Item], total: int, description: str, *, done: int = 0
) -> Iterable[Item]:
    """Return `iterable` with its progress and time to go on standard error.

    On a terminal that is a bar; elsewhere it is a line every half minute, none for short work.

    Args:
        iterable: what is still to do.
        total: how much there is to do in all, `done` included.
        description: a word or two.
        done: how much a run that is resumed had finished.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    interval = 0.5 if terminal else 30.0
    return tqdm(
        iterable,
        total=total,
        desc=description,
        initial=done,
        mininterval=interval,
        maxinterval=interval,
        delay=0.0 if terminal else interval,
        disable=sys.stderr is None,
        dynamic_ncols=True,
    )


def scalar_writer(writer: Any) -> Callable[[int, Mapping[str, float]], None]:
    """Return `write(step, scalars)`, which passes scalars by name on to a writer and flushes it.

    Args:
        writer: has CLU's `write_scalars(step, scalars)`, Flax's `scalar(tag, value, step)`, or the
            `add_scalar(tag, value, step)` of tensorboardX and PyTorch; None writes nowhere.

    Raises:
        ValueError: it has none of these.

    Example:
        >>> class Writer:
        ...     def write_scalars(self, step, scalars):
        ...         print(step, dict(scalars))
        >>> scalar_writer(Writer())(3, {"best/naswot": 1.5})
        3 {'best/naswot': 1.5}
    """
    if writer is None:
        return lambda step, scalars: None
    found = [each for each in ("write_scalars", "scalar", "add_scalar") if hasattr(writer, each)]
    if not found:
        raise ValueError(
            "A writer has write_scalars(step, scalars), scalar(tag, value, step) or "
            f"add_scalar(tag, value, step): got {type(writer).__name__}; pass a metric writer of "
            "CLU or a SummaryWriter."
        )
    method = getattr(writer, found[0])

    def write(step: int, scalars: Mapping[str, float]) -> None:
        if found[0] == "write_scalars":
            method(step, scalars)
        else:
            for name, value in scalars.items():
                method(name, value, step)
        getattr(writer, "flush", lambda: None)()

    return write
