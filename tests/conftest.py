"""A session in which silent broadcasting and dtype promotion are impossible, on eight CPU devices."""

import os

from tests.quick import XLA_FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {XLA_FLAGS}")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Frees a module's compiled programs: ten thousand of them take all memory maps that Linux gives a process."""
    if nextitem is None or nextitem.path != item.path:
        jax.clear_caches()


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
