"""Scenes agree with their masks, captions with their scenes, and what is false is false."""

import numpy as np
import pytest

from jkd import data
from jkd.data import shapes_captions as sc

SCENES = sc.shapes_scenes(5, 200)


def parsed(text):
    """(phrases as (size, colour, shape), relation) of a caption."""
    phrases, relation, size = [], None, None
    words = text.split()
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in sc.RELATIONS:
            relation = word
        if word in sc.SIZES:
            size = sc.SIZES.index(word)
        if word in sc.COLORS:
            phrases.append((size, sc.COLORS.index(word), sc.SHAPES.index(after)))
            size = None
    return phrases, relation


def is_true(scenes, row, text, *, whole=True):
    """Whether all that is said holds."""
    phrases, relation = parsed(text)
    slots = []
    for size, color, shape in phrases:
        found = np.flatnonzero(scenes.pair[row] == 6 * color + shape)
        if not len(found) or (size is not None and scenes.size[row, found[0]] != size):
            return False
        slots.append(int(found[0]))
    if whole and sorted(slots) != list(range(scenes.num_objects[row])):
        return False
    if relation is None:
        return True
    dx, dy = (v[row, slots[0]] - v[row, slots[1]] for v in (scenes.cx, scenes.cy))
    along = {"left": -dx, "right": dx, "above": -dy, "below": dy}[relation]
    return along > 0 and along >= max(abs(dx), abs(dy))


def test_equal_seeds_give_equal_scenes_and_other_seeds_others():
    for a, b in zip(sc.shapes_scenes(3, 20), sc.shapes_scenes(3, 20), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(sc.shapes_scenes(4, 20).pair != sc.shapes_scenes(3, 20).pair)


def test_pairs_are_held_out_and_differ_within_a_scene():
    novel = sc.shapes_scenes(6, 100, split="novel")
    assert not np.isin(SCENES.pair, sc.NOVEL_PAIRS).any()
    assert np.isin(novel.pair[novel.pair >= 0], sc.NOVEL_PAIRS).all()
    for row in [*SCENES.pair, *novel.pair]:
        there = row[row >= 0]
        assert len(np.unique(there)) == len(there)
    shares = np.bincount(SCENES.num_objects)[1:] / len(SCENES.image)
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.12)


def test_masks_and_images_agree_to_the_pixel():
    assert SCENES.image.dtype == np.float32
    assert SCENES.image.min() >= 0 and SCENES.image.max() <= 1
    np.testing.assert_array_equal(SCENES.instance > 0, SCENES.class_map > 0)
    for row in range(40):
        for slot in range(SCENES.num_objects[row]):
            inside = SCENES.instance[row] == slot + 1
            assert inside.sum() > 10
            assert set(np.unique(SCENES.class_map[row][inside])) == {1 + SCENES.pair[row, slot]}
            seen = SCENES.image[row][inside].mean(0)
            np.testing.assert_allclose(seen, np.clip(sc.RGB[SCENES.color[row, slot]], 0, 1), atol=0.22)
            y, x = np.nonzero(inside)
            np.testing.assert_allclose(x.mean() + 0.5, SCENES.cx[row, slot], atol=1.0)
            np.testing.assert_allclose(y.mean() + 0.5, SCENES.cy[row, slot], atol=2.0)


def test_shapes_are_what_they_are_called():
    middle, radius = np.full(6, 32.0), np.full(6, 20.0)
    circle, square, triangle, cross, ring, diamond = sc.render_shape(np.arange(6), middle, middle, radius, size=64)
    assert circle.sum() == pytest.approx(np.pi * 400, rel=0.05)
    assert square.sum() == pytest.approx((2 * 0.88 * 20) ** 2, rel=0.05)
    assert not ring[32, 32] and np.all(ring <= circle)
    assert np.all(np.diff(triangle.sum(1)[triangle.any(1)]) >= 0)
    assert cross[32].sum() == 40 and cross[14, 32] and not cross[14, 14]
    assert diamond.sum() == pytest.approx(2 * (1.15 * 20) ** 2, rel=0.05)


