r"""How fast the engine is, as a ratio to another checkout of jaxnas, cell by cell in turns.

    python benchmarks/engine.py /path/to/the/other/checkout --cells=16

Each checkout runs in a process of its own, on one thread. Both are asked for the same cell, one
after the other and in changing order, and answer with CPU seconds. Printed are medians of the
paired ratios, this checkout over the other. A ratio below 1 says that this one is faster.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
SETTINGS = {"8@16": (8, 16), "16@32": (16, 32)}
MEASURES = ("grad_norm", "mgm")
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def main() -> None:
    """Compare two checkouts, and print a line for each setting, plan and score."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("other", help="folder of the other checkout")
    parser.add_argument("--cells", type=int, default=16, help="NAS-Bench-201 cells to run")
    parser.add_argument("--repeats", type=int, default=3, help="times that each cell is run")
    parser.add_argument("--plans", default="eager,compiled", help="plans, with commas")
    flags = parser.parse_args()
    workers = [_Worker(Path(flags.other)), _Worker(HERE)]
    for setting in SETTINGS:
        for plan in flags.plans.split(","):
            for measure in MEASURES if plan == "eager" else MEASURES[:1]:
                asked = {"setting": setting, "plan": plan, "measure": measure}
                _compare(workers, asked, flags.cells, flags.repeats)
    for worker in workers:
        worker.process.stdin.close()
        worker.process.wait()


def _compare(workers: list["_Worker"], asked: dict, cells: int, repeats: int) -> None:
    numbers = range(cells if asked["plan"] == "eager" else 1)
    memory = [worker.ask(asked | {"cell": 0})["memory"] for worker in workers]
    for number in numbers:  # warm
        for worker in workers:
            worker.ask(asked | {"cell": number})
    ratios, seconds, scores = [], [], []
    for repeat in range(repeats if asked["plan"] == "eager" else 5 * repeats):
        for number in numbers:
            order = (0, 1) if (repeat + number) % 2 else (1, 0)
            answer = {at: workers[at].ask(asked | {"cell": number}) for at in order}
            ratios.append(answer[1]["seconds"] / answer[0]["seconds"])
            seconds.append(answer[1]["seconds"])
            scores.append(abs(answer[1]["score"] / answer[0]["score"] - 1))
    ratios.sort()
    seconds.sort()
    middle = len(ratios) // 2
    line = (
        f"{asked['setting']:6} {asked['plan']:9} {asked['measure']:10} ratio "
        f"{ratios[middle]:.3f} (quartiles {ratios[middle // 2]:.3f} to "
        f"{ratios[middle + middle // 2]:.3f}), {1e3 * seconds[middle]:.1f} ms, largest relative "
        f"difference of the scores {max(scores):.0e}"
    )
    if memory[0]:
        line += f", temporary memory {memory[1] / memory[0]:.2f} ({memory[1] / 2**20:.0f} MiB)"
    print(line, flush=True)


class _Worker:
    """A process that runs cells with the jaxnas of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict) -> dict:
        """Return the answer to a question."""
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def serve() -> None:
    """Answer questions: seconds and score of a cell, or of a bucket of four."""
    import functools
    import time

    import jax
    import numpy as np

    from jaxnas import allocator, datasets
    from jaxnas.proxies import BY_NAME
    from jaxnas.proxies.measures import measure_all
    from jaxnas.spaces.nasbench201_space import cell, nasbench201

    try:
        from jaxnas.network import Bucket
    except ImportError:  # before the engine
        from jaxnas.spaces.plans import Bucket

    allocator.keep_memory()
    space, key = nasbench201(norm="batch"), jax.random.key(0)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 5, (400, 6))
    cells = [arch.astype(np.int32) for arch in drawn if cell.is_connected(arch)]
    light = [0, 1, 4]
    bucket = np.array([[3, light[i % 3], 2, 3, light[i // 3], 2] for i in range(4)], np.int32)

    @functools.cache
    def drawn_data(setting: str):
        images, pixels = SETTINGS[setting]
        batch = datasets.batch(datasets.bundled_cifar10(), images, seed=0)
        shape = (images, pixels, 32 // pixels, pixels, 32 // pixels, 3)
        batch = batch._replace(inputs=batch.inputs.reshape(shape).mean((2, 4)))
        return batch, space.init(key, batch.inputs)

    def of_one(measure, arch, params, batch):
        return measure_all((measure,), *space.bind(arch, params), batch, key)[0]

    @functools.cache
    def program(setting: str, measure: str):
        batch, params = drawn_data(setting)
        pattern = space.pattern(bucket)[0]

        def run(archs, pattern, params, batch):
            def one(arch):
                return of_one(BY_NAME[measure].measure, Bucket(arch, pattern), params, batch)

            return jax.vmap(one)(archs)

        compiled = jax.jit(run).lower(bucket, pattern, params, batch).compile()
        return functools.partial(compiled, bucket, pattern, params, batch), compiled

    for line in sys.stdin:
        asked = json.loads(line)
        batch, params = drawn_data(asked["setting"])
        memory = 0
        if asked["plan"] == "compiled":
            run, compiled = program(asked["setting"], asked["measure"])
            memory = compiled.memory_analysis().temp_size_in_bytes
        else:
            measure = BY_NAME[asked["measure"]].measure
            run = functools.partial(of_one, measure, cells[asked["cell"]], params, batch)
        start = time.process_time()
        found = jax.block_until_ready(run())
        seconds = time.process_time() - start
        score = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(found))
        print(json.dumps({"seconds": seconds, "score": score, "memory": memory}), flush=True)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
