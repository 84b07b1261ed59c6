r"""How fast jaxnas scores NAS-Bench-201 networks, side by side with two PyTorch programs.

    pip install "jaxnas[bench]"
    git clone https://github.com/SamsungLabs/zero-cost-nas
    python -m experiments.benchmark --zero_cost_nas=zero-cost-nas --output_dir=results/benchmark

Each side is a process of its own and gets one architecture at a time, in strict turns: jaxnas, a
lean PyTorch program with the same weights and images (`experiments.lean_torch`), and a checkout of
zero-cost-nas as it is. First all on one and the same core, for CPU seconds; then on all cores, for
seconds of the clock. Without PyTorch, jaxnas is measured alone.

With --num_networks=16 that took 5.5 minutes on two cores of an AMD EPYC: for `grad_norm` at 16@32,
54 ms of CPU a cell, .72 of it in lean PyTorch and 5.0 times it in zero-cost-nas; the rest is
in docs/results/speed.md.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import flags
from flax import traverse_util

from experiments import common
from experiments.benchmark_report import CELLS_OF_A_TURN, MATRIX, machine, make_report
from experiments.workers import Side, Worker, serve
from jaxnas import Batch, allocator, datasets, engine, proxies, spaces
from jaxnas.launch import launch
from jaxnas.proxies import cost
from jaxnas.runs import track
from jaxnas.runs.files import write_whole
from jaxnas.search import sample_distinct
from jaxnas.spaces.nasbench201 import cell

_PROXIES = flags.DEFINE_list(
    "proxies",
    ["grad_norm", "snip", "mgm", "gradient_values"],
    f"Scores, of {', '.join(proxies.BY_NAME)}.",
)
_SETTINGS = flags.DEFINE_list(
    "settings", ["8@16", "16@32", "64@32"], "Numbers of images @ their side in pixels."
)
_NUM_NETWORKS = flags.DEFINE_integer(
    "num_networks", 24, "Connected cells, drawn at random.", 1, 5000
)
_REPEATS = flags.DEFINE_integer("repeats", 1, "Turns of each cell.", 1)
_THREADS = flags.DEFINE_multi_enum("threads", ["one", "all"], ("one", "all"), "Cores to run on.")
_ZERO_COST_NAS = flags.DEFINE_string("zero_cost_nas", None, "Folder of a checkout; none without.")
_TORCH = flags.DEFINE_bool("torch", True, "Measure PyTorch too, where it is installed.")
_GROWTH = flags.DEFINE_bool("growth", True, "Measure how the cost of jaxnas grows, too.")
_WORKER = flags.DEFINE_bool("worker", False, "Be the side of jaxnas, for a benchmark that runs.")

# All operations and fan-ins, any number of convolutions, those without an effect and without an
# input: after these nothing is left to compile.
_WARM_UP = [
    *([3, 2, 4, 1, 3, 2], [4, 1, 4, 1, 4, 1], [2, 0, 0, 1, 0, 0], [3, 2, 0, 1, 0, 0]),
    *([2, 2, 2, 1, 4, 1], [2, 2, 2, 2, 2, 1], [2, 2, 2, 2, 2, 2], [0, 1, 3, 1, 2, 1]),
]

common.reads("dataset", "channels", "cells")


def main() -> None:
    """Measure and report."""
    if _WORKER.value:
        serve(OwnWorker())
        return
    proxies.resolve(_PROXIES.value)
    settings = [Setting.parse(text) for text in _SETTINGS.value or [""]]
    has_torch = _TORCH.value and importlib.util.find_spec("torch") is not None
    sides = available_sides(has_torch, _ZERO_COST_NAS.value)
    with common.run_folder("benchmark") as (folder, meter), contextlib.ExitStack() as stack:
        where = machine()
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(scratch, draw_archs(_NUM_NETWORKS.value))
        for threads in dict.fromkeys(_THREADS.value):
            for setting in settings:
                bench.measure(sides, setting, threads)
        growth = bench.growth(sides[0], min(settings, key=Setting.size)) if _GROWTH.value else None
    turns, workers = pd.DataFrame(bench.turns), pd.DataFrame(bench.workers)
    write_whole(folder / "turns.csv", turns.to_csv(index=False).encode())
    report, figures = make_report(turns, workers, growth, f"{_describe()} {where}")
    common.finish(folder, meter, report, figures)


def _describe() -> str:
    """Return the networks and the data in words."""
    return (
        f"{_NUM_NETWORKS.value} connected cells, C={flags.FLAGS.channels}, N={flags.FLAGS.cells}; "
        f"{flags.FLAGS.dataset}, batch normalisation, seed {common.seed()}; settings are "
        "images@pixels."
    )


class Setting(NamedTuple):
    """A batch of `images` of `pixels` x `pixels`, written `images@pixels`."""

    images: int
    pixels: int

    def __str__(self) -> str:
        return f"{self.images}@{self.pixels}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the setting; raises `ValueError` for anything else."""
        match = re.fullmatch(r"([1-9]\d*)@([1-9]\d*)", text.strip())
        if not match:
            raise ValueError(f"A setting is images@pixels: got {text!r}; write 16@32, for example.")
        return cls(int(match[1]), int(match[2]))

    def size(self) -> int:
        """Return the number of pixels of the batch."""
        return self.images * self.pixels**2


