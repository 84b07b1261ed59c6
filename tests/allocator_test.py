import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from jaxnas import allocator
kept = allocator.keep_memory() if {keep} else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        arrays = [np.empty(2**23, np.uint8) for _ in range(10)]
        for array in arrays:
            array[::4096] = 1
        del arrays, array
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def _run(keep):
    program = PROGRAM.format(keep=keep)
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    return printed[0], int(printed[1])


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_not_handed_out_anew():
    kept, faults = _run(keep=True)
    if kept == "False":
        pytest.skip("another C library")
    assert faults < 200 < _run(keep=False)[1]


def test_elsewhere_it_does_nothing(monkeypatch):
    from jaxnas import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_memory()
