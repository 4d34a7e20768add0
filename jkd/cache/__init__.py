"""A teacher's outputs on disk: asked once, read by any number of trainings.

`write` asks the teacher for every example under every augmentation seed and puts its answers (all logits in half
precision, or the likeliest classes with index, log-probability and the mass of the rest; features if asked) into
ArrayRecord shards; `open` gives what `jkd.train.fit` takes as its `teacher`, with no change of the objective:

    jkd.cache.write(path, teacher, variables, splits.train, transform=splits.transform, seeds=range(8))
    jkd.train.fit(distiller, jkd.cache.open(path, teacher=variables), batches, steps=10_000)

An answer belongs to (example id, augmentation seed, teacher, preprocessing); of the last two the cache keeps digests
and refuses others. Live training on the same views is `jkd.cache.Views(batches, seeds)`.
"""

from jkd.cache.fingerprint import digest, fingerprint
from jkd.cache.layout import CacheMismatch, DamagedCache
from jkd.cache.reading import TeacherCache, Views, open_cache
from jkd.cache.top import TopK, compressed, top_k
from jkd.cache.writing import write

open = open_cache

__all__ = [
    "CacheMismatch",
    "DamagedCache",
    "TeacherCache",
    "TopK",
    "Views",
    "compressed",
    "digest",
    "fingerprint",
    "open",
    "top_k",
    "write",
]
