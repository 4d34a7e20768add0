"""Message-passing networks on rows of padded graphs: GIN, GCN, GAT, with edge labels and a readout over roots.

Each layer's message to a node is a sum over the edges that end there, and the degrees come with the graph. So a node's
embedding after L layers is the same, to rounding, in a graph and at the root of its computation tree of depth L.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd import _check
from jkd.graphs import PaddedGraphs
from jkd.nets import layers
from jkd.ops import masked_segment_sum

Array = jax.Array


class _Edges(NamedTuple):
    """The edges of all rows of a batch, between places in one flat list of M nodes.

    Attributes:
      senders: int32 `[K]`.
      receivers: int32 `[K]`.
      where: bool `[K]`, False on padding.
      num_nodes: M.
    """

    senders: Array
    receivers: Array
    where: Array
    num_nodes: int

    def received(self, messages: Array) -> Array:
        """The sum of the messages `[K, D]` at each node, `[M, D]`."""
        total = masked_segment_sum(messages, self.receivers, num_segments=self.num_nodes, where=self.where)
        return total.astype(messages.dtype)


class GINLayer(nn.Module):
    """`W_2 relu(W_1 ((1 + eps) h_v + sum_u relu(h_u + e_uv)))`, `eps` learned.

    Reference:
      Hu et al.: Strategies for Pre-training Graph Neural Networks. ICLR 2020. https://arxiv.org/abs/1905.12265; Xu et
      al.: How Powerful are Graph Neural Networks? ICLR 2019. https://arxiv.org/abs/1810.00826
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, nodes: Array, edges: _Edges, edge_features: Array, degrees: Array) -> Array:
        """Maps nodes `[M, D]` and edge features `[K, D]` to `[M, width]`."""
        del degrees
        eps = self.param("eps", nn.initializers.zeros_init(), ())
        total = (1 + eps.astype(nodes.dtype)) * nodes + edges.received(nn.relu(nodes[edges.senders] + edge_features))
        hidden = nn.relu(nn.Dense(2 * self.width, dtype=self.dtype, name="hidden")(total))
        return nn.Dense(self.width, dtype=self.dtype, name="out")(hidden)