def available_sides(has_torch: bool, checkout: str | None) -> list[Side]:
    """Return the sides that there are, jaxnas first.

    Args:
        has_torch: whether PyTorch is there.
        checkout: folder of zero-cost-nas, or None.

    Raises:
        FileNotFoundError: the checkout is not one of zero-cost-nas.
        ImportError: there is a checkout but no PyTorch.
        ValueError: the networks are none of zero-cost-nas.
    """
    python = (sys.executable, "-m")
    sides = [Side("jaxnas", (*python, "experiments.benchmark", "--worker"), {}, _WARM_UP)]

    def torch_side(name: str, allocator: str | None, checkout: str | None) -> Side:
        options = {"allocator": allocator, "checkout": checkout}
        return Side(name, (*python, "experiments.lean_torch"), options, _WARM_UP[:2])

    if has_torch:
        sides.append(torch_side("lean_torch", None, None))
        sides.append(torch_side("lean_torch_tuned", allocator.__file__, None))
    if checkout is not None:
        _validate_checkout(Path(checkout))
        if not has_torch:
            raise ImportError("zero-cost-nas needs PyTorch: run pip install 'jaxnas[bench]'.")
        sides.append(torch_side("zero_cost_nas", None, str(Path(checkout).resolve())))
    return sides


def _validate_checkout(folder: Path) -> None:
    for part in ("models/nasbench2.py", "pruners/predictive.py"):
        if not (folder / "foresight" / part).is_file():
            raise FileNotFoundError(
                f"--zero_cost_nas must be a checkout of zero-cost-nas: got {folder} without "
                f"foresight/{part}; git clone https://github.com/SamsungLabs/zero-cost-nas."
            )
    if flags.FLAGS.cells != 5:
        raise ValueError(
            f"zero-cost-nas builds 5 cells in each stage: got --cells={flags.FLAGS.cells}; "
            "use 5, or leave --zero_cost_nas out."
        )


def draw_archs(num: int) -> np.ndarray:
    """Return different connected cells, `int32[num, 6]`."""
    drawn = np.asarray(sample_distinct(jax.random.key(common.seed()), cell.NUM_CHOICES, 2 * num))
    return drawn[[bool(cell.is_connected(arch)) for arch in drawn]][:num]


