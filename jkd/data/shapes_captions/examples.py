"""Scenes in several wordings, as examples that batches are drawn from."""

import hashlib
from typing import Any

import jax
import numpy as np

from jkd import _check
from jkd.data.examples import Batch
from jkd.data.shapes_captions.captions import shapes_captions
from jkd.data.shapes_captions.scenes import Scenes


class CaptionedScenes:
    """Pairs of an image and one of its captions; the images are held once.

    Example i is scene `i // wordings` in wording `i % wordings`.

    Args:
      scenes: N of them.
      wordings: captions of each.
      seed: of the captions.
      length: of a caption.
      indices: of the examples that are here; all N times `wordings` if None.
      answers: what a frozen network gives: trees with a row for each scene and for each example, and the function
        that makes `batch["teacher"]` of their rows.

    Example:
      >>> from jkd.data.shapes_captions import shapes_scenes
      >>> examples = CaptionedScenes(shapes_scenes(0, 5), wordings=4, seed=0)
      >>> batch = examples.take(np.array([0, 7]))
      >>> len(examples), batch["inputs"]["text"].shape, batch["label"].tolist()
      (20, (2, 24), [0, 1])
    """

    def __init__(
        self,
        scenes: Scenes,
        *,
        wordings: int = 4,
        seed: int = 0,
        length: int = 24,
        indices: np.ndarray | None = None,
        answers: tuple[Any, Any, Any] | None = None,
    ):
        """Words the scenes."""
        _check.positive_integer("wordings", wordings)
        self.scenes, self.wordings, self.seed, self.length = scenes, wordings, seed, length
        self.answers = answers
        self._indices = np.arange(len(scenes.image) * wordings) if indices is None else np.asarray(indices)
        texts = [shapes_captions(scenes, seed * wordings + wording, length=length) for wording in range(wordings)]
        self.text = np.stack(texts, axis=1).reshape(-1, length)

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self._indices)

    def take(self, indices: np.ndarray) -> Batch:
        """Returns `inputs` (`image`, `text`), `label` (the scene), `id` and, if there are answers, `teacher`."""
        chosen = self._indices[indices]
        scene = chosen // self.wordings
        inputs = {"image": self.scenes.image[scene], "text": self.text[chosen]}
        batch: Batch = {"inputs": inputs, "label": scene.astype(np.int32), "id": chosen.astype(np.int32)}
        if self.answers is not None:
            by_scene, by_example, join = self.answers
            rows = jax.tree.map(lambda x: x[scene], by_scene), jax.tree.map(lambda x: x[chosen], by_example)
            batch["teacher"] = join(*rows)
        return batch

    def answered(self, by_scene: Any, by_example: Any, join: Any) -> "CaptionedScenes":
        """The same pairs with what a frozen network gives for them."""
        return self._again(self._indices, (by_scene, by_example, join))

    def select(self, indices: np.ndarray) -> "CaptionedScenes":
        """Returns the subset at `indices`, in their order."""
        return self._again(self._indices[indices], self.answers)

    def digest(self) -> str:
        """Returns the SHA-256 of images, captions and indices."""
        found = hashlib.sha256()
        for array in (self.scenes.image, self.text, self._indices):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def _again(self, indices: np.ndarray, answers: tuple[Any, Any, Any] | None) -> "CaptionedScenes":
        found = object.__new__(CaptionedScenes)
        found.__dict__.update({**self.__dict__, "_indices": indices, "answers": answers})
        return found
