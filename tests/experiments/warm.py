"""What the server of `commands` has read and made before it forks: most experiments load MNIST-1D and draw curves."""

import gc

import matplotlib.figure  # noqa: F401

from jkd.data import builtin

builtin.mnist1d()
gc.freeze()  # children need not look through what they inherit
