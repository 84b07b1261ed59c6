"""Several processes on one pool, on one machine or many, by JAX's own runtime.

Each scores its share into a file of its own; the first collects them. All need the same folder.
"""

import jax
from jax.experimental import multihost_utils


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes, before anything else is asked of JAX.

    Args:
        coordinator: `host:port` of the first process; `auto` lets JAX ask the cluster (Slurm, a
            TPU slice, ...) for all three; None for a single process.
        num_processes: how many there are.
        process_id: which of them this one is, from 0.

    Raises:
        ValueError: some but not all of the three, or a number out of range.
    """
    if coordinator is None and num_processes is None and process_id is None:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            f"Several processes need coordinator, num_processes and process_id: got {coordinator}, "
            f"{num_processes} and {process_id}; name all three, or --coordinator=auto on a cluster."
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id counts from 0 to num_processes - 1: got {process_id} of {num_processes}; "
            "give each process its own number."
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def shard() -> tuple[int, int]:
    """Return which process this is, and how many there are."""
    return jax.process_index(), jax.process_count()


def wait(reason: str) -> None:
    """Wait until every process has come to this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)
