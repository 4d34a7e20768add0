"""Batches are pure functions of (seed, step), whole epochs, and the same rows however many processes read them."""

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
import pytest

from jkd.data import EvalBatches, TrainBatches, sources
from jkd.data.seeded import permutation


def ids(batches, steps):
    return np.concatenate([batches[step]["id"] for step in steps])


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (10, 4), (7, 1), (5, 13), (1, 3)])
def test_every_example_comes_once_in_each_epoch(count, batch_size, numbered):
    walk = ids(TrainBatches(numbered(count), batch_size, seed=3), range(60))
    epochs = walk[: len(walk) // count * count].reshape(-1, count)
    assert len(epochs) >= 4
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(count), (len(epochs), 1)))


def test_epochs_and_seeds_differ(numbered):
    examples = numbered(100)
    first, second = (ids(TrainBatches(examples, 100, seed=0), [epoch]) for epoch in (0, 1))
    other = ids(TrainBatches(examples, 100, seed=1), [0])
    for a, b in itertools.combinations((first, second, other, np.arange(100)), 2):
        assert (a == b).mean() < 0.1


def test_the_order_is_shuffled_evenly(numbered):
    at_first = [TrainBatches(numbered(4), 1, seed=seed)[0]["id"][0] for seed in range(2000)]
    counts = np.bincount(at_first, minlength=4)
    assert np.all(np.abs(counts - 500) < 4 * np.sqrt(2000 * 3 / 16))


def test_rows_of_a_batch_belong_together(numbered):
    batch = TrainBatches(numbered(10), 6, seed=0)[7]
    np.testing.assert_array_equal(batch["inputs"][:, 0], batch["id"].astype(np.float32))
    np.testing.assert_array_equal(batch["label"], batch["id"] % 3)
    assert batch["label"].dtype == batch["id"].dtype == np.int32


def test_access_is_pure_in_any_order_and_from_many_threads(numbered):
    steps = np.random.default_rng(0).integers(0, 200, 300).tolist()
    expected = {step: TrainBatches(numbered(11), 4, seed=5)[step]["id"].tolist() for step in set(steps)}
    shared = TrainBatches(numbered(11), 4, seed=5)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda step: shared[step]["id"].tolist(), steps))
    assert got == [expected[step] for step in steps]


def test_permutations_of_two_epochs_are_kept(monkeypatch, numbered):
    drawn = []
    monkeypatch.setattr(sources, "permutation", lambda n, seed: drawn.append(seed) or permutation(n, seed=seed))
    batches = TrainBatches(numbered(10), 4, seed=0)
    for step in range(8):
        _ = batches[step]
    assert drawn == [(0, 0), (0, 1), (0, 2), (0, 3)]
    for step in (5, 7, 5, 7, 6):  # all within the last two epochs
        _ = batches[step]
    assert len(drawn) == 4


def test_far_steps_need_no_walk_and_do_not_overflow(numbered):
    batches = TrainBatches(numbered(10), 6, seed=2**64 - 1)
    assert sorted(ids(batches, range(5 * 10**17, 5 * 10**17 + 5))) == sorted([*range(10)] * 3)
    assert len(batches[2**62]["id"]) == 6


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_global_order_does_not_depend_on_the_number_of_processes(count, numbered):
    examples = numbered(10)
    whole = TrainBatches(examples, 6, seed=1)
    shards = [TrainBatches(examples, 6, seed=1, shard=(index, count)) for index in range(count)]
    evaluation, parts = EvalBatches(examples, 6), [EvalBatches(examples, 6, shard=(i, count)) for i in range(count)]
    assert [len(part) for part in parts] == [2] * count
    for step in (0, 1, 17):
        np.testing.assert_array_equal(np.concatenate([shard[step]["id"] for shard in shards]), whole[step]["id"])
    for i, name in itertools.product(range(2), ("id", "mask")):
        np.testing.assert_array_equal(np.concatenate([part[i][name] for part in parts]), evaluation[i][name])


def test_evaluation_sees_every_example_once_and_pads_the_last_batch(numbered):
    batches = EvalBatches(numbered(10), 4)
    seen = list(batches)
    assert len(seen) == len(batches) == 3
    assert all(batch["mask"].dtype == bool and batch["inputs"].shape == (4, 1) for batch in seen)
    np.testing.assert_array_equal(np.concatenate([batch["id"][batch["mask"]] for batch in seen]), np.arange(10))
    assert seen[2]["id"].tolist() == [8, 9, 8, 8]
    assert seen[2]["mask"].tolist() == [True, True, False, False]


def test_a_process_may_have_padding_only(numbered):
    last = EvalBatches(numbered(5), 4, shard=(1, 2))[1]
    assert last["id"].tolist() == [4, 4]
    assert not last["mask"].any()


def test_an_empty_set_has_no_evaluation_batches(numbered):
    assert list(EvalBatches(numbered(0), 4)) == []


def test_both_are_grain_sources(numbered):
    train, evaluation = TrainBatches(numbered(10), 4, seed=0), EvalBatches(numbered(10), 4)
    pipeline = grain.MapDataset.source(train).map(lambda batch: {**batch, "inputs": batch["inputs"] + np.float32(1)})
    np.testing.assert_array_equal(pipeline[1234]["inputs"], train[1234]["inputs"] + np.float32(1))
    streamed = itertools.islice(iter(pipeline.to_iter_dataset()), 5)
    np.testing.assert_array_equal(np.concatenate([batch["id"] for batch in streamed]), ids(train, range(5)))
    assert [batch["id"].tolist() for batch in grain.MapDataset.source(evaluation)] == [
        batch["id"].tolist() for batch in evaluation
    ]


def test_a_grain_pipeline_serves_as_data_itself():
    rows = [{"inputs": np.full(2, i, np.float32), "label": np.int32(i)} for i in range(10)]
    data, again = (grain.MapDataset.source(rows).seed(0).shuffle().repeat().batch(4) for _ in range(2))
    assert data[7]["inputs"].shape == (4, 2)
    np.testing.assert_array_equal(data[7]["label"], [again[step]["label"] for step in range(8)][7])
    np.testing.assert_array_equal(data[7]["inputs"][:, 0], data[7]["label"].astype(np.float32))


def test_sources_can_be_sent_to_other_processes(numbered):
    batches = TrainBatches(numbered(10), 4, seed=0)
    _ = batches[3]
    assert pickle.loads(pickle.dumps(batches))[9]["id"].tolist() == batches[9]["id"].tolist()  # noqa: S301


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 10, "shard": (0, 4)}, r"batch_size=10 is not divisible by the 4 processes.* such as 12"),
        ({"shard": (2, 2)}, r"shard=\(2, 2\) must be \(index, count\)"),
        ({"seed": -1}, "seed=-1 must lie in"),
    ],
)
def test_bad_arguments(arguments, message, numbered):
    with pytest.raises(ValueError, match=message):
        TrainBatches(**{"examples": numbered(4), "batch_size": 4, "seed": 0, **arguments})


def test_bad_steps_and_sizes(numbered):
    with pytest.raises(IndexError, match="step=-1"):
        TrainBatches(numbered(4), 2, seed=0)[-1]
    with pytest.raises(IndexError, match=r"index=2 must lie in \[0, 2\)"):
        EvalBatches(numbered(4), 2)[2]
    with pytest.raises(ValueError, match="examples is empty"):
        TrainBatches(numbered(0), 2, seed=0)
    with pytest.raises(ValueError, match="batch_size=3 is not divisible by the 2"):
        EvalBatches(numbered(4), 3, shard=(0, 2))
