"""fit: one compilation, metrics, evaluation, checkpoints, refusals, bad runs, a graceful stop."""

import json
import os
import signal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import data, train
from tests import worlds

ONE = {"placement": train.jit_placement(jax.devices()[:1]), "progress": False}


def fit(workdir=None, distiller=None, batches=None, **arguments):
    arguments = {"steps": 8, "log_every": 2, **ONE, **arguments}
    return train.fit(
        distiller or worlds.distiller(),
        worlds.teacher_variables(),
        batches or worlds.Batches(),
        workdir=workdir,
        **arguments,
    )


def evaluators():
    examples = data.ArrayExamples(worlds.batch(10, seed=5))
    run = train.evaluator(train.classification(jkd.from_linen(worlds.Tiny())))
    return {"validation": lambda variables: run(variables, data.EvalBatches(examples, 4))}


def test_one_compilation_a_run(tmp_path, caplog):
    with jax.log_compiles(True):
        fit(tmp_path, eval_every=2, checkpoint_every=2, evaluate=evaluators())
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA compilation of jit(step)" in r.getMessage()]
    assert len(compiled) == 1, compiled


def test_lines_hold_exact_means_and_results(tmp_path):
    result = fit(tmp_path, evaluate=evaluators(), eval_every=4)
    assert train.read_metrics(tmp_path) == result.history
    assert [line["step"] for line in result.history] == [2, 4, 4, 6, 8, 8]
    assert {"train/loss/task", "train/loss/distill", "train/gradient_cosine", "step"} == set(result.history[0])
    singles = fit(log_every=1).history
    np.testing.assert_allclose(
        result.history[0]["train/loss/task"], np.mean([line["train/loss/task"] for line in singles[:2]]), rtol=1e-6
    )
    assert any(entry.name.startswith("events.out.tfevents") for entry in (tmp_path / "events").iterdir())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"]["seed"] == 0
    assert {"jax", "python"} <= set(manifest["versions"])


def test_evaluation_under_padding_equals_the_plain_mean():
    model, examples = jkd.from_linen(worlds.Tiny()), worlds.batch(10, seed=5)
    variables = model.init(jax.random.key(0), examples["inputs"])
    found = train.evaluator(train.classification(model))(variables, data.EvalBatches(data.ArrayExamples(examples), 4))
    logits = model.apply(variables, examples["inputs"], train=False)[0].logits
    assert found["accuracy"] == pytest.approx(float((logits.argmax(-1) == examples["label"]).mean()))
    assert found["cross_entropy"] == pytest.approx(
        float(jkd.losses.cross_entropy(logits, jnp.asarray(examples["label"])).mean()), rel=1e-6
    )


def test_the_best_checkpoint_is_that_of_the_best_score(tmp_path):
    scores = iter([0.2, 0.9, 0.9, 0.1])
    seen = []

    def measure(variables):
        seen.append(jax.tree.map(np.array, variables))
        return {"accuracy": next(scores)}

    fit(tmp_path, evaluate={"validation": measure}, eval_every=2, select="validation/accuracy")
    checkpoints = train.Checkpoints(tmp_path / "checkpoints")
    step, best = checkpoints.restore_best(seen[0])
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, best, seen[1])
    assert checkpoints.best_score() == 0.9
    checkpoints.close()


def test_checkpoints_hold_the_student_alone(tmp_path):
    teacher = worlds.teacher_variables()
    before = jax.tree.map(np.array, teacher)
    train.fit(worlds.distiller(), teacher, worlds.Batches(), steps=2, workdir=tmp_path, **ONE)
    jax.tree.map(np.testing.assert_array_equal, teacher, before)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file())
    assert b"student" in stored
    assert b"teacher" not in stored


def test_a_damaged_newest_checkpoint_falls_back(tmp_path, caplog):
    whole = fit(tmp_path, checkpoint_every=2)
    newest = tmp_path / "checkpoints" / "steps" / "8"
    for path in newest.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = fit(tmp_path, checkpoint_every=2)
    assert "steps/8 is damaged" in caplog.text
    np.testing.assert_array_equal(
        whole.state.params["student"]["head"]["kernel"], again.state.params["student"]["head"]["kernel"]
    )


def test_nothing_left_to_read_is_refused(tmp_path):
    fit(tmp_path)
    for path in (tmp_path / "checkpoints" / "steps").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(train.Damaged, match=r"none of the checkpoints in .* can be read"):
        fit(tmp_path)


def test_bad_terms_stop_the_run_and_are_named(tmp_path):
    def objective(student, teacher, batch):
        terms = worlds.objective(student, teacher, batch)
        return {**terms, "distill": terms["distill"] / jnp.asarray(batch["good"])}

    class Spoilt(worlds.Batches):
        def __getitem__(self, step):
            return {**super().__getitem__(step), "good": np.full(8, float(step < 3), np.float32)}

    with pytest.raises(train.NonFinite, match=r"terms distill were not finite for the last 3 steps, from step 4 on"):
        fit(
            tmp_path,
            worlds.distiller(objective=objective),
            Spoilt(),
            max_nonfinite=3,
            checkpoint_every=2,
        )
    assert (tmp_path / "checkpoints" / "steps" / "2").exists()
    assert train.read_metrics(tmp_path)[-1]["train/nonfinite/distill"] == 2


def test_sigterm_finishes_the_step_and_saves(tmp_path):
    class Kills(worlds.Batches):
        def __getitem__(self, step):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(step)

    with pytest.raises(train.Interrupted) as stop:
        fit(tmp_path, batches=Kills(), steps=2000, log_every=2000)
    assert stop.value.code == 143
    assert (tmp_path / "checkpoints" / "steps" / str(stop.value.step)).exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_grain_dataset_is_data():
    batches = grain.MapDataset.range(0, 100).map(lambda step: worlds.batch(8, seed=int(step)))
    ours = fit(batches=worlds.Batches()).state.params
    theirs = fit(batches=batches).state.params
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_pmap_and_jit_agree_through_fit():
    one = fit().state.params
    many = fit(placement=train.pmap_placement(jax.devices()[:4])).state.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, many)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"log_every": 0}, "log_every=0 must be at least 1"),
        ({"keep": 0}, "keep=0 must be at least 1"),
        ({"select": "validation/accuracy"}, "needs evaluators"),
        (
            {"placement": train.jit_placement(jax.devices()[:3])},
            "batch_size=8 is not divisible by the 3 devices. Use a multiple of 3, such as 9",
        ),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ValueError, match=text):
        fit(**arguments)


def test_another_configuration_and_another_network_are_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"holds a run of another configuration \(seed: 0 there, 1 now\)"):
        fit(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"is of another network or configuration: .*has shape"):
        fit(tmp_path, distiller=worlds.distiller(worlds.Tiny(width=9)))
