"""Importing the package starts no device, imports no TensorFlow and opens no connection."""

import subprocess
import sys

PROGRAM = """
import socket, sys

def refuse(*arguments, **options):
    raise RuntimeError("a connection was opened")

socket.socket.connect = refuse
import jkd.data
from jax._src import xla_bridge

heavy = {"tensorflow", "tensorflow_datasets", "mnist1d", "sklearn", "grain", "orbax.checkpoint", "flax.nnx"}
print(sorted(heavy & set(sys.modules)), xla_bridge.backends_are_initialized())
{more}
"""


def run(more):
    program = PROGRAM.replace("{more}", more)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_importing_is_light_and_loading_starts_no_device_and_opens_no_connection():
    more = """
import numpy as np
data = jkd.data.load("digits")
jkd.data.TrainBatches(data.train, 8, seed=0)[0], jkd.data.EvalBatches(data.test, 8)[0]
data = jkd.data.load("mnist1d")
print("tensorflow" in sys.modules, xla_bridge.backends_are_initialized())
"""
    assert run(more) == "[] False\nFalse False\n"


def test_the_checks_can_fail():
    more = """
import jax.numpy, sklearn
jax.numpy.zeros(3)
print(sorted(heavy & set(sys.modules)), xla_bridge.backends_are_initialized())
"""
    assert run(more) == "[] False\n['sklearn'] True\n"
