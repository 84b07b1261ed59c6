"""What a benchmark found, in tables and in words."""

import contextlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import pandas as pd

from jaxnas.runs import Report, Table, Text

CELLS_OF_A_TURN = {"one": 1, "all": 8}
MATRIX = 1024
_TOLERANCE = 1e-3


def ratios(turns: pd.DataFrame, threads: str, clock: str) -> pd.DataFrame:
    """Return the milliseconds a cell of each side, and how many times those of jaxnas they are."""
    kept = turns[(turns["threads"] == threads) & ~turns["compiled"]]
    kept = kept.assign(ms=1e3 * kept[clock] / kept["cells"])
    rows = []
    for (setting, score), own in kept.groupby(["setting", "score"], sort=False):
        ms = own.pivot(index="turn", columns="side", values="ms")
        for side in dict.fromkeys(own["side"]):
            row = {"setting": setting, "score": score, "side": side, "ms": ms[side].median()}
            if side != "jaxnas":
                pairs = ms[["jaxnas", side]].dropna()
                ratio = pairs[side] / pairs["jaxnas"]
                row["x jaxnas"], row["25 %"], row["75 %"] = ratio.quantile([0.5, 0.25, 0.75])
                row["of sums"] = pairs[side].sum() / pairs["jaxnas"].sum()
            rows.append(row)
    columns = ["setting", "score", "side", "ms", "x jaxnas", "25 %", "75 %", "of sums"]
    return pd.DataFrame(rows, columns=columns)


def agreement(turns: pd.DataFrame) -> pd.DataFrame:
    """Return how far the scores of the lean program are from those of jaxnas, relative to them."""
    rows = []
    for (setting, score), own in turns.groupby(["setting", "score"], sort=False):
        values = own.pivot_table("value", "arch", "side", aggfunc="first")
        if "lean_torch" in values:
            apart = (values["lean_torch"] / values["jaxnas"] - 1).abs()
            row = {"setting": setting, "score": score, "median": apart.median()}
            within = (apart <= _TOLERANCE).mean()
            rows.append({**row, "worst": apart.max(), "cells within .001": f"{within:.0%}"})
    return pd.DataFrame(rows)


def efficiency(turns: pd.DataFrame, workers: pd.DataFrame) -> pd.DataFrame:
    """Return the arithmetic of the first score on one core, beside that of a matrix product."""
    turns = turns[(turns["threads"] == "one") & (turns["score"] == turns["score"].iloc[0])]
    peak = workers.loc[workers["threads"] == "one", "gflops"].max()
    means = turns.groupby(["setting", "side"], sort=False)[["gflop", "cpu"]].mean().reset_index()
    speed = means["gflop"] / means["cpu"]
    means = means.drop(columns="cpu").rename(columns={"gflop": "GFLOP"})
    return means.assign(**{"GFLOP/s": speed, "% of peak": 100 * speed / peak})