def test_captions_are_true_and_name_every_object():
    for seed in (0, 1):
        ids = sc.shapes_captions(SCENES, seed)
        assert ids.shape == (200, 24) and (ids[:, 0] == sc.BOS).all()
        assert ((ids == sc.EOS).sum(1) == 1).all()
        assert all(is_true(SCENES, row, text) for row, text in enumerate(sc.shapes_captions_text(ids)))
    assert np.any(sc.shapes_captions(SCENES, 0) != sc.shapes_captions(SCENES, 1))
    with pytest.raises(ValueError, match="length=8 does not hold"):
        sc.shapes_captions(SCENES, 0, length=8)


def test_hard_negatives_and_hallucinations_are_false():
    false = sc.hard_negative_captions(SCENES.take(slice(0, 60)), 0, num=6)
    for row, texts in enumerate(false):
        assert not any(is_true(SCENES, row, text) for text in sc.shapes_captions_text(texts))
    chosen, rejected = (sc.shapes_captions_text(ids) for ids in sc.hallucinated_pairs(SCENES, 0))
    for row, (good, bad) in enumerate(zip(chosen, rejected, strict=True)):
        assert is_true(SCENES, row, good)
        pairs = {6 * color + shape for _, color, shape in parsed(bad)[0]}
        assert len(pairs - set(SCENES.pair[row])) == 1


def test_questions_have_the_answer_that_the_scene_gives():
    found = sc.shapes_questions(SCENES, 0)
    texts = sc.shapes_captions_text(found.ids)
    exist = []
    for text, kind, row, strength in zip(texts, found.kind, found.scene, found.strength, strict=True):
        question, answer = text.split(" <sep> ")
        name = sc.KINDS[kind]
        if name == "count":
            assert answer == str(SCENES.num_objects[row])
        if name == "exist":
            ((_, color, shape),) = parsed(question)[0]
            assert (answer == "yes") == (6 * color + shape in SCENES.pair[row])
            assert (strength >= 0) == (answer == "no")
            exist.append(answer)
        if name == "color":
            color, shape = sc.COLORS.index(answer), sc.SHAPES.index(question.split()[-1])
            assert 6 * color + shape in SCENES.pair[row]
        if name == "caption":
            assert is_true(SCENES, row, answer)
        if name == "relation":
            assert is_true(SCENES, row, question.replace(" of the ", f" {answer} "), whole=False)
    assert 0.35 < exist.count("yes") / len(exist) < 0.65
    assert set(found.strength) == {-1, 0, 1, 2}
    said = [
        sc.shapes_captions_text(np.where(m, i, 0)[None])[0] for m, i in zip(found.loss_mask, found.ids, strict=True)
    ]
    assert said == sc.shapes_captions_text(found.answer)


def test_galleries_hold_no_set_twice():
    chosen = SCENES.take(sc.distinct_subset(SCENES, 100))
    assert len({tuple(sorted(row)) for row in chosen.pair}) == 100
    with pytest.raises(ValueError, match="different sets of objects"):
        sc.distinct_subset(SCENES.take(slice(0, 5)), 6)


def test_captioned_scenes_are_examples():
    examples = sc.CaptionedScenes(SCENES, wordings=2, seed=3)
    assert isinstance(examples, data.Examples)
    batch = data.TrainBatches(examples, 8, seed=0)[3]
    text = sc.shapes_captions_text(batch["inputs"]["text"])
    assert all(is_true(SCENES, row, said) for row, said in zip(batch["label"], text, strict=True))
    answered = examples.answered(np.arange(200), np.arange(400), lambda a, b: (a, b)).select(np.array([7, 2]))
    assert [x.tolist() for x in answered.take(np.array([0, 1]))["teacher"]] == [[3, 1], [7, 2]]
    assert answered.digest() != examples.digest()
