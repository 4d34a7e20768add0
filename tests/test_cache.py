"""A teacher's outputs on disk: training from them is training with the teacher; nothing else fits them."""

import functools
import multiprocessing
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn
from scipy import special

import jkd
from jkd.cache import layout
from tests import worlds
from tests.compiled import compiled, losses

SEEDS = (3, 8)
ROWS = 20


def noisy(batch, keys=None):
    """An augmentation: noise of each row's own key."""
    noise = jax.vmap(lambda key: jax.random.normal(key, batch["inputs"].shape[1:]))(keys)
    return {**batch, "inputs": batch["inputs"] + 0.1 * noise}


def noisier(batch, keys=None):
    noise = jax.vmap(lambda key: jax.random.normal(key, batch["inputs"].shape[1:]))(keys)
    return {**batch, "inputs": batch["inputs"] + 0.2 * noise}


def examples(count=ROWS):
    """Examples whose ids are neither consecutive nor in order."""
    batch = worlds.batch(count)
    return jkd.data.ArrayExamples({**batch, "id": 7 * np.arange(count)[::-1] % 101})


def write(path, variables=None, **changes):
    options = {"transform": noisy, "seeds": SEEDS, "batch_size": 8, "shard_size": 6, "label_names": ("a", "b", "c")}
    variables = worlds.teacher_variables() if variables is None else variables
    return jkd.cache.write(path, worlds.TEACHER, variables, examples(), **{**options, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "full"
    assert write(path) == len(SEEDS) * ROWS
    return path


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


@jax.jit
def ask(variables, batch):
    """What the teacher says of views, asked now."""
    seen = noisy(batch, jkd.views.view_keys(batch["id"], batch["augmentation"]))
    return worlds.TEACHER.apply(variables, seen["inputs"], train=False)[0]


def test_only_a_teacher_can_be_evaluated(finished):
    with pytest.raises(ValueError, match="teacher_evaluate needs the teacher itself"):
        jkd.train.fit(
            worlds.distiller(transform=noisy),
            jkd.cache.open(finished),
            jkd.data.TrainBatches(examples(), 8, seed=0),
            steps=1,
            teacher_evaluate={"test": dict},
        )


def test_it_says_what_the_teacher_says(finished):
    cache = jkd.cache.open(finished)
    batch = jkd.cache.Views(jkd.data.TrainBatches(examples(), 12, seed=1), SEEDS)[5]
    assert set(batch["augmentation"].tolist()) == set(SEEDS)
    found = cache.lookup(batch["id"], batch["augmentation"], batch["label"])
    live = ask(worlds.teacher_variables(), batch)
    assert found.logits.dtype == np.float16
    np.testing.assert_array_equal(found.logits, np.asarray(live.logits).astype(np.float16))


def last_state(result):
    return jax.tree.leaves(jax.device_get(result.state.params))


def test_training_from_it_is_training_with_the_teacher(tmp_path):
    """In float32, of one program, on the same views: the same to rounding; with other views it is not."""
    write(tmp_path, dtype="float32")
    data = jkd.data.TrainBatches(examples(), 8, seed=0)
    distiller = worlds.distiller(transform=noisy)
    fit = functools.partial(jkd.train.fit, distiller, steps=5, progress=False, log_every=5)
    cached = fit(teacher=jkd.cache.open(tmp_path, teacher=worlds.teacher_variables()), data=data)
    live = fit(teacher=worlds.teacher_variables(), data=jkd.cache.Views(data, SEEDS))
    for a, b in zip(last_state(cached), last_state(live), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert cached.history[-1]["train/loss/distill"] == pytest.approx(live.history[-1]["train/loss/distill"], rel=1e-5)
    other = fit(teacher=worlds.teacher_variables(), data=data)
    assert max(np.abs(a - b).max() for a, b in zip(last_state(cached), last_state(other), strict=True)) > 1e-4


def sparse_objective(student, teacher, batch):
    return {
        "task": jkd.losses.cross_entropy(student.logits, batch["label"]),
        "distill": jkd.losses.sparse_forward_kl(student.logits, *teacher.logits, tail="bucket"),
    }


def test_training_from_the_likeliest_classes(tmp_path):
    """A live teacher that is compressed and a cache of its likeliest classes are one; no teacher need be at hand."""
    write(tmp_path, k=2, dtype="float32")
    data = jkd.data.TrainBatches(examples(), 8, seed=0)
    options = {
        "student": jkd.from_linen(worlds.Tiny()),
        "objective": sparse_objective,
        "optimizer": jkd.optim.dot(0.05),
        "transform": noisy,
    }
    fit = functools.partial(jkd.train.fit, steps=3, progress=False)
    cached = fit(jkd.distill(**options), jkd.cache.open(tmp_path), data)
    teacher = jkd.cache.compressed(worlds.TEACHER, k=2)
    live = fit(jkd.distill(teacher=teacher, **options), worlds.teacher_variables(), jkd.cache.Views(data, SEEDS))
    for a, b in zip(last_state(cached), last_state(live), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_the_mass_of_the_rest(tmp_path):
    """Log-probabilities are rounded, the mass that is not listed is not."""
    write(tmp_path, k=2, temperature=0.05)
    batch = jkd.cache.Views(jkd.data.TrainBatches(examples(), ROWS, seed=1), SEEDS)[0]
    found = jkd.cache.open(tmp_path).lookup(batch["id"], batch["augmentation"]).logits
    logits = np.asarray(ask(worlds.teacher_variables(), batch).logits)
    exact = np.sort(special.softmax(logits.astype(np.float64) / 0.05, axis=-1), axis=-1)
    np.testing.assert_array_equal(found.ids, np.argsort(-logits, axis=-1)[:, :2])
    np.testing.assert_allclose(found.log_probs, np.log(exact[:, :0:-1]), rtol=2e-3, atol=2e-3)
    rest = 1 - np.exp(np.asarray(found.log_probs, np.float64)).sum(-1)
    np.testing.assert_allclose(rest, exact[:, 0], atol=3e-7)
    assert rest.max() > 1e-3


def test_a_language_model_by_its_likeliest_tokens(tmp_path):
    """Logits for every position: what was stored gives the loss of the live teacher over its top tokens."""
    rng = np.random.default_rng(0)
    inputs, tokens = rng.normal(size=(5, 4, 6)).astype(np.float32), rng.integers(11, size=(5, 4))
    texts = jkd.data.ArrayExamples({"inputs": inputs, "label": tokens})
    model = jkd.from_linen(nn.Dense(11))
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    jkd.cache.write(tmp_path, model, variables, texts, k=3, temperature=2.0, dtype="float32")
    rows = np.array([4, 1])
    found = jkd.cache.open(tmp_path).lookup(rows, np.zeros(2), tokens[rows]).logits
    student = rng.normal(size=(2, 4, 11)).astype(np.float32)
    options = {"tail": "bucket", "temperature": 2.0}
    stored = losses.sparse_forward_kl(student, *found, teacher_temperature=2.0, **options)
    teacher = compiled(model.apply)(variables, inputs[rows], train=False)[0].logits
    live = losses.topk_divergence(student, teacher, k=3, beta=0.0, support="teacher", **options)
    np.testing.assert_allclose(stored, live, rtol=1e-5, atol=1e-6)
    with pytest.raises(jkd.cache.CacheMismatch, match=r"labels of shape \[4\] there, \[3\] here"):
        jkd.cache.open(tmp_path).lookup(rows, np.zeros(2), tokens[rows, :3])


def test_features_are_kept(tmp_path):
    model = jkd.from_linen(worlds.Tiny(width=16), taps=("first",))
    written = jkd.cache.write(tmp_path, model, worlds.teacher_variables(), examples(), features=("first",))
    assert written == ROWS
    batch = {**examples().take(np.arange(4)), "augmentation": np.zeros(4, np.int32)}
    found = jkd.cache.open(tmp_path).lookup(batch["id"], batch["augmentation"])
    live = compiled(model.apply)(worlds.teacher_variables(), batch["inputs"], train=False)[0]
    np.testing.assert_array_equal(found.features["first"], np.asarray(live.features["first"]).astype(np.float16))
    with pytest.raises(ValueError, match=r"features=\['second'\] are not tapped; the teacher gives \['first'\]"):
        jkd.cache.write(tmp_path / "other", model, worlds.teacher_variables(), examples(), features=("second",))


OTHERS = {
    "teacher": (lambda: {"teacher": worlds.teacher_variables(seed=8)}, "teacher: the cache has"),
    "preprocessing": (lambda: {"transform": noisier}, "preprocessing: the cache has"),
    "label order": (lambda: {"label_names": ("b", "a", "c")}, r"label order: the cache has \('a', 'b', 'c'\)"),
    "seeds": (lambda: {"seeds": (3, 4)}, r"augmentation seeds: the cache has \[3, 8\], this run needs \[4\]"),
}


@pytest.mark.parametrize("part", OTHERS)
def test_what_differs_is_refused_by_name(finished, part):
    change, message = OTHERS[part]
    with pytest.raises(jkd.cache.CacheMismatch, match=message) as raised:
        jkd.cache.open(finished, **change())
    assert "\n" not in str(raised.value)
    fitting = {"teacher": worlds.teacher_variables(), "transform": noisy, "label_names": ("a", "b", "c"), "seeds": [8]}
    jkd.cache.open(finished, **fitting)


def refused_fit(finished, workdir, message, *, transform=noisy, data=None):
    distiller = worlds.distiller(transform=transform)
    with pytest.raises(jkd.cache.CacheMismatch, match=message):
        jkd.train.fit(
            distiller, jkd.cache.open(finished), data or jkd.data.TrainBatches(examples(), 8, seed=0), steps=1,
            workdir=workdir,
        )  # fmt: skip
    assert not workdir.exists()


def test_fit_refuses_to_start(finished, tmp_path):
    workdir = tmp_path / "run"
    arrays = examples().arrays
    swapped = jkd.data.ArrayExamples({**arrays, "label": (arrays["label"] + 1) % 3})
    renamed = jkd.data.ArrayExamples({**arrays, "id": arrays["id"] + 1000})
    refused_fit(finished, workdir, "preprocessing: the cache has", transform=noisier)
    refused_fit(finished, workdir, "preprocessing: the cache has", transform=None)
    refused_fit(finished, workdir, "label order or data set", data=jkd.data.TrainBatches(swapped, 8, seed=0))
    refused_fit(finished, workdir, "data set: example 1", data=jkd.data.TrainBatches(renamed, 8, seed=0))
    other_seed = [{**examples().take(np.arange(8)), "augmentation": np.full(8, 5, np.int32)}]
    refused_fit(finished, workdir, r"augmentation seeds: the cache has \[3, 8\], this run asks for 5", data=other_seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"variables": worlds.teacher_variables(seed=8)}, "teacher: the cache has"),
        (lambda: {"seeds": (1,)}, r"augmentation seeds: the cache has \(3, 8\), this run \(1,\)"),
        (lambda: {"dtype": "float32"}, "stored arrays: the cache has"),
    ],
    ids=["teacher", "seeds", "dtype"],
)
def test_a_cache_is_not_mixed(copied, change, message):
    with pytest.raises(jkd.cache.CacheMismatch, match=message):
        write(copied, **change())


def shards(path):
    return sorted(path.glob("*.arrayrecord"))


def test_writing_goes_on_where_it_stopped(copied):
    lost = [shards(copied)[1], shards(copied)[-1]]
    before = {path: path.stat().st_mtime_ns for path in shards(copied)}
    for path in lost:
        path.unlink()
    with pytest.raises(jkd.cache.DamagedCache, match=rf"lacks 2 of 8 shards, the first {lost[0].name}.*write again"):
        jkd.cache.open(copied)
    assert write(copied) == 6 + 2
    jkd.cache.open(copied)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path not in lost)
    assert not list(copied.glob(".*"))


