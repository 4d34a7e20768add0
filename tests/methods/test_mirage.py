"""Mirage: trees are what networks see, patterns are found exactly, and what is left trains any network."""

import itertools

import jax
import numpy as np
import pytest

import jkd
from jkd import data, graphs, nets, train
from jkd.graphs import Graph
from jkd.methods import mirage
from tests.compiled import compiled, ops

SIZES = {"node_labels": (data.graphs.ATOMS,), "edge_labels": data.graphs.BONDS}
KINDS = {"gin": nets.gin, "gcn": nets.gcn, "gat": nets.gat}


def case():
    """What the protocol suite distils."""
    return data.molecules(30, seed=0), {"min_support": 0.5}


@pytest.fixture(scope="module")
def molecules():
    return data.molecules(60, seed=3)


def relabelled(graph, order):
    """The same graph with its nodes in another order."""
    place = np.argsort(order).astype(np.int32)
    return graph._replace(nodes=graph.nodes[order], senders=place[graph.senders], receivers=place[graph.receivers])


def ids(graph, hops, table=None):
    edges, kinds = graphs.undirected(graph)
    return graphs.computation_tree_ids(edges, graph.nodes, kinds, hops=hops, table=table)


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_on_its_tree_is_the_node_in_its_graph(molecules, kind):
    graph = molecules[0][1]
    edges, kinds = graphs.undirected(graph)
    unfolded = [
        graphs.tree_union([graphs.unfold_tree(edges, graph.nodes, kinds, v, hops=2)]) for v in range(len(graph.nodes))
    ]
    net = jkd.from_linen(KINDS[kind](2, width=8, **SIZES), taps=("layer2", "pooled"))
    variables = jax.jit(net.init)(jax.random.key(0), graphs.pad_graphs([graph]))
    apply = jax.jit(lambda inputs: net.apply(variables, inputs, train=False)[0].features)
    whole = jax.device_get(apply(graphs.pad_graphs([graph], nodes=40, edges=90)))
    size = len(graph.nodes)
    trees = jax.device_get(apply(graphs.pad_graphs(unfolded)))
    assert np.abs(whole["layer2"][0, :size]).max() > 0.1
    np.testing.assert_allclose(whole["layer2"][0, :size], trees["pooled"], rtol=1e-5, atol=1e-5)
    # and so the sum over a graph's trees is the graph's readout
    np.testing.assert_allclose(whole["pooled"][0], trees["pooled"].sum(0), rtol=1e-5, atol=1e-4)


def test_equal_trees_have_equal_ids_and_other_trees_others(molecules):
    table = []
    first, again = (
        molecules[0][0],
        relabelled(molecules[0][0], np.random.default_rng(0).permutation(len(molecules[0][0].nodes))),
    )
    order = np.random.default_rng(0).permutation(len(first.nodes))
    np.testing.assert_array_equal(ids(first, 2, table)[order], ids(again, 2, table))
    triangle = Graph(np.zeros(3, int), np.array([0, 1, 2, 1, 2, 0]), np.array([1, 2, 0, 0, 1, 2]), np.zeros(6, int))
    # tuples, not digits side by side: (1, 11) is not (11, 1)
    pair = np.array([[0], [1]]), np.array([[1, 11], [11, 1]]), np.array([0])
    assert graphs.computation_tree_ids(*pair, hops=0).tolist() == [0, 1]
    assert ids(triangle, 3).tolist() == [0, 0, 0]
    marked = triangle._replace(edges=np.array([0, 1, 0, 0, 1, 0]))
    assert ids(marked, 1).tolist() == [0, 1, 1]
    assert ids(marked, 0).tolist() == [0, 0, 0]


def test_patterns_are_all_that_are_frequent():
    table = np.random.default_rng(1).random((25, 7)) < 0.5
    sets, supports = graphs.frequent_itemsets(table, min_support=6, max_size=3)
    expected = [
        (items, int(table[:, items].all(1).sum()))
        for size in (1, 2, 3)
        for items in itertools.combinations(range(7), size)
        if table[:, items].all(1).sum() >= 6
    ]
    assert [(tuple(np.flatnonzero(s)), n) for s, n in zip(sets, supports, strict=True)] == expected
    assert len(expected) > 12


def test_sets_hold_in_as_many_graphs_as_they_say(molecules):
    listed, labels = molecules
    found = mirage.mirage(listed, labels, min_support=0.4, max_size=2)
    table = []
    held = [set(ids(graph, 2, table).tolist()) for graph in listed]
    for one in found.tree_sets:
        roots = np.flatnonzero(one.graph.roots)
        both = one.graph._replace(
            senders=np.concatenate([one.graph.senders, one.graph.receivers]),
            receivers=np.concatenate([one.graph.receivers, one.graph.senders]),
            edges=np.concatenate([one.graph.edges, one.graph.edges]),
        )
        assert len(roots) <= 2
        assert len(set(ids(both, 0)[roots])) <= len(roots)
        assert one.support >= 0.4 * (labels == one.label).sum() - 1
    supports = [
        sum(tree in trees for trees, label in zip(held, labels, strict=True) if label == 0)
        for tree in range(len(table[2]))
    ]
    singles = [one.support for one in found.tree_sets if one.label == 0 and one.graph.roots.sum() == 1]
    least = round(0.4 * (labels == 0).sum())
    assert sorted(singles) == sorted(n for n in supports if n >= least)
    assert found.nodes == sum(len(one.graph.nodes) for one in found.tree_sets)