class Bench:
    """Sets problems and has them solved.

    Attributes:
        turns: a row for each turn of a side: `threads`, `setting`, `turn`, `score`, `side`; how
            many `cells`, the `gflop` they need, the first `arch` and its `value`; the `cpu` and
            `wall` seconds, and whether anything `compiled` meanwhile.
        workers: a row for each process: `threads`, `setting`, `side`, `first` and `again`, wall
            seconds of the warm-up and of its repetition, `megabytes` at the peak, `gflops` of a
            matrix product.
    """

    def __init__(self, scratch: Path, archs: np.ndarray):
        """Load the data."""
        self.turns: list[dict[str, Any]] = []
        self.workers: list[dict[str, Any]] = []
        self._scratch = scratch
        self._archs = archs
        self._dataset = datasets.load(flags.FLAGS.dataset)

    def measure(self, sides: Sequence[Side], setting: Setting, threads: str) -> None:
        """Have all sides score all architectures, in turns."""
        size = CELLS_OF_A_TURN[threads]
        starts = [*range(0, len(self._archs), size)] * _REPEATS.value
        problem = self._write(setting, flags.FLAGS.cells)
        key = {"threads": threads, "setting": str(setting)}
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(Worker(own, threads, self._scratch)) for own in sides]
            seconds = [own.open(problem, threads, _PROXIES.value) for own in workers]
            for turn, start in enumerate(track(starts, len(starts), f"{setting}, {threads}")):
                archs = self._archs[start : start + size]
                gflop = sum(gflop_of(own, setting, **self._sizes()) for own in archs)
                whose = {**key, "turn": turn, "cells": len(archs), "gflop": gflop}
                first = turn % len(workers)
                for name in _PROXIES.value:
                    for worker in workers[first:] + workers[:first]:
                        self._take_turn(whose, worker, name, archs)
            for worker, waits in zip(workers, seconds, strict=True):
                row = {**key, "side": worker.side.name, **waits}
                row["gflops"] = 2e-9 * MATRIX**3 / worker.ask("multiply", size=MATRIX)["cpu"]
                row["megabytes"] = worker.peak_megabytes()
                self.workers.append(row)

    def _take_turn(
        self, whose: dict[str, Any], worker: Worker, name: str, archs: np.ndarray
    ) -> None:
        if name in worker.scores:
            reply = {"compiled": False} | worker.ask("score", name=name, archs=archs.tolist())
            first = {"arch": cell.to_string(archs[0]), "value": reply.pop("values")[0]}
            self.turns.append({**whose, "score": name, "side": worker.side.name, **first, **reply})

    def growth(self, side: Side, base: Setting) -> pd.DataFrame:
        """Return what the first score costs on one core while one size at a time grows."""
        few, many, cells = self._archs[:8], draw_archs(64), flags.FLAGS.cells
        images, pixels = base
        variants = [
            *(("images", n * images, Setting(n * images, pixels), cells, few) for n in (1, 2, 4)),
            *(("pixels", n * pixels, Setting(images, n * pixels), cells, few) for n in (1, 2)),
            *(("cells a stage", n, base, n, few) for n in sorted({1, 3, cells})),
            *(("architectures", n, base, cells, many[:n]) for n in (1, 8, 64)),
        ]
        rows = []
        name = _PROXIES.value[0]
        with Worker(side, "one", self._scratch) as worker:
            for what, number, setting, own_cells, archs in variants:
                worker.open(self._write(setting, own_cells), "one", [name])
                replies = [worker.ask("score", name=name, archs=[own]) for own in archs.tolist()]
                cpu = sum(reply["cpu"] for reply in replies)
                each = 1e3 * cpu / len(archs)
                rows.append({"what grows": what, "to": number, "CPU s": cpu, "ms each": each})
        return pd.DataFrame(rows)

    def _sizes(self, cells: int | None = None) -> dict[str, int]:
        return {
            "channels": flags.FLAGS.channels,
            "cells": cells or flags.FLAGS.cells,
            "classes": self._dataset.num_classes,
            "colors": self._dataset.x_train.shape[-1],
        }

    def _write(self, setting: Setting, cells: int) -> str:
        """Write images, labels and the weights of all operations; return the path."""
        space = spaces.nasbench201(**self._sizes(cells), norm="batch")
        batch = datasets.batch(
            self._dataset, setting.images, seed=common.seed(), image_size=setting.pixels
        )
        params = jax.device_get(space.init(jax.random.key(common.seed()), batch.inputs))
        path = self._scratch / f"{setting}, {cells} cells.npz"
        np.savez(
            path,
            options=json.dumps(dict(space.options)),
            images=np.asarray(batch.inputs),
            labels=np.asarray(batch.labels),
            **traverse_util.flatten_dict(params, sep="/"),
        )
        return str(path)


