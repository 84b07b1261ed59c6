"""Runs modules as `python -m` does, each in a fork of a process that has imported what all need.

A line of standard input is an order, `[module, arguments, optimized, standard output, error]`; the
answer is a line with the status. A fork has flags, settings and compiled programs for itself.
"""

import json
import os
import runpy
import sys

import jax
import scipy.stats  # noqa: F401

import jaxnas.correlation
import jaxnas.finder
import jaxnas.launch
import jaxnas.runs.figures  # noqa: F401
from jaxnas.spaces.nasbench201_space import equivalence


def main() -> None:
    """Fork for each order, and go on as it says in the fork."""
    equivalence.representative((0,) * 6)  # makes its table
    for line in sys.stdin:
        if not (child := os.fork()):
            run(*json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(module: str, arguments: list[str], optimized: bool, output: str, error: str) -> None:
    """Become the process of a command."""
    for number, path in enumerate((os.devnull, output, error)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    jax.config.update("jax_disable_most_optimizations", not optimized)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