def test_classes_weigh_the_same_and_shared_sets_can_go(molecules):
    found = mirage.mirage(*molecules, min_support={0: 0.4, 1: 15})
    classes = found.examples.labels()
    np.testing.assert_allclose([found.weights[classes == c].sum() for c in (0, 1)], [0.5, 0.5])
    ratio = found.weights[classes == 1] / [one.support for one in found.tree_sets if one.label == 1]
    np.testing.assert_allclose(ratio, ratio[0])
    own = mirage.mirage(*molecules, min_support=0.3, exclude_shared=True)
    kept = [graph_key(one) for one in own.tree_sets]
    assert len(set(kept)) == len(kept) < len(mirage.mirage(*molecules, min_support=0.3).tree_sets)


def graph_key(one):
    return one.graph.nodes.tobytes(), one.graph.receivers.tobytes(), one.graph.edges.tobytes()


def test_a_network_trains_on_tree_sets_spread_and_in_parts():
    found = mirage.mirage(*data.molecules(60, seed=0), min_support=0.4)
    batches = data.WeightedBatches(found.examples, found.weights, 16, seed=0)
    np.testing.assert_array_equal(batches[3]["inputs"].nodes, batches[3]["inputs"].nodes)
    student = jkd.from_linen(nets.gin(2, width=4, **SIZES))
    distiller = mirage.student_training(student=student, learning_rate=0.02, accumulate=2)
    placement = train.jit_placement(jax.devices()[:4])
    run = train.fit(distiller, (), batches, steps=12, log_every=1, placement=placement, progress=False)
    losses = [line["train/loss/task"] for line in run.history]
    start = jax.jit(lambda key: distiller.student(distiller.init(key, batches[0])))(jax.random.key(0))
    logits = jax.jit(lambda v, x: student.apply(v, x, train=False)[0].logits)(start, batches[0]["inputs"])
    expected = np.asarray(compiled(jkd.losses.cross_entropy)(logits, batches[0]["label"])).mean()
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)
    assert losses[-1] < losses[0]


def test_generated_molecules_are_connected_and_repeatable(molecules):
    listed, labels = molecules
    again = data.molecules(60, seed=3)
    assert all(np.array_equal(a.nodes, b.nodes) for a, b in zip(listed, again[0], strict=True))
    np.testing.assert_array_equal(labels, again[1])
    for graph in listed:
        size = len(graph.nodes)
        near = np.eye(size, dtype=int)
        near[graph.senders, graph.receivers] = 1
        assert np.linalg.matrix_power(near, size).all()
    amide = [sum(nitrogen(graph)) for graph in listed]
    assert np.mean(np.array(amide)[labels == 1]) > np.mean(np.array(amide)[labels == 0])


def nitrogen(graph):
    """Which atoms are a nitrogen on a single bond: the amide's."""
    single = graph.edges == data.graphs.SINGLE
    ends = graph.receivers[single]
    degree = np.bincount(graph.receivers, minlength=len(graph.nodes))
    return (graph.nodes[ends] == data.graphs.NITROGEN) & (degree[ends] == 1)


def test_masked_rows_reach_no_sum():
    nodes = np.array([[1.0, 2.0], [np.nan, np.inf], [3.0, 4.0]], np.float32)
    where, segments = np.array([True, False, True]), np.array([1, 7, 1], np.int32)

    def total(nodes):
        return ops.masked_segment_sum(nodes, segments, num_segments=3, where=where)

    np.testing.assert_array_equal(total(nodes), [[0, 0], [4, 6], [0, 0]])
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: total(x).sum()))(nodes), [[1, 1], [0, 0], [1, 1]])


def test_refusals(molecules):
    listed, labels = molecules
    narrow = nets.gat(2, width=6, **SIZES)
    one_way = listed[0]._replace(
        senders=listed[0].senders[:-1], receivers=listed[0].receivers[:-1], edges=listed[0].edges[:-1]
    )
    for call, text in (
        (lambda: mirage.mirage(listed, labels, min_support=1.5), r"min_support=1\.5 as a share"),
        (lambda: mirage.mirage(listed, labels, min_support=1000), r"leaves the classes \[0, 1\] without a set"),
        (lambda: mirage.mirage(listed, labels, min_support={0: 3}), r"min_support has the classes \[0\] but not 1"),
        (lambda: mirage.mirage(listed, labels[:-1]), "graphs has length 60 and labels 59"),
        (lambda: graphs.undirected(one_way), "an edge without its opposite"),
        (lambda: graphs.pad_graphs(listed, nodes=3), "nodes=3 is too small"),
        (lambda: data.WeightedBatches(data.graph_examples(listed, labels), np.zeros(60), 4, seed=0), "not all 0"),
        (lambda: jax.eval_shape(narrow.init, jax.random.key(0), graphs.pad_graphs(listed[:1])), "heads=4 does"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
