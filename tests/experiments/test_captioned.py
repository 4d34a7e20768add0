"""The world of captioned shapes that towers are measured in."""

import numpy as np
import pytest

from experiments.common import captioned
from tests.experiments.commands import run


@pytest.fixture(scope="module")
def world():
    return captioned.make_world(64, gallery=40)


def contents(scenes, index):
    """The pairs of colour and shape of a scene."""
    return frozenset(scenes.pair[index, : scenes.num_objects[index]].tolist())


def test_galleries_hold_different_contents_and_novel_ones_nothing_that_training_shows(world):
    train = {pair for index in range(64) for pair in contents(world.pairs.scenes, index)}
    for gallery, count in ((world.validation, 40), (world.seen, 40), (world.novel, 36)):
        assert len({contents(gallery.scenes, index) for index in range(len(gallery.text))}) == count
        assert gallery.false.shape == (count, 15, world.length)
        assert not (gallery.false == gallery.text[:, None]).all(-1).any()
    novel = {pair for index in range(36) for pair in contents(world.novel.scenes, index)}
    assert len(novel) == 8 and not novel & train
    assert not set(world.single["novel"].pair[:, 0].tolist()) & train
    assert not np.array_equal(world.validation.scenes.image, world.seen.scenes.image)


def test_recall_counts_both_directions():
    rows = np.eye(4, dtype=np.float32)
    assert captioned.recalls(rows, rows, k=1) == 1
    assert captioned.recalls(rows, np.roll(rows, 1, axis=0), k=1) == 0
    texts = rows.copy()
    texts[1] = [0.9, 0.1, 0, 0]  # image 1 still finds its text, which is nearer to image 0
    assert captioned.recalls(rows, texts, k=1) == pytest.approx(0.875)


def test_bad_input_ends_with_a_line(tmp_path):
    done = run("experiments.tinyclip", "--patch=5", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "--patch=5 must divide the sides of the images, 32." in " ".join(done.stderr.split())
