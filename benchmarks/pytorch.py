r"""How much CPU time jaxnas needs beside two PyTorch programs, on NAS-Bench-201 cells in turns.

    pip install "jaxnas[bench]"
    git clone https://github.com/SamsungLabs/zero-cost-nas
    python benchmarks/pytorch.py --zero_cost_nas=zero-cost-nas

The sides are jaxnas, a lean PyTorch program with the same weights and images (`lean_torch.py`), and
a checkout of zero-cost-nas, which draws weights of its own and builds a network for each score.
Each side is a process, and all processes are confined to the same core. They score the same cell
one after the other, and who is first changes from turn to turn. Each side has scored the cell once
before, so that nothing is compiled within a measured turn.

Printed are the median CPU milliseconds of a cell and how many times those of jaxnas they are: the
median of the paired ratios with its quartiles. Above 1, jaxnas is faster. `apart` is the median
relative difference of a score from that of jaxnas in float32. It is meaningful for the lean program
alone.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SCORES = "grad_norm,snip,mgm,gradient_values"


def main() -> None:
    """Measure and print, or be one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cells", type=int, default=16, help="connected cells, drawn at random")
    parser.add_argument("--settings", default="8@16,16@32,64@32", help="images@pixels, with commas")
    parser.add_argument("--proxies", default=SCORES, help="scores, with commas")
    parser.add_argument("--channels", type=int, default=16, help="width of the first stage")
    parser.add_argument("--depth", type=int, default=5, help="cells in each stage")
    parser.add_argument("--zero_cost_nas", help="folder of a checkout of zero-cost-nas")
    parser.add_argument("--jaxnas_alone", action="store_true", help="measure jaxnas alone")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--problem", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args.side, args.problem, args.zero_cost_nas)
        return
    sides = ["jaxnas"] if args.jaxnas_alone else ["jaxnas", "lean_torch"]
    if args.zero_cost_nas:
        if args.depth != 5:
            parser.error(f"zero-cost-nas builds 5 cells a stage: got --depth={args.depth}; use 5.")
        sides.append("zero_cost_nas")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the sides inherit it
    archs = draw_archs(args.cells)
    tables = []
    for setting in args.settings.split(","):
        images, pixels = map(int, setting.split("@"))
        with tempfile.TemporaryDirectory() as scratch:
            problem = write_problem(Path(scratch), images, pixels, args.channels, args.depth)
            turns = measure(sides, problem, args.zero_cost_nas, args.proxies.split(","), archs)
        tables.append(ratios(turns).assign(setting=setting))
    table = pd.concat(tables).set_index(["setting", "score", "side"])
    print(table.to_string(float_format="{:.3f}".format, formatters={"apart": "{:.0e}".format}))


def draw_archs(num: int) -> np.ndarray:
    """Return different connected cells, `int32[num, 6]`."""
    import jax

    from jaxnas.search import sample_distinct
    from jaxnas.spaces.nasbench201_space import cell

    drawn = np.asarray(sample_distinct(jax.random.key(0), cell.NUM_CHOICES, 2 * num))
    return drawn[[bool(cell.is_connected(arch)) for arch in drawn]][:num]


def write_problem(folder: Path, images: int, pixels: int, channels: int, depth: int) -> str:
    """Write images, labels and the weights of all operations; return the path."""
    import jax
    from flax import traverse_util

    from jaxnas import datasets, spaces

    dataset = datasets.load("cifar10-sample")
    space = spaces.nasbench201(channels=channels, cells=depth, norm="batch")
    batch = datasets.batch(dataset, images, seed=0, image_size=pixels)
    params = jax.device_get(space.init(jax.random.key(0), batch.inputs))
    path = folder / "problem.npz"
    options = json.dumps(dict(space.options))
    arrays = traverse_util.flatten_dict(params, sep="/")
    np.savez(path, options=options, images=batch.inputs, labels=batch.labels, **arrays)
    return str(path)


