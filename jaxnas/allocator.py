"""The one setting of the process that makes the eager plan on a CPU a third faster."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}


def keep_memory() -> bool:
    """Tell the C library to keep freed memory for the next activation; return whether it does.

    An activation is some megabytes, which glibc gives back to the system when it is freed, and the
    system hands out anew page by page, zeroed: a third of the time of that plan. Changes no number.
    For the whole process, so the commands call it, and importing jaxnas does not. A process stays
    as large as it once was. Does nothing, and returns False, without glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(name, value) for name, value in _SETTINGS.items())
