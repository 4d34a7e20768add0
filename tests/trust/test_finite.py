"""Promise 7: no NaN. Every loss is under test, and a step that is not finite is skipped, counted and named.

What each loss holds at logits of +-1e4, -inf masks, equal rows, zero vectors, one class, one position, everything
masked, in three types and against float64 is in `tests/losses/test_properties.py`.
"""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkd
from jkd import train
from tests import worlds


def test_no_loss_can_hide():
    """Every documented function of every file of losses is exported, and the property suite takes what is exported."""
    public = set()
    for module in pkgutil.iter_modules(jkd.losses.__path__):
        if module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"jkd.losses.{module.name}")
        public |= {
            name
            for name, value in vars(loaded).items()
            if inspect.isfunction(value) and value.__module__ == loaded.__name__ and "Returns:" in (value.__doc__ or "")
        }
    assert len(public) > 30
    assert public <= set(jkd.losses.__all__)


def objective(student, teacher, batch):
    """The usual terms; one of them is spoilt where the batch says so."""
    terms = worlds.objective(student, teacher, batch)
    return {**terms, "distill": terms["distill"] / jnp.asarray(batch["good"])}


class Spoilt(worlds.Batches):
    """Batches of which some steps make a term infinite."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def __getitem__(self, step):
        return {**super().__getitem__(step), "good": np.full(8, float(step + 1 not in self.bad), np.float32)}


DISTILLER = worlds.distiller(objective=objective)


def fit(bad, workdir=None, **arguments):
    arguments = {"steps": 8, "log_every": 2, "max_nonfinite": 3, **arguments}
    placement = train.jit_placement(jax.devices()[:1])
    return train.fit(
        DISTILLER,
        worlds.teacher_variables(),
        Spoilt(bad),
        workdir=workdir,
        placement=placement,
        progress=False,
        **arguments,
    )


def test_bad_steps_are_skipped_counted_and_named_and_the_run_goes_on():
    result = fit({3, 4, 7})
    lines = [{k: v for k, v in line.items() if "nonfinite" in k or k == "step"} for line in result.history]
    name = "train/nonfinite/distill"
    assert lines == [{"step": 2}, {"step": 4, name: 2}, {"step": 6}, {"step": 8, name: 1}]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
    assert "train/loss/task" not in result.history[1]  # a mean over no step


def test_a_skipped_step_leaves_all_as_it_was(tmp_path):
    """A run whose last steps are bad ends where it was before them."""
    before = fit(set(), steps=4).state
    after = fit({5, 6}, steps=6).state
    for part in ("params", "collections", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, part), getattr(after, part))
    assert int(after.step) == 6


def test_too_many_in_a_row_stop_the_run_and_the_last_good_checkpoint_stays(tmp_path):
    good = fit(set(), steps=3).state.params
    with pytest.raises(train.NonFinite, match=r"terms distill were not finite for the last 3 steps, from step 4 on"):
        fit(set(range(4, 9)), tmp_path, checkpoint_every=2)
    assert train.read_metrics(tmp_path)[-1]["train/nonfinite/distill"] == 2
    checkpoints = train.Checkpoints(tmp_path / "checkpoints")
    state = jax.eval_shape(DISTILLER.init, jax.random.key(0), Spoilt(())[0])
    like = train.steps.initial_carry(DISTILLER, state, worlds.teacher_variables(), Spoilt(())[0])
    step, carry = checkpoints.restore(like)
    checkpoints.close()
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, carry.state.params, good)