class OwnWorker:
    """The side of jaxnas: answers requests, which are calls of the methods."""

    def __init__(self) -> None:
        """Listen to what is compiled."""
        self._compiled = compiled = list[str]()

        def listen(event: str, duration_secs: float, **_: str | int) -> None:
            if event.endswith("backend_compile_duration"):
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)

    def open(self, problem: str, threads: int | None) -> dict[str, Any]:
        """Load the problem and return the names of the scores; threads go by the cores."""
        with np.load(problem) as file:
            arrays = {name: file[name] for name in file.files}
        self._space = spaces.nasbench201(**json.loads(str(arrays.pop("options"))))
        self._batch = Batch(jnp.asarray(arrays.pop("images")), jnp.asarray(arrays.pop("labels")))
        self._params = traverse_util.unflatten_dict(jax.device_put(arrays), sep="/")
        return {"scores": list(proxies.BY_NAME)}

    def score(self, name: str, archs: list[list[int]]) -> dict[str, Any]:
        """Return the scores of some architectures and the seconds that they took together."""
        chosen = proxies.resolve(name)
        draw = engine.Draw(self._space, self._params, self._batch, jax.random.key(0))
        self._compiled.clear()
        cpu, wall = time.process_time(), time.perf_counter()
        scores = [own[name] for _, own in engine.eager(draw, chosen, np.array(archs, np.int32))]
        for score in scores:
            if score.status.startswith("failed"):
                raise RuntimeError(score.status)
        values = [score.value for score in scores]
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"values": values, "cpu": cpu, "wall": wall, "compiled": bool(self._compiled)}

    def multiply(self, size: int) -> dict[str, Any]:
        """Return the CPU seconds of a product of two square matrices, the least of some."""
        matrix = jnp.ones((size, size))
        seconds = []
        for _ in range(20):
            start = time.process_time()
            jnp.matmul(matrix, matrix).block_until_ready()
            seconds.append(time.process_time() - start)
        return {"cpu": min(seconds)}


def gflop_of(arch: np.ndarray, setting: Setting, **sizes: Any) -> float:
    """Return the 1e9 operations of a forward and a backward pass, twice as dear, over the batch.

    Counts multiplications and additions of the stem, the reductions, the classifier and of the
    convolutions that carry something from the input of a cell to its output.
    """
    fed = {0}
    for operation, (source, target) in zip(arch, cell.EDGES, strict=True):
        if operation != cell.NONE and source in fed:
            fed.add(target)
    live = [edge for edge in cell.live_edges(cell.one(arch)) if cell.EDGES[edge][0] in fed]
    pruned = np.full_like(arch, cell.NONE)
    pruned[live] = arch[live]
    space = spaces.nasbench201(**sizes)
    shape = (1, setting.pixels, setting.pixels, space.options["colors"])
    images = jax.ShapeDtypeStruct(shape, np.float32)
    params = jax.eval_shape(space.init, jax.random.key(0), images)
    network, chosen = space.bind(pruned, params)
    assert isinstance(network, cost.CountsMacs)
    macs = float(np.asarray(network.num_macs(chosen, images)))
    return 2 * 3 * macs * setting.images / 1e9


if __name__ == "__main__":
    launch(main)