def test_a_write_that_fails_leaves_no_shard(tmp_path):
    """NaN in the fifth example: the header and nothing else."""
    variables = jax.device_get(worlds.teacher_variables())
    bad = jax.tree.map(np.copy, variables)
    for x in jax.tree.leaves(bad):
        x[..., 0] = np.nan
    with pytest.raises(ValueError, match=r"the teacher's logits for example \d+ is NaN.*; it is nan"):
        write(tmp_path, bad)
    with pytest.raises(ValueError, match=r"too large for float16; it is -?\d.*dtype='float32'"):
        write(tmp_path / "large", jax.tree.map(lambda x: np.float32(1e4) * x, variables))
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["header.json"]


def test_a_changed_record_is_found(copied):
    """The seal begins with the header's: a byte that differs, or a record of another teacher, does not fit."""
    header = layout.read_header(copied)
    values = {f.name: np.ones((1, *f.shape), f.dtype) for f in header.fields}
    (record,) = layout.encode_records(header, np.array([7]), 3, values)

    def decode(raw, example=7, header=header):
        return layout.decode_records(header, [raw], np.array([example]), np.array([3]), ["here"])

    np.testing.assert_array_equal(decode(record)["logits"], np.ones((1, 3), np.float16))
    changes = [bytes(b ^ (i == place) for i, b in enumerate(record)) for place in (0, 20, len(record) - 1)]
    for changed in (*changes, b"", record[:-1]):
        with pytest.raises(jkd.cache.DamagedCache, match="here does not fit its checksum"):
            decode(changed)
    with pytest.raises(jkd.cache.DamagedCache, match=r"here holds .*\(7, 3\) where \(8, 3\) should be"):
        decode(record, example=8)
    with pytest.raises(jkd.cache.DamagedCache, match="checksum"):
        decode(record, header=layout.Header(**{**vars(header), "teacher": "0" * 64}))


