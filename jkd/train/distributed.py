"""Several processes, on one host or many, as one run."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_REMEDY = (
    "Start every process with the same --coordinator and --num_processes and its own --process_id; "
    "--coordinator_timeout waits longer."
)


class Unreachable(OSError):
    """The processes of a run did not find each other."""


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Makes this process one of several that train together; call it before anything else touches a device.

    Without arguments it asks the cluster, where there is one that JAX knows (a Cloud TPU, SLURM): nothing has to be
    said there. Elsewhere, and in a process that has joined already, it does nothing.

    Args:
      coordinator: `HOST:PORT`, where process 0 listens.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      timeout: seconds to wait for all of them.

    Raises:
      ValueError: if only some of the three are given, or they contradict each other.
      Unreachable: if nothing answers at the coordinator's address in time. (If it does and other processes are
        missing, this process ends with one line and exit code 1: JAX cannot be stopped from waiting for them.)
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and (len(missing) < 3 or not _in_cluster()):
        if len(missing) < 3:
            have = ", ".join(f"--{name}={value}" for name, value in given.items() if value is not None)
            raise ValueError(f"{have} needs --{' and --'.join(missing)} as well; or give none on Cloud TPU and SLURM.")
        return
    if not missing:
        _check(str(coordinator), int(num_processes or 0), int(process_id or 0))
    if jax.distributed.is_initialized():
        return
    if coordinator is not None and process_id:
        _reach(coordinator, timeout, f"process {process_id} of {num_processes}")
    who = "this process" if process_id is None else f"process {process_id} of {num_processes}"
    with _watch(timeout, f"{who} waited {timeout} s for the others, which did not all come. {_REMEDY}"):
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout + 60)


def primary() -> bool:
    """Whether this is the process that writes what all of them know."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns once every process is here; `name` must be the same in all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def whole(tree: Any) -> Any:
    """Arrays that every process can read the whole of; gathers what is split over processes.

    Args:
      tree: arrays, the same ones in all processes.

    Returns:
      The tree itself in a run of one process, otherwise NumPy arrays.
    """
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(
        lambda x: (
            np.asarray(x)
            if not isinstance(x, jax.Array) or x.is_fully_replicated
            else multihost_utils.process_allgather(x, tiled=True)
        ),
        tree,
    )


def _reach(coordinator: str, timeout: float, who: str) -> None:
    """Waits until the coordinator listens: JAX would end the process without a word that a user understands."""
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(0.1, until - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() + 0.2 > until:
                raise Unreachable(
                    f"{who} waited {timeout:g} s but nothing answers at coordinator={coordinator} "
                    f"({error.strerror or error}). Look whether process 0 runs there and the port is open. {_REMEDY}"
                ) from None
            time.sleep(0.2)


@contextlib.contextmanager
def _watch(timeout: float, line: str) -> Iterator[None]:
    """Ends the process with a line if what it waits for takes longer."""

    def give_up() -> None:
        print(f"error: {line}", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _in_cluster() -> bool:
    """Whether this machine says that it is one of several that JAX can find by itself."""
    on_slurm = int(os.environ.get("SLURM_NTASKS", "1") or 1) > 1 and "SLURM_STEP_NODELIST" in os.environ
    on_tpu = os.environ.get("TPU_ML_PLATFORM") == "JAX"  # JAX sets it when it is imported where there is a TPU
    return on_slurm or on_tpu


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    """Refuses addresses and numbers that cannot be."""
    host, colon, port = coordinator.rpartition(":")
    if not host or not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"coordinator={coordinator!r} must be HOST:PORT, as in 10.0.0.1:8476.")
    if num_processes < 1:
        raise ValueError(f"num_processes={num_processes} must be at least 1.")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id={process_id} must lie in [0, {num_processes}), the number of processes.")
