"""What the devices of a compiled program say to each other: its collectives, read from the program's text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_HEAD = re.compile(r"^(ENTRY )?%(?P<name>[\w.\-]+) \(.*\{$")
_OPERATION = re.compile(
    rf"^\s+(ROOT )?%[\w.\-]+ = (?P<type>\(.*?\)|\S+) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\]")
_CALL = re.compile(
    r"(?:calls|to_apply|body|branch_computations|called_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)\}?"
)
_LOOP = re.compile(r" while\(.*condition=%([\w.\-]+), body=%([\w.\-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_LIMIT = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")


class Collective(NamedTuple):
    """One collective operation of a program.

    Attributes:
      kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all` or `collective-permute`.
      payload: bytes on each device of what is reduced, of what is gathered (all of it), or of what is sent.
      group: number of devices that take part together; 2 for a permute.
      arrays: (dtype, number of entries) of each array that travels in it.
      times: how often it runs in a step.
      source: path of the operation in the traced program it was made for (the first of several that were combined).
    """

    kind: str
    payload: int
    group: int
    arrays: tuple[tuple[str, int], ...]
    times: int
    source: str

    @property
    def backward(self) -> bool:
        """Whether it was made for a pull-back."""
        return "transpose(" in self.source

    @property
    def teacher(self) -> bool:
        """Whether it was made for the teacher."""
        return re.search(r"\bteacher\b", self.source) is not None

    def wire(self) -> float:
        """Bytes that each device sends in a step, by the best known algorithm on a ring."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.times * factor * self.payload


def read_collectives(text: str) -> list[Collective]:
    """Reads the collectives of a program in XLA's text form.

    Loops count as often as they run, which is the constant that their condition compares with. The parts of one that is
    spread over other work, which have its channel in common, count once.

    Args:
      text: `compiled.as_text()`.

    Returns:
      The collectives, in the order of the text.

    Raises:
      ValueError: for a loop whose number of rounds is not to be seen and that holds a collective.
    """
    bodies = dict(_computations(text))
    times = _times(bodies, next(name for name, lines in bodies.items() if lines and lines[0].startswith("ENTRY")))
    found: dict[str, Collective] = {}
    for name, lines in bodies.items():
        for line in lines:
            match = _OPERATION.match(line)
            if match and times.get(name, 0):
                channel = _CHANNEL.search(line)
                found.setdefault(channel[1] if channel else line, _collective(match, name, times[name]))
    return list(found.values())


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each computation's name and lines, its head first."""
    name, lines = "", []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            name, lines = head["name"], [line]
        elif line.startswith("}") and name:
            yield name, lines
            name = ""
        elif name:
            lines.append(line)


def _times(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs."""
    times: dict[str, int] = {}

    def visit(name: str, rounds: int) -> None:
        times[name] = times.get(name, 0) + rounds
        for line in bodies.get(name, ()):
            loop = _LOOP.search(line)
            if loop:
                visit(loop[2], rounds * _rounds(bodies, loop[1], loop[2]))
                continue
            for call in _CALL.findall(line):
                for called in re.findall(r"%([\w.\-]+)", call):
                    visit(called, rounds)

    visit(entry, 1)
    return times


def _rounds(bodies: dict[str, list[str]], condition: str, body: str) -> int:
    """The rounds of a counted loop."""
    limits = [int(limit) for line in bodies[condition] for limit in _LIMIT.findall(line)]
    if len(limits) == 1 and any("direction=LT" in line for line in bodies[condition]):
        return limits[0]
    if any(_OPERATION.match(line) for line in bodies.get(body, ())):
        raise ValueError(f"the loop {body} holds collectives, but its condition {condition} does not count rounds.")
    return 1


def _collective(match: re.Match[str], computation: str, times: int) -> Collective:
    """One operation."""
    arrays = [(dtype, math.prod(int(n) for n in dims.split(",") if n)) for dtype, dims in _ARRAY.findall(match["type"])]
    kind, rest = match["kind"], match["rest"]
    if match["start"] and kind in ("collective-permute", "all-gather"):  # (operands, results, …)
        arrays = arrays[:1] if kind == "collective-permute" else arrays[len(arrays) // 2 :]
    group = 2 if kind == "collective-permute" else _group(rest)
    payload = sum(_BYTES[dtype] * entries for dtype, entries in arrays)
    if kind == "reduce-scatter":
        payload *= group
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        kind = "reduce-scatter"
    source = re.search(r'op_name="([^"]*)"', rest)
    return Collective(kind, payload, group, tuple(arrays), times, source[1] if source else "")


def _group(rest: str) -> int:
    """Devices in each group: listed, as `[groups,size]<=…`, or as axes of a mesh."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return listed[1].count(",") + 1
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
    if counted:
        return int(counted[2])
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(.*?\))?\s*\{([^}]*)\}", rest)
    if meshed:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", meshed[2]))
    raise ValueError(f"a collective has replica groups of an unknown form: {rest[:200]}")
