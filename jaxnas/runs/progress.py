"""A progress bar for people, and a sparse log for machines."""

import sys
from collections.abc import Iterable
from typing import TypeVar

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
