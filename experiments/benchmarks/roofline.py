"""From operations and bytes to seconds: a roofline of one chip and of the links between chips."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.benchmarks.collectives import Collective
from jkd import _check


class Chip(NamedTuple):
    """A chip's published figures.

    Attributes:
      flops: peak operations per second in bfloat16.
      memory: bytes of high-bandwidth memory.
      memory_rate: its bytes per second.
      link_rate: bytes per second along one axis of the torus, both directions together.
      torus: number of the torus' axes.
      reference: where the figures are published.
    """

    flops: float
    memory: int
    memory_rate: float
    link_rate: float
    torus: int
    reference: str


CHIPS: Mapping[str, Chip] = {
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 90e9, 2, "https://docs.cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 180e9, 3, "https://docs.cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip(918e12, 32 * 2**30, 1638e9, 180e9, 2, "https://docs.cloud.google.com/tpu/docs/v6e"),
}

HOP = 1e-6
"""Seconds for a message to the next chip."""

ASSUMPTIONS = (
    "Peak rates of the chip's data sheet: no chip reaches them, so real steps are longer.",
    "Compute time is the matrix products and convolutions over the peak rate of bfloat16.",
    "Memory time is the bytes that the compiler counts over the memory's rate, as if no operand stayed in the chip; it "
    "counts a loop's body once, so its bytes are scaled by the operations it misses.",
    "Collectives are rings: an all-reduce sends 2 (n - 1) / n of its payload, a gather or scatter (n - 1) / n; a group "
    "of n chips uses as many axes of the torus as it fills, each at the rate of both directions.",
    "Each message takes 1 microsecond a hop, half the side of the torus in each axis it uses, twice for an all-reduce.",
    "A step takes between the longest of the three times (all overlap) and compute or memory plus collectives (none "
    "do); the efficiency given is the worse one, without overlap.",
    "Weak scaling: the work of a chip stays as compiled; groups along batch axes shrink with the number of chips, "
    "groups along the tensor axis do not; hosts, input and stragglers are left out.",
)


class Estimate(NamedTuple):
    """Seconds of a step on a number of chips.

    Attributes:
      chips: how many.
      compute: seconds of matrix products.
      memory: seconds of reading and writing.
      collectives: seconds of communication.
      shortest: of the step, if all three overlap.
      longest: of the step, if communication does not.
      efficiency: throughput per chip over that of one chip, without overlap.
    """

    chips: int
    compute: float
    memory: float
    collectives: float
    shortest: float
    longest: float
    efficiency: float


def chip(name: str) -> Chip:
    """A chip by the first part of a topology's name."""
    _check.known("topology", name, CHIPS, what="chip")
    return CHIPS[name]


def estimate(
    spec: Chip,
    *,
    flops: float,
    bytes_accessed: float,
    collectives: Sequence[Collective],
    compiled_chips: int,
    tensor: int,
    chips: int,
) -> Estimate:
    """Estimates a step whose work for each chip is that of the compiled program, on another number of chips.

    Args:
      spec: the chip.
      flops: operations of each chip in a step.
      bytes_accessed: of each chip's memory in a step.
      collectives: of the compiled program.
      compiled_chips: number of chips it was compiled for.
      tensor: size of the tensor axis, which does not shrink.
      chips: number of chips to estimate for.

    Returns:
      An `Estimate`.
    """
    compute, memory = flops / spec.flops, bytes_accessed / spec.memory_rate
    exchange = sum(
        _seconds(spec, one, _group(one, compiled_chips, tensor, chips), chips, compiled_chips) for one in collectives
    )
    alone = max(compute, memory)
    return Estimate(
        chips, compute, memory, exchange, max(alone, exchange), alone + exchange, alone / (alone + exchange)
    )


def _group(collective: Collective, compiled: int, tensor: int, chips: int) -> int:
    """The size of a collective's group on another number of chips."""
    if collective.group <= tensor < compiled or collective.kind == "collective-permute":
        return min(collective.group, chips)
    return max(1, min(chips, collective.group * chips // compiled))


def _seconds(spec: Chip, one: Collective, group: int, chips: int, compiled: int) -> float:
    """Seconds of a collective in a step."""
    if group <= 1:
        return 0.0
    side = max(2.0, chips ** (1 / spec.torus))
    axes = max(1, min(spec.torus, math.floor(math.log(group) / math.log(side) + 1e-6)))
    twice = 2 if one.kind == "all-reduce" else 1
    share = 1.0 if one.kind == "collective-permute" else twice * (group - 1) / group
    rounds = 1.0 if one.kind != "collective-permute" else (chips - 1) / chips / ((compiled - 1) / compiled)
    hops = 1 if one.kind == "collective-permute" else twice * axes * group ** (1 / axes) / 2
    return one.times * rounds * (share * one.payload / (axes * spec.link_rate) + hops * HOP)
