"""A session in which silent broadcasting and dtype promotion are impossible, on eight CPU devices."""

import gc
import os
from pathlib import Path

from tests.quick import XLA_FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {XLA_FLAGS}")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_cpu_enable_async_dispatch", False)  # a tenth less of processor time, the answers being so small
jax.config.update("jax_traceback_in_locations_limit", 0)


MAPS = 4_000  # of the 65,530 memory maps that Linux gives a process: a program takes three

gc.disable()  # tracing makes many small objects, and looking through them is slow: done when programs are freed
collect_ignore = ["experiments/warm.py"]  # it computes what experiments load, for the server that they are forked from


def pytest_collection_finish():
    """What is imported stays, and need not be looked through."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Frees compiled programs between modules: each slows the compiling of the next; ten thousand take all maps."""
    if (nextitem is None or nextitem.path != item.path) and memory_maps() > MAPS:
        jax.clear_caches()
        gc.collect()


def memory_maps():
    """Number of this process's memory maps; too many where that cannot be read."""
    try:
        with Path("/proc/self/maps").open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return MAPS + 1


@pytest.fixture
def optax_promotion():
    """Standard promotion, for tests that run Optax's own Adam or schedules: they mix integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def x64():
    """Runs a test in 64-bit JAX."""
    with jax.enable_x64(True):
        yield
