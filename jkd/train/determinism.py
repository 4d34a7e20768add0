"""The same bits from run to run on a GPU too."""

import os

XLA_FLAG = "--xla_gpu_deterministic_ops=true"


def deterministic() -> None:
    """Lets XLA use none but deterministic operations on a GPU, and no timing to choose among them.

    It costs some speed. On CPU and TPU two runs of one seed are equal to the bit anyway. XLA reads its flags once: call
    this before anything runs on a device.

    Example:
      >>> import os
      >>> deterministic()
      >>> "--xla_gpu_deterministic_ops=true" in os.environ["XLA_FLAGS"]
      True
    """
    given = os.environ.get("XLA_FLAGS", "")
    if XLA_FLAG not in given.split():
        os.environ["XLA_FLAGS"] = f"{given} {XLA_FLAG}".strip()