def make_report(
    turns: pd.DataFrame, workers: pd.DataFrame, growth: pd.DataFrame | None, where: str
) -> tuple[Report, dict[str, Any]]:
    """Return the report, and the figures of the summary; see `experiments.benchmark.Bench`."""
    cpu, wall = ratios(turns, "one", "cpu"), ratios(turns, "all", "wall")
    same, one = agreement(turns), workers[workers["threads"] == "one"]
    peaks = one.groupby("side", sort=False)["gflops"].max()
    memory = workers.pivot_table("megabytes", ["setting", "threads"], "side", sort=False)
    waits = workers.loc[workers["side"] == "jaxnas", ["threads", "setting", "first", "again"]]
    waits = waits.assign(compilation=waits["first"] - waits["again"])
    tables = [
        Table("CPU seconds on one core", cpu, _RATIOS),
        Table("Seconds of the clock on all cores", wall, _RATIOS),
        Table("Are they the same scores?", same, _AGREEMENT),
        Table(
            "Distance from the peak, on one core",
            efficiency(turns, workers),
            _PEAK + ", ".join(f"{side} {peak:.0f}" for side, peak in peaks.items()) + ".",
        ),
        Table("Peak memory in MB", memory.round().reset_index(), _MEMORY),
        Table("Compilation of jaxnas, in seconds", waits, _COMPILATION),
        Table("How the cost of jaxnas grows", cpu[:0] if growth is None else growth, _GROWS),
    ]
    compiled = int(turns["compiled"].sum())
    left_out = f" {compiled} turns in which XLA compiled something are left out." * (compiled > 0)
    report = Report(
        "jaxnas beside PyTorch on NAS-Bench-201",
        f"{where}.{left_out}",
        [Text("How it was measured", _METHOD), *(own for own in tables if not own.frame.empty)],
    )
    figures: dict[str, Any] = {"machine": where, "turns_that_compiled": compiled}
    for clock, table in (("cpu", cpu), ("wall", wall)):
        for row in table.to_dict("records"):
            what = f"{row['side']}_{row['score']}_{row['setting']}"
            figures[f"{clock}_ms_{what}"] = row["ms"]
            if row["side"] != "jaxnas":
                figures[f"{clock}_ratio_{what}"] = row["x jaxnas"]
    for row in same.to_dict("records"):
        figures[f"apart_{row['score']}_{row['setting']}"] = row["median"]
    for row in workers.to_dict("records"):
        figures[f"megabytes_{row['side']}_{row['setting']}_{row['threads']}"] = row["megabytes"]
    for row in waits.to_dict("records"):
        figures[f"compilation_seconds_{row['setting']}_{row['threads']}"] = row["compilation"]
    return report, figures | {f"peak_gflops_{side}": peak for side, peak in peaks.items()}


def machine() -> str:
    """Return the processor, its cores and load now, and the versions of what runs on it."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        processor = (re.findall(r"model name\s*: (.+)", facts) or [processor])[0]
    versions = []
    for package in ("jax", "jaxlib", "torch", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    load = f"load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return (
        f"{processor}, {os.cpu_count()} cores, {load}, {platform.system()}, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


_METHOD = f"""
Each side is a process of its own: no side disturbs another's threads, caches or memory. All score
the same cells in turns, and who is first rotates from turn to turn, so that the times of a turn are
of the same work at nearly the same moment. Data, weights and compilation are outside of the clock.

On one core, a turn is one cell: all processes are confined to the same core by CPU affinity, so
that XLA has a pool of one thread, and PyTorch has set_num_threads(1); CPU seconds are those of the
whole process. On all cores, a turn is {CELLS_OF_A_TURN["all"]} cells, and each side chooses its
threads: what counts is the time until all are scored. That needs an idle machine; turns.csv has the
CPU seconds of these turns, too.

jaxnas: the eager plan, each cell by itself (cells that are the same function are not
scored once for all, as a Scorer would). lean_torch: a PyTorch program for this purpose, eager,
with the same weights and images; only the chosen operations of live edges, channels last. In
lean_torch_tuned it does two things that jaxnas does: it tells glibc to keep freed memory
(jaxnas.allocator.keep_memory), and on all cores it gives each thread a cell of its own. All other
PyTorch runs with the allocator and the threads as they come.

zero_cost_nas: its own code on its own network, with weights of its own; building the network
counts, as each score of it does that. Its cells have no scales, and of the parameters only kernels
enter its scores.
"""
_RATIOS = (
    "ms: of a cell, median over turns. x jaxnas: median over turns of the ratio of a side to "
    "jaxnas, with its quartiles; above 1 jaxnas is faster. of sums: ratio of the sums over turns."
)
_AGREEMENT = (
    "lean_torch against jaxnas with the same weights and images in float32: difference relative to "
    "jaxnas. Long chains of convolutions without a skip connection magnify rounding."
)
_PEAK = (
    "The first score; mean GFLOP of a cell, of its live convolutions alone. 100 % is the best "
    f"float32 product of two {MATRIX} x {MATRIX} matrices on one core, of these, in GFLOP/s: "
)
_MEMORY = "Resident, at its highest since the process began; all scores of the setting in turn."
_COMPILATION = (
    "first: warm-up of all scores by a new process; again: the same warm-up once more. The number "
    "of cores that comes first finds nothing compiled, the second what XLA's persistent cache kept."
)
_GROWS = "CPU seconds of the first score on one core, starting from the smallest setting."
