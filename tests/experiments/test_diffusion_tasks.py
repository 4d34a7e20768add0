"""What samples of small diffusion models are judged by, and what the experiment on them refuses."""

import jax
import numpy as np
import pytest

from experiments.common import diffusion_tasks
from jkd.data.small_diffusion import mixture
from tests.experiments.commands import run

RING = mixture("ring")


@pytest.fixture(scope="module")
def task():
    return diffusion_tasks.ring_task(400)


def test_samples_are_judged_by_the_component_they_are_nearest_to(task):
    asked = np.arange(400) % 4
    own = task.judge(RING.means[asked], asked)
    assert own == {"accuracy": 1, "modes": 0, "uniform": pytest.approx(np.log(2)), "inside": 1}
    one = task.judge(np.repeat(RING.means[:1], 400, 0), asked)
    assert one == {"accuracy": 0.25, "modes": 0, "uniform": pytest.approx(np.log(8)), "inside": 1}
    assert task.judge(np.zeros((400, 2)), asked)["inside"] == 0
    assert task.judge(RING.means[np.arange(400) % 8], asked)["uniform"] == pytest.approx(0)


def test_the_exact_denoiser_draws_what_is_as_near_as_other_real_points(task):
    model, variables = task.exact
    sampler = diffusion_tasks.heun(diffusion_tasks.plain(model), task.top)
    drawn = diffusion_tasks.draw(task, sampler, variables)
    found = diffusion_tasks.figures(task, drawn)
    again = diffusion_tasks.figures(task, diffusion_tasks.Drawn(*task.again, 0, 0.0))
    assert (found["calls"], found["accuracy"]) == (35, 1)
    assert found["swd"] < 2 * again["swd"] and abs(found["mmd"]) < 0.01
    collapsed = drawn._replace(samples=np.asarray(RING.means)[drawn.conditions])
    worse = diffusion_tasks.figures(task, collapsed)
    assert worse["swd"] > 5 * again["swd"] and worse["mmd"] > 0.05 and worse["spread"] < 1e-5


def test_guidance_asks_with_and_without_the_condition(task):
    model, variables = task.exact
    noisy = jax.random.normal(jax.random.key(0), (8, 2))
    condition, none = np.arange(8, dtype=np.int32) % 4, np.full(8, 4, np.int32)
    asked = diffusion_tasks.Noisy(noisy, np.ones(8, np.float32), condition)
    say = diffusion_tasks.plain(model)
    given, free = say(variables, asked), say(variables, asked._replace(condition=none))
    found = diffusion_tasks.guided(model, 4, scale=2.0)(variables, asked)
    np.testing.assert_allclose(found, 2 * given - free, rtol=1e-5, atol=1e-6)
    assert np.abs(given - free).max() > 0.1


def test_bad_input_ends_with_a_line(tmp_path):
    done = run("experiments.swiftbrush", "--tasks=rnig", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "--tasks='rnig' is not a known task. Did you mean 'ring'?" in " ".join(done.stderr.split())
