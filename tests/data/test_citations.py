"""Citation networks cut into neighbourhoods; graphs and trees as examples; draws by weight."""

import numpy as np
import pytest

from jkd import data, graphs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of twelve papers in a ring, with one that everyone cites, and words of two kinds."""
    folder = tmp_path_factory.mktemp("citations")
    papers = 12
    edges = [(i, (i + 1) % 11) for i in range(11)] + [(i, 11) for i in range(11)] + [(3, 3)]
    words = np.array([[i % 2, 2 + i % 2] for i in range(papers)])
    np.savez(
        folder / "cora.npz",
        edges=np.array(edges, np.int32),
        labels=(np.arange(papers) % 3).astype(np.int32),
        labelled=np.arange(papers) != 5,
        val=np.array([0, 1]),
        test=np.array([2, 3]),
        features_indptr=np.arange(0, 2 * papers + 1, 2),
        features_indices=words.reshape(-1),
        features_data=np.ones(2 * papers, np.float32),
        num_features=np.int64(4),
    )
    return folder


def test_neighbourhoods_hold_their_papers_edges_and_topics(folder):
    found = data.citation_neighbourhoods("cora", folder, topics=2, most_neighbours=4)
    assert {name: len(listed) for name, (listed, _) in found.splits.items()} == {"train": 7, "validation": 2, "test": 2}
    assert (found.topics, found.classes) == (2, 3)
    listed, labels = found.splits["test"]
    assert labels.tolist() == [2, 0]
    around = listed[0]  # paper 2 with 1, 3 and the hub
    assert around.nodes[:, 1].tolist() == [1, 0, 0, 0]
    assert around.nodes[0, 0] != around.nodes[1, 0] == around.nodes[2, 0]
    edges, _ = graphs.undirected(around)
    assert sorted(map(tuple, edges.T.tolist())) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    hub = found.splits["train"][0][-1]
    assert len(hub.nodes) == 5


def test_a_missing_file_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"citeseer\.npz is not there; --data_dir must be"):
        data.citation_neighbourhoods("citeseer", folder)
    with pytest.raises(ValueError, match="Did you mean 'cora'"):
        data.citation_neighbourhoods("coro", folder)


def test_trees_of_arrays_are_examples(folder):
    examples = data.graph_examples(*data.molecules(5, seed=0), nodes=30, edges=70)
    part = examples.select(np.array([3, 1]))
    assert part.take(np.array([0]))["inputs"].nodes.shape == (1, 30, 1)
    assert part.take(np.array([1]))["id"].tolist() == [1]
    again = data.graph_examples(*data.molecules(5, seed=0), nodes=30, edges=70)
    assert again.digest() == examples.digest()
    changed = examples.arrays["inputs"]._replace(edges=examples.arrays["inputs"].edges + 1)
    assert data.ArrayExamples({**examples.arrays, "inputs": changed}).digest() != examples.digest()
    short = examples.arrays["inputs"]._replace(edges=examples.arrays["inputs"].edges[:4])
    with pytest.raises(ValueError, match="different lengths"):
        data.ArrayExamples({**examples.arrays, "inputs": short})


def test_draws_follow_the_weights_and_the_step(numbered):
    weights = np.array([0.0, 1.0, 3.0, 0.0])
    batches = data.WeightedBatches(numbered(4), weights, 1000, seed=1)
    drawn = np.concatenate([batches[step]["id"] for step in range(20)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / len(drawn), weights / 4, atol=0.01)
    np.testing.assert_array_equal(batches[7]["id"], data.WeightedBatches(numbered(4), weights, 1000, seed=1)[7]["id"])
    assert (batches[7]["id"] != batches[8]["id"]).any()
