"""What a run used, and its outcome as one flat JSON object."""

import importlib.metadata
import json
import logging
import math
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax

from jaxnas.runs.files import output_folder, write_whole

_PACKAGES = ("jaxnas", "jax", "jaxlib", "flax", "numpy")
_MORE_PACKAGES = ("optax", "scipy", "pandas")
_SWITCHES = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")

_Scalar = str | int | float | bool | None


class Usage(NamedTuple):
    """What a stretch of work used.

    Attributes:
        wall_seconds: of the clock.
        cpu_seconds: user and system time of this process and of its children that ended.
        peak_memory_bytes: resident memory at its highest since the process began, of this process
            or of its largest child; device memory does not count.
        energy_kwh: of the whole machine meanwhile, as codecarbon measures or estimates it; None
            where that was not asked for, or codecarbon is missing.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    energy_kwh: float | None


class Meter:
    """A context manager; once its block has ended, `usage` says what that used."""

    def __init__(self, *, track_energy: bool = False):
        """Prepare the meter.

        Args:
            track_energy: measure the energy too, where codecarbon is installed. It then works
                offline: no network request, no file, no log.
        """
        self._track_energy = track_energy
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage:
        """What the block used.

        Raises:
            RuntimeError: the block has not ended.
        """
        if self._usage is None:
            raise RuntimeError(
                "The usage is known once the block of the meter has ended: got a running or unused "
                "meter; read it after the `with` block."
            )
        return self._usage

    def __enter__(self) -> Self:
        self._energy = _EnergyTracker() if self._track_energy else None
        self._start = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        wall_start, cpu_start = self._start
        self._usage = Usage(
            wall_seconds=time.perf_counter() - wall_start,
            cpu_seconds=_cpu_seconds() - cpu_start,
            peak_memory_bytes=_peak_memory_bytes(),
            energy_kwh=self._energy.stop() if self._energy else None,
        )


def write_summary(
    output_dir: str | os.PathLike[str],
    figures: Mapping[str, Any],
    options: Mapping[str, Any],
    usage: Usage,
) -> Path:
    """Write `summary.json`, one flat object with sorted keys, and return its path.

    Besides the figures it holds the options as `option_*`, the versions as `version_*`, the
    `backend`, the `device_kind` and the fields of `usage`. What is not finite or not known is null.

    Args:
        output_dir: made where needed; a summary that is there is replaced in one step.
        figures: the named outcomes; numbers, texts, bools, None or arrays without dimensions.
        options: what the run was asked to do; lists become text, joined by commas.
        usage: from a `Meter`.

    Raises:
        ValueError: a value is no scalar, or a figure has the name of another entry.
        OSError: the folder cannot be written.
    """
    entries = {
        **{f"option_{name}": _scalar(name, _joined(value)) for name, value in options.items()},
        **{name: _scalar(name, value) for name, value in usage._asdict().items()},
        **_environment(_PACKAGES + _MORE_PACKAGES),
        "version_python": platform.python_version(),
    }
    if clashes := sorted(entries.keys() & figures.keys()):
        raise ValueError(
            f"A figure must not have the name of another entry of the summary: got {clashes[0]!r}; "
            "rename it."
        )
    entries |= {name: _scalar(name, value) for name, value in figures.items()}
    content = json.dumps(entries, sort_keys=True, indent=2, allow_nan=False) + "\n"
    return write_whole(output_folder(output_dir) / "summary.json", content.encode())


def _joined(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ",".join(str(element) for element in value)
    return str(value) if isinstance(value, os.PathLike) else value


def _scalar(name: str, value: Any) -> _Scalar:
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise ValueError(
        f"An entry of the summary must be a number, a text, a bool or None: got "
        f"{type(value).__name__} for {name!r}; give one name to each number."
    )


def run_context(**determining: Any) -> dict[str, Any]:
    """Return `determining` with what else decides the last bits: versions, switches, device."""
    switches = {name: str(getattr(jax.config, name)) for name in _SWITCHES}
    return {**determining, **switches, **_environment(_PACKAGES)}


def _environment(packages: tuple[str, ...]) -> dict[str, Any]:
    return {
        **{f"version_{name}": _version(name) for name in packages},
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_seconds() -> float:
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _peak_memory_bytes() -> int:
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # Linux counts kibibytes, macOS bytes.
    return max(use.ru_maxrss for use in uses) * (1 if sys.platform == "darwin" else 1024)


class _EnergyTracker:
    """codecarbon, bound to measure energy and to do nothing else."""

    def __init__(self) -> None:
        try:
            import codecarbon
        except ImportError:
            self._tracker = None
            return
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        # Some platforms' power meters write a log, which goes with this folder.
        self._folder = tempfile.TemporaryDirectory()
        # Each of these wins over a configuration file or variable of the user that would have
        # results sent or carbon intensities fetched. A forced intensity needs no place on Earth.
        self._tracker = codecarbon.OfflineEmissionsTracker(
            output_methods=[],
            output_handlers=[],
            output_dir=self._folder.name,
            emissions_endpoint=None,
            electricitymaps_api_token="",
            cloud_provider=None,
            force_carbon_intensity_g_co2e_kwh=0.0,
            allow_multiple_runs=True,
            log_level="critical",
        )
        self._tracker.start()

    def stop(self) -> float | None:
        """Return the energy since the start in kWh; None where it could not be measured."""
        if self._tracker is None:
            return None
        self._tracker.stop()
        self._folder.cleanup()
        outcome = getattr(self._tracker, "final_emissions_data", None)
        return None if outcome is None else float(outcome.energy_consumed)