def measure(
    sides: list[str], problem: str, checkout: str | None, names: list[str], archs: np.ndarray
) -> pd.DataFrame:
    """Return a row for each turn: `score`, `turn`, `side`, `value` and CPU seconds `cpu`."""
    workers = [Worker(side, problem, checkout) for side in sides]
    rows = []
    for name in names:
        able = [worker for worker in workers if name in worker.scores]
        for worker in able:
            for arch in archs.tolist():
                worker.ask(name, arch)  # compiles what there is to compile
        for turn, arch in enumerate(archs.tolist()):
            first = turn % len(able)
            for worker in able[first:] + able[:first]:
                answer = worker.ask(name, arch)
                rows.append({"score": name, "turn": turn, "side": worker.side, **answer})
    for worker in workers:
        worker.close()
    return pd.DataFrame(rows)


def ratios(turns: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `turns`: a row for each score and side."""
    rows = []
    for score, group in turns.groupby("score", sort=False):
        cpu = group.pivot(index="turn", columns="side", values="cpu")
        values = group.pivot(index="turn", columns="side", values="value")
        for side in sorted(cpu, key="jaxnas".__ne__):
            row = {"score": score, "side": side, "ms": 1e3 * cpu[side].median()}
            ratio = cpu[side] / cpu["jaxnas"]
            row["x jaxnas"], row["25 %"], row["75 %"] = ratio.quantile([0.5, 0.25, 0.75])
            row["apart"] = (values[side] / values["jaxnas"] - 1).abs().median()
            rows.append(row)
    return pd.DataFrame(rows)


class Worker:
    """A side in a process of its own, which answers one request at a time."""

    def __init__(self, side: str, problem: str, checkout: str | None):
        command = [sys.executable, __file__, f"--side={side}", f"--problem={problem}"]
        command += [f"--zero_cost_nas={checkout}"] * bool(checkout)
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.side = side
        self._process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.scores: list[str] = self._answer()["scores"]

    def ask(self, name: str, arch: list[int]) -> dict[str, Any]:
        """Return the `value` of a score and the CPU seconds `cpu`."""
        print(json.dumps([name, arch]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"The side {self.side} ended: got no answer; see what it said.")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(side: str, problem: str, checkout: str | None) -> None:
    """Answer requests until standard input ends."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what zero-cost-nas prints is no reply
    if side == "jaxnas":
        scores = jaxnas_scores(problem)
    else:
        import lean_torch
        import torch

        torch.set_num_threads(1)
        loaded = lean_torch.load(problem)
        lean = side == "lean_torch"
        scores = lean_torch.lean(loaded) if lean else lean_torch.zero_cost_nas(loaded, checkout)
    print(json.dumps({"scores": list(scores)}), file=replies, flush=True)
    for line in sys.stdin:
        name, arch = json.loads(line)
        start = time.process_time()
        value = scores[name](arch)
        answer = {"value": value, "cpu": time.process_time() - start}
        print(json.dumps(answer), file=replies, flush=True)


def jaxnas_scores(problem: str) -> dict[str, Any]:
    """Return the scores of jaxnas by name, functions of an architecture."""
    import jax
    from flax import traverse_util

    from jaxnas import Batch, engine, proxies, spaces

    with np.load(problem) as file:
        arrays = {name: file[name] for name in file.files}
    space = spaces.nasbench201(**json.loads(str(arrays.pop("options"))))
    batch = Batch(*(jax.device_put(arrays.pop(name)) for name in ("images", "labels")))
    params = traverse_util.unflatten_dict(jax.device_put(arrays), sep="/")
    draw = engine.Draw(space, params, batch, jax.random.key(0))

    def value(name: str, arch: list[int]) -> float:
        ((_, scores),) = engine.eager(draw, proxies.resolve(name), np.array([arch], np.int32))
        if scores[name].status.startswith("failed"):
            raise RuntimeError(scores[name].status)
        return scores[name].value

    return {name: functools.partial(value, name) for name in proxies.BY_NAME}


if __name__ == "__main__":
    main()