class GCNLayer(nn.Module):
    """`relu(W h_v + root) / (d_v + 1) + sum_u relu(W h_u + e_uv) / sqrt((d_u + 1) (d_v + 1))`, d the degrees.

    Reference:
      Kipf, Welling: Semi-Supervised Classification with Graph Convolutional Networks. ICLR 2017.
      https://arxiv.org/abs/1609.02907; edge features as in the Open Graph Benchmark, https://arxiv.org/abs/2005.00687
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, nodes: Array, edges: _Edges, edge_features: Array, degrees: Array) -> Array:
        """Maps nodes `[M, D]`, edge features `[K, D]` and degrees `[M]` to `[M, width]`."""
        x = nn.Dense(self.width, dtype=self.dtype, name="out")(nodes)
        root = self.param("root", nn.initializers.normal(0.1), (self.width,)).astype(x.dtype)
        inverse = jax.lax.rsqrt(degrees + 1).astype(x.dtype)[:, None]
        messages = nn.relu(x[edges.senders] + edge_features) * inverse[edges.senders] * inverse[edges.receivers]
        return edges.received(messages) + nn.relu(x + root[None]) * jnp.square(inverse)


class GATLayer(nn.Module):
    """Attention over a node and its neighbours: `sum_u a_uv (W h_u + e_uv)`, `a` a softmax over what arrives at v.

    The score of an edge is `leaky_relu(a_1 . W h_v + a_2 . (W h_u + e_uv))` for each head; a node attends to itself
    over an edge without features.

    Reference:
      Velickovic, Cucurull, Casanova, Romero, Lio, Bengio: Graph Attention Networks. ICLR 2018.
      https://arxiv.org/abs/1710.10903
    """

    width: int
    heads: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, nodes: Array, edges: _Edges, edge_features: Array, degrees: Array) -> Array:
        """Maps nodes `[M, D]` and edge features `[K, D]` to `[M, width]`."""
        del degrees
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}; make it a divisor.")
        shape = (-1, self.heads, self.width // self.heads)
        x = nn.Dense(self.width, dtype=self.dtype, name="out")(nodes).reshape(shape)
        near, far = (
            self.param(name, layers.uniform_fan_in, (self.heads, shape[-1])).astype(x.dtype) for name in ("near", "far")
        )
        sent = x[edges.senders] + edge_features.reshape(shape)
        wanted = (x * near[None]).sum(-1)
        scores = nn.leaky_relu(wanted[edges.receivers] + (sent * far[None]).sum(-1), 0.2)
        own = nn.leaky_relu(wanted + (x * far[None]).sum(-1), 0.2)
        kept = jnp.where(edges.where[:, None], scores, -jnp.inf)
        largest = jnp.maximum(own, jax.ops.segment_max(kept, edges.receivers, num_segments=edges.num_nodes))
        largest = jax.lax.stop_gradient(largest)
        # padding may score above what counts: its exponential must not overflow, or its gradient is NaN
        weight = jnp.exp(jnp.where(edges.where[:, None], scores - largest[edges.receivers], 0))
        own_weight = jnp.exp(own - largest)
        top = edges.received(weight[..., None] * sent) + own_weight[..., None] * x
        return (top / (edges.received(weight) + own_weight)[..., None]).reshape(-1, self.width)


LAYERS = {"gin": GINLayer, "gcn": GCNLayer, "gat": GATLayer}


class GraphClassifier(nn.Module):
    """Embeds labels, passes messages, sums the roots' embeddings of each graph, and classifies the sum.

    Sows `layer1`, …, the node embeddings `[B, N, D]` after each layer, and `pooled`, `[B, D]`.

    Attributes:
      num_classes: C.
      kind: of the layers, `"gin"`, `"gcn"` or `"gat"`.
      node_labels: how many values each field of a node's label has.
      edge_labels: how many an edge's has.
      width: D.
      depth: L, number of layers.
      jumping: `"last"`: the last layer is read out; `"sum"`: the sum of all, the embedded labels included.
      dropout: probability, after each layer and before the classifier.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: unused; there is no batch normalisation. Present so that all networks take the same fields.
    """

    num_classes: int
    kind: str
    node_labels: Sequence[int]
    edge_labels: int
    width: int = 32
    depth: int = 2
    jumping: str = "last"
    dropout: float = 0.0
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, graphs: PaddedGraphs, train: bool = False) -> Array:
        """Maps B graphs to logits `[B, C]`."""
        _check.known("kind", self.kind, LAYERS, what="layer")
        _check.known("jumping", self.jumping, ("last", "sum"))
        fields = graphs.nodes.shape[-1]
        if fields != len(self.node_labels):
            raise ValueError(f"graphs.nodes has {fields} fields but node_labels names {len(self.node_labels)}.")
        rows, size = graphs.node_mask.shape
        edges, flat = _flatten(graphs)
        embedded = [
            nn.Embed(count, self.width, dtype=self.dtype, name=f"nodes{field}")(flat.nodes[:, field])
            for field, count in enumerate(self.node_labels)
        ]
        x = functools.reduce(jnp.add, embedded)
        seen = [x]
        for depth in range(1, self.depth + 1):
            bonds = nn.Embed(self.edge_labels, self.width, dtype=self.dtype, name=f"edges{depth}")(flat.edges)
            layer = LAYERS[self.kind](self.width, dtype=self.dtype, name=f"pass{depth}")
            x = layer(x, edges, bonds, flat.degrees)
            x = nn.relu(x) if depth < self.depth else x
            self.sow("intermediates", f"layer{depth}", x.reshape(rows, size, self.width))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            seen.append(x)
        read = functools.reduce(jnp.add, seen) if self.jumping == "sum" else x
        row = jnp.repeat(jnp.arange(rows), size)
        pooled = masked_segment_sum(read, row, num_segments=rows, where=flat.roots)
        self.sow("intermediates", "pooled", pooled)
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        return layers.classifier(pooled, self.num_classes, dtype=self.dtype, name="fc")


def _flatten(graphs: PaddedGraphs) -> tuple[_Edges, PaddedGraphs]:
    """The rows of a batch as one list of nodes and one of edges."""
    rows, size = graphs.node_mask.shape
    start = (jnp.arange(rows, dtype=jnp.int32) * size)[:, None]
    flat = PaddedGraphs(*(jnp.asarray(leaf).reshape(-1, *leaf.shape[2:]) for leaf in graphs))
    senders, receivers = ((jnp.asarray(ends) + start).reshape(-1) for ends in (graphs.senders, graphs.receivers))
    return _Edges(senders, receivers, flat.edge_mask, rows * size), flat


def gin(num_classes: int, **fields: Any) -> GraphClassifier:
    """Graph isomorphism network with edge features."""
    return GraphClassifier(num_classes, "gin", **fields)


def gcn(num_classes: int, **fields: Any) -> GraphClassifier:
    """Graph convolutional network with edge features, normalised by the graph's own degrees."""
    return GraphClassifier(num_classes, "gcn", **fields)


def gat(num_classes: int, **fields: Any) -> GraphClassifier:
    """Graph attention network with edge features."""
    return GraphClassifier(num_classes, "gat", **fields)
