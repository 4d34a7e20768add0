"""fit: one compilation, metrics, evaluation, checkpoints, refusals, bad runs, a graceful stop."""

import gc
import json
import os
import signal

import grain
import jax
import numpy as np
import pytest

import jkd
from jkd import data, train
from tests import worlds
from tests.compiled import compiled, losses

PLAIN = worlds.distiller()
ONE = {"placement": train.jit_placement(jax.devices()[:1]), "progress": False}


def fit(workdir=None, distiller=None, batches=None, **arguments):
    arguments = {"steps": 8, "log_every": 2, **ONE, **arguments}
    return train.fit(
        distiller or PLAIN,
        worlds.teacher_variables(),
        batches or worlds.Batches(),
        workdir=workdir,
        **arguments,
    )


def evaluators():
    examples = data.ArrayExamples(worlds.batch(10, seed=5))
    run = train.evaluator(train.classification(jkd.from_linen(worlds.Tiny())))
    return {"validation": lambda variables: run(variables, data.EvalBatches(examples, 4))}


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
    variables = jax.jit(model.init)(jax.random.key(0), examples["inputs"])
    found = train.evaluator(train.classification(model))(variables, data.EvalBatches(data.ArrayExamples(examples), 4))
    logits = np.asarray(compiled(model.apply)(variables, examples["inputs"], train=False)[0].logits)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(-1) == examples["label"]).mean()))
    expected = np.asarray(losses.cross_entropy(logits, examples["label"])).mean()
    assert found["cross_entropy"] == pytest.approx(float(expected), rel=1e-6)


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


def test_a_grain_dataset_is_data():
    batches = grain.MapDataset.range(0, 100).map(lambda step: worlds.batch(8, seed=int(step)))
    ours = fit(batches=worlds.Batches()).state.params
    theirs = fit(batches=batches).state.params
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


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


def test_a_signal_during_the_last_evaluation_is_not_lost(tmp_path):
    def measure(variables):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"accuracy": 0.5}

    with pytest.raises(train.Interrupted) as stop:
        fit(tmp_path, evaluate={"validation": measure})
    assert stop.value.step == 8
    assert (tmp_path / "checkpoints" / "steps" / "8").exists()
    assert len(fit(tmp_path, evaluate={"validation": lambda variables: {"accuracy": 0.5}}).history) == 5


def test_a_run_that_goes_on_holds_no_initial_state_beside_the_restored_one(tmp_path, monkeypatch):
    """Otherwise a state could be too large to resume that was not too large to train."""
    wide, restore, seen = worlds.distiller(student=worlds.Tiny(width=61)), train.Checkpoints.restore, []

    def watched(checkpoints, like):
        gc.collect()
        seen.append([x.shape for x in jax.live_arrays() if 61 in x.shape])
        return restore(checkpoints, like)

    monkeypatch.setattr(train.Checkpoints, "restore", watched)
    first = np.array(fit(tmp_path, wide, steps=4, checkpoint_every=2).state.params["student"]["first"]["kernel"])
    again = fit(tmp_path, wide, steps=4, checkpoint_every=2).state.params["student"]["first"]["kernel"]
    assert seen == [[]]
    np.testing.assert_array_equal(again, first)
