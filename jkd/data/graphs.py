"""Generated graphs with labels, and graphs as examples."""

from collections.abc import Sequence

import numpy as np

from jkd import _check
from jkd.data.examples import ArrayExamples
from jkd.graphs import Graph, pad_graphs

CARBON, NITROGEN, OXYGEN, SULPHUR, FLUORINE = range(5)
SINGLE, DOUBLE, RING = range(3)
ATOMS, BONDS = 5, 3


def molecules(count: int, *, seed: int) -> tuple[list[Graph], np.ndarray]:
    """Generates molecule-like graphs with a functional group that depends on the class, and much that does not.

    A ring of six atoms, a chain of one to three, perhaps a second ring; then an amide with probability .75 in class 1
    and .25 in class 0, an ester the other way round, a halide with .3, and up to two single atoms. The classes overlap:
    no classifier reaches an AUC of 1.

    Args:
      count: number of graphs, at least 1.
      seed: of the generator.

    Returns:
      `(graphs, labels)`: nodes are atoms 0 to 4 (C, N, O, S, F), edges bonds 0 to 2 (single, double, ring), both
      directions stored; int32 labels `[count]`, 0 or 1.

    Example:
      >>> graphs, labels = molecules(2, seed=0)
      >>> len(graphs), labels.shape
      (2, (2,))
    """
    _check.positive_integer("count", count)
    rng = np.random.default_rng(seed)
    drawn = [_molecule(rng) for _ in range(count)]
    return [graph for graph, _ in drawn], np.array([label for _, label in drawn], np.int32)


class _Skeleton:
    """Atoms and bonds as they are put together."""

    def __init__(self) -> None:
        self.atoms: list[int] = []
        self.bonds: list[tuple[int, int, int]] = []

    def atom(self, kind: int) -> int:
        """Adds an atom and returns its number."""
        self.atoms.append(kind)
        return len(self.atoms) - 1

    def on(self, at: int, kind: int, bond: int = SINGLE) -> int:
        """Adds an atom bound to another."""
        new = self.atom(kind)
        self.bonds.append((at, new, bond))
        return new

    def ring(self, rng: np.random.Generator) -> list[int]:
        """Adds a ring of six."""
        atoms = [self.atom(CARBON if rng.random() < 0.85 else NITROGEN) for _ in range(6)]
        self.bonds += [(a, b, RING) for a, b in zip(atoms, [*atoms[1:], atoms[0]], strict=True)]
        return atoms

    def graph(self) -> Graph:
        """The graph, both directions stored."""
        a, b, kind = np.array(self.bonds, np.int32).T
        both = np.concatenate([a, b]), np.concatenate([b, a])
        return Graph(np.array(self.atoms, np.int32), *both, np.concatenate([kind, kind]))


def _molecule(rng: np.random.Generator) -> tuple[Graph, int]:
    """One molecule and its class, drawn in a fixed order from one generator."""
    label = int(rng.integers(2))
    made = _Skeleton()
    open_atoms = made.ring(rng)
    end = int(rng.choice(open_atoms))
    for _ in range(rng.integers(1, 4)):
        end = made.on(end, CARBON)
        open_atoms = [*open_atoms, end]
    if rng.random() < 0.5:
        second = made.ring(rng)
        made.bonds.append((end, second[0], SINGLE))
        open_atoms = [*open_atoms, *second]
    if rng.random() < (0.75 if label else 0.25):
        carbon = made.on(int(rng.choice(open_atoms)), CARBON)
        made.on(carbon, OXYGEN, DOUBLE)
        made.on(carbon, NITROGEN)
    if rng.random() < (0.25 if label else 0.75):
        carbon = made.on(int(rng.choice(open_atoms)), CARBON)
        made.on(carbon, OXYGEN, DOUBLE)
        made.on(made.on(carbon, OXYGEN), CARBON)
    if rng.random() < 0.3:
        made.on(int(rng.choice(open_atoms)), FLUORINE)
    for _ in range(rng.integers(3)):
        kind = int(rng.choice([CARBON, CARBON, CARBON, OXYGEN, SULPHUR]))
        made.on(int(rng.choice(open_atoms)), kind)
    return made.graph(), label


def graph_examples(
    graphs: Sequence[Graph], labels: np.ndarray, *, nodes: int | None = None, edges: int | None = None
) -> ArrayExamples:
    """Graphs as examples whose `inputs` are `jkd.graphs.PaddedGraphs`.

    Args:
      graphs: N of them.
      labels: integers `[N]`.
      nodes: size of a row; that of the largest graph if None. Splits that are to share a compilation need one size.
      edges: likewise.

    Returns:
      `ArrayExamples`.

    Example:
      >>> graph_examples(*molecules(3, seed=0), nodes=40, edges=80).take(np.array([1]))["inputs"].nodes.shape
      (1, 40, 1)
    """
    return ArrayExamples({"inputs": pad_graphs(graphs, nodes=nodes, edges=edges), "label": np.asarray(labels)})