def test_damaged_shards_are_named(copied):
    ids = np.asarray(examples().take(np.arange(ROWS))["id"])
    first = shards(copied)[0]
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    with pytest.raises(jkd.cache.DamagedCache, match=rf"{first.name}.*Delete that shard"):
        jkd.cache.open(copied).lookup(ids[:3], np.full(3, SEEDS[0]))
    second = shards(copied)[1]
    shutil.copy(shards(copied)[2], second)
    with pytest.raises(jkd.cache.DamagedCache, match=rf"record 0 of .*{second.name}.*should be"):
        jkd.cache.open(copied).lookup(ids[6:7], np.full(1, SEEDS[0]))
    next(copied.glob("*.ids.npy")).write_bytes(b"no array")
    with pytest.raises(jkd.cache.DamagedCache, match=r"ids\.npy cannot be read"):
        jkd.cache.open(copied)
    (copied / "header.json").write_text("{")
    with pytest.raises(jkd.cache.DamagedCache, match=r"header\.json is not JSON"):
        jkd.cache.open(copied)
    with pytest.raises(FileNotFoundError, match=r"holds no teacher cache.*jkd\.cache\.write"):
        jkd.cache.open(copied / "nowhere")


def write_part(path, index):
    """What one of two processes does."""
    write(path, shard=(index, 2))


def test_two_processes_write_one_cache(finished, tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_part, args=(tmp_path, index)) for index in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    together, alone = jkd.cache.open(tmp_path), jkd.cache.open(finished)
    ids = np.asarray(examples().take(np.arange(ROWS))["id"])
    for seed in SEEDS:
        found, expected = (cache.lookup(ids, np.full(ROWS, seed)).logits for cache in (together, alone))
        np.testing.assert_array_equal(found, expected)


def test_ids_must_differ(tmp_path):
    batch = worlds.batch(4)
    twins = jkd.data.ArrayExamples({**batch, "id": np.array([1, 2, 2, 3])})
    jkd.cache.write(tmp_path, worlds.TEACHER, worlds.teacher_variables(), twins)
    with pytest.raises(jkd.cache.DamagedCache, match="3 different ids for 4 examples"):
        jkd.cache.open(tmp_path)


def test_views_are_spread_and_stay():
    """Every seed comes about equally often; what a batch has chosen itself stays; rows need to be known."""
    data = jkd.data.TrainBatches(examples(), ROWS, seed=0)
    views = jkd.cache.Views(data, range(4))
    counts = np.bincount(np.concatenate([views[step]["augmentation"] for step in range(100)]), minlength=4)
    assert counts.min() > 0.8 * counts.mean()
    chosen = {**data[0], "augmentation": np.full(ROWS, 9, np.int32)}
    np.testing.assert_array_equal(jkd.cache.Views([chosen], SEEDS)[0]["augmentation"], 9)
    with pytest.raises(ValueError, match="no 'id'"):
        jkd.cache.Views([{"inputs": np.zeros(2)}], SEEDS)[0]


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_are_checked(tmp_path, seeds):
    with pytest.raises(ValueError, match=r"seeds=.*different integers"):
        write(tmp_path, seeds=seeds)


def scaled(by):
    return lambda batch, keys: {**batch, "inputs": by * batch["inputs"]}


def test_fingerprints():
    """Of code, constants, closures, arguments and attributes; not of where they lie."""
    assert jkd.cache.fingerprint(scaled(2.0)) == jkd.cache.fingerprint(scaled(2.0))
    normal = functools.partial(jkd.data.augment.image_transform, (0.5,), (0.2,))
    different = [
        scaled(2.0), scaled(3.0), noisy, noisier, None, functools.partial(noisy, keys=1), normal(), normal(padding=2),
        scaled(np.ones(2)), scaled(np.zeros(2)),
    ]  # fmt: skip
    assert len({jkd.cache.fingerprint(function) for function in different}) == len(different)
