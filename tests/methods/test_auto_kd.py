"""Auto-KD: candidates as losses, adapters, layers and teachers, sparse and offline proxy trainings, the search."""

import functools
import json
import math

import jax
import numpy as np
import pytest

import jkd
from experiments import auto_kd as experiment
from experiments.common import search_plots
from jkd import data, methods, metrics, optim, peers, proxy_training, search
from jkd.methods import auto_kd
from jkd.model import Outputs
from tests.compiled import compiled, losses

TAPS = methods.classic.TAPS
NARROW = jkd.from_linen(jkd.nets.create("convnet1d", 3, width=2), taps=TAPS)
WIDE = jkd.from_linen(jkd.nets.create("convnet1d", 3, width=4), taps=TAPS)
LABEL = np.array([0, 1, 2, 0], np.int32)
PROXY = proxy_training.Proxy(share=0.5, steps=3, batch_size=8)


def signals(rows=24, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % 3
    inputs = rng.normal(size=(rows, 8, 1)) + label[:, None, None]
    return data.ArrayExamples({"inputs": inputs.astype(np.float32), "label": label})


@functools.cache
def wide_variables():
    return jax.jit(WIDE.init)(jax.random.key(7), np.ones((1, 8, 1), np.float32))


ASKED = []


def asked(variables, inputs, *, train, key=None):
    """The teacher, which notes that it was asked."""
    ASKED.append(inputs.shape)
    return WIDE.apply(variables, inputs, train=train, key=key)


@functools.cache
def evaluate():
    teacher = {"teacher": WIDE._replace(apply=asked), "teacher_variables": wide_variables()}
    return auto_kd.proxy_reward(student=NARROW, **teacher, train=signals(), held_out=signals(seed=1), proxy=PROXY)


@functools.cache
def trained():
    """A distiller that trains half of the weights, and its states before and after the steps of a proxy training."""
    learning = {"learning_rate": PROXY.learning_rate, "learning_share": PROXY.learning_share}
    distiller = methods.create("auto_kd", student=NARROW, teacher=WIDE, **learning)
    chosen = data.seeded.stratified_choice(signals().labels(), 12, seed=(0, 5))
    batches = data.TrainBatches(signals().select(chosen), PROXY.batch_size, seed=4)
    before, step = jax.jit(distiller.init)(jax.random.key(4), batches[0]), jax.jit(distiller.step)
    state = before
    for index in range(PROXY.steps):
        state, _ = step(state, wide_variables(), batches[index])
    return distiller, before, state


def outputs(width, seed, rows=4):
    rng = np.random.default_rng(seed)
    maps = {f"stage{i}": rng.normal(size=(rows, 4, 2, width)).astype(np.float32) for i in (1, 2)}
    logits, pooled = (rng.normal(size=(rows, n)).astype(np.float32) for n in (3, width))
    return Outputs(logits, {**maps, "pooled": pooled})


def terms(candidate, student, teacher, *, variables=None, **fields):
    """The terms of a candidate's objective, and its variables."""
    module = auto_kd.Searched(auto_kd.Candidate(*candidate), **fields)
    batch, keys = {"label": LABEL}, {"params": jax.random.key(1), "dropout": jax.random.key(2)}

    @jax.jit
    def run(variables, student, teacher):
        variables = module.init(keys, student, teacher, batch) if variables is None else variables
        found, changed = module.apply(variables, student, teacher, batch, rngs=keys, mutable=["first"])
        return found, {**variables, **changed}

    return jax.device_get(run(variables, student, teacher))


def test_a_candidate_is_its_transforms_distance_weight_and_temperature():
    student, teacher = outputs(3, 0), outputs(3, 1)
    found, variables = terms(("logits", "identity", "affine", "softmax_channel", "kl", 5.0, 4.0), student, teacher)
    assert "params" not in variables  # one width: nothing to adapt
    halves = [(x.logits / 4 + 1) / 2 for x in (student, teacher)]
    distance = losses.transformed_distance(*halves, transforms=("softmax_channel",), distance="kl")
    np.testing.assert_allclose(found["distill"], 5 * np.asarray(distance), rtol=1e-5)
    np.testing.assert_allclose(found["task"], losses.cross_entropy(student.logits, LABEL), rtol=1e-6)
    found, _ = terms(("map", "identity", "identity", "gram_channel", "l2", 0.5, 1.0), student, teacher)
    last = student.features["stage2"], teacher.features["stage2"]
    distance = losses.transformed_distance(*last, transforms=("gram_channel",))
    np.testing.assert_allclose(found["distill"], 0.5 * np.asarray(distance), rtol=1e-5)


def test_widths_that_differ_are_adapted_by_a_pointwise_map_that_learns_and_stays_behind():
    student, teacher = outputs(2, 0), outputs(5, 1)
    _, variables = terms(("map", "identity", "identity", "identity", "l2", 1.0, 1.0), student, teacher)
    assert jax.tree.map(np.shape, variables["params"]) == {"adapter0": {"kernel": (2, 5), "bias": (5,)}}
    distiller, *states = trained()
    kernels = [state.params["objective"]["adapter0"]["kernel"] for state in states]
    assert not np.array_equal(*kernels)
    assert "adapter0" not in str(jax.tree.map(np.shape, distiller.student(states[1])))


def test_layers_and_teachers_are_weighed_by_their_gap_at_initialisation():
    student, first, second = outputs(3, 0), outputs(3, 1), outputs(3, 2)
    candidate = ("map", "identity", "identity", "l2_channel", "l2", 2.0, 1.0)
    weights = (0.1, 0.2, 0.3, 0.4)
    found, _ = terms(candidate, student, Outputs({"a": first, "b": second}), layer_weights=weights)
    pairs = [(stage, teacher) for teacher in (first, second) for stage in ("stage1", "stage2")]
    distances = [
        losses.transformed_distance(student.features[stage], teacher.features[stage], transforms=("l2_channel",))
        for stage, teacher in pairs
    ]
    np.testing.assert_allclose(found["distill"], 2 * np.dot(weights, distances), rtol=1e-5)
    with pytest.raises(ValueError, match="layer_weights has 3 entries, but 'map' of 1 teacher"):
        terms(candidate, student, first, layer_weights=(1.0, 1.0, 1.0))
    both = peers.together({"same": NARROW, "other": WIDE})
    own = jax.jit(NARROW.init)(jax.random.key(3), np.ones((1, 8, 1), np.float32))
    merged = {name: {"same": own[name], "other": wide_variables()[name]} for name in own}
    found = auto_kd.layer_weights(NARROW, own, both, merged, signals().arrays["inputs"], 6)
    assert sum(found) == pytest.approx(1)
    assert len(set(np.round(found[:3], 6))) == 1  # the same network has no gap anywhere
    assert max(found[3:]) < found[0]


def test_a_normalized_distance_is_one_in_the_first_step():
    student, teacher, later = outputs(3, 0), outputs(3, 1), outputs(3, 2)
    candidate = ("embedding", "identity", "identity", "identity", "l1", 7.0, 1.0)
    found, variables = terms(candidate, student, teacher, normalize=True)
    assert float(found["distill"]) == pytest.approx(7.0)
    found, again = terms(candidate, later, teacher, normalize=True, variables=variables)
    assert float(found["distill"]) != pytest.approx(7.0)
    assert again["first"] == variables["first"]


def test_only_a_fixed_part_of_the_matrices_learns():
    ones = functools.partial(np.ones, dtype=np.float32)
    params = {"layer": {"kernel": ones((30, 30)), "bias": ones(30)}, "other": ones((4, 4))}
    chain = optim.sparse_updates(jax.random.key(0), share=0.5)
    init, update = jax.jit(chain.init), jax.jit(chain.update)
    updates, state = jax.device_get(update(params, init(params)))
    again, _ = update(params, state)
    jax.tree.map(np.testing.assert_array_equal, updates, again)
    assert updates["layer"]["kernel"].sum() == 450
    assert updates["layer"]["bias"].mean() == 1
    part = {"layer": params["layer"]}
    alone, _ = update(part, init(part))
    np.testing.assert_array_equal(alone["layer"]["kernel"], updates["layer"]["kernel"])
    for share, text in ((1.5, "share=1.5 must lie in"), (-0.1, "share=-0.1")):
        with pytest.raises(ValueError, match=text):
            optim.sparse_updates(jax.random.key(0), share=share)
    kernels = [np.asarray(state.params["student"]["conv3"]["kernel"]) for state in trained()[1:]]
    assert np.mean(kernels[0] == kernels[1]) == 0.5


def test_rewards_are_functions_of_candidate_and_seed_and_the_teacher_is_asked_once():
    reward, before = evaluate(), len(ASKED)
    logits = ("logits", "identity", "identity", "softmax_channel", "kl", 1.0, 4.0)
    first, second = reward(logits, 0), reward(logits, 1)
    assert math.isfinite(first) and first != second
    assert first == reward(logits, 0)
    assert len(ASKED) == before > 0


def test_a_proxy_training_is_that_of_the_distiller():
    distiller, _, state = trained()
    held_out = signals(seed=1).arrays
    ours, _ = jax.jit(lambda v, x: NARROW.apply(v, x, train=False))(distiller.student(state), held_out["inputs"])
    theirs, _ = jax.jit(lambda v, x: WIDE.apply(v, x, train=False))(wide_variables(), held_out["inputs"])
    alike = float(compiled(metrics.linear_cka)(ours.features["pooled"], theirs.features["pooled"]))
    loss = np.asarray(losses.cross_entropy(ours.logits, held_out["label"])).mean()
    expected = -min(loss, math.log(3)) - (1 - alike)
    assert evaluate()(auto_kd.Candidate(), 4) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    "candidate",
    [
        ("map", "identity", "identity", "l2_channel", "kl", 1.0, 1.0),
        ("embedding", "identity", "identity", "flatten", "l2", 1.0, 1.0),
        ("map", "identity", "identity", "gram_batch", "l2", 1e38, 1.0),
    ],
    ids=["no probabilities", "no such transform", "infinite"],
)
def test_invalid_candidates_get_no_reward(candidate):
    assert math.isnan(evaluate()(candidate, 0))


def test_every_path_through_the_levels_is_a_candidate_that_can_be_traced_or_is_refused_in_words():
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    sides, refused = (outputs(2, 0), outputs(5, 1), {"label": LABEL}), []
    for seed in range(40):
        candidate = search.roll_out(auto_kd.LEVELS, (), np.random.default_rng(seed))
        module = auto_kd.Searched(auto_kd.checked(candidate))
        try:
            found = jax.eval_shape(lambda *x, module=module: module.init_with_output(keys, *x)[0], *sides)
            assert (found["task"].shape, found["distill"].shape) == ((4,), ())
        except ValueError as error:
            assert candidate[4] == "kl" and "compares probabilities" in str(error)
            refused.append(candidate)
    assert 0 < len(refused) < 12


def known(candidate, seed):
    """A reward that needs no training, so that many searches are cheap; divergences are invalid."""
    if candidate[4] == "kl":
        return math.nan
    return (candidate[0] == "logits") + 0.1 * auto_kd.Candidate(*candidate).weight - (candidate[4] == "l1")


def test_a_search_finds_a_candidate_and_goes_on_where_it_was_broken_off(tmp_path):
    best, whole = auto_kd.search(known, budget=30, key=jax.random.key(0), path=tmp_path / "search.json")
    assert best.knowledge == "logits" and best.weight == 50.0 and best.distance != "l1"
    kept = json.loads((tmp_path / "search.json").read_text())
    kept["log"] = kept["log"][:17]
    kept["confirmed"] = []
    (tmp_path / "search.json").write_text(json.dumps(kept))
    assert auto_kd.search(known, budget=30, key=jax.random.key(0), path=tmp_path / "search.json") == (best, whole)


def test_a_search_over_real_proxy_trainings():
    best, found = auto_kd.search(evaluate(), budget=2, key=jax.random.key(1))
    assert best in [auto_kd.Candidate(*one.candidate) for one in found.log]
    assert found.tree.nodes[()].visits == 2


def test_what_is_reported_of_a_search(tmp_path):
    _, tree = auto_kd.search(known, budget=30, key=jax.random.key(0))
    chance = search.random_search(auto_kd.LEVELS, known, budget=30, key=jax.random.key(0))
    half = [one.reward for one in chance.log[15:]]
    valid = [reward for reward in half if reward is not None]
    late = experiment.late_rewards(chance.log)
    assert late["mean"] == pytest.approx(np.mean(valid)) and late["sd"] == pytest.approx(np.std(valid, ddof=1))
    assert late["n"] == len(valid) and late["invalid"] == 15 - len(valid) > 0
    assert experiment.late_rewards(tree.log)["mean"] > late["mean"]
    search_plots.plot_tree(tmp_path / "tree.png", tree)
    search_plots.plot_rewards(tmp_path / "rewards.png", {"random": chance.log, "MCTS": tree.log})
    for name in ("tree", "rewards"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_experiment_runs_without_optuna(monkeypatch, capsys):
    assert experiment.available() == ("random", "MCTS", "TPE")
    monkeypatch.setattr(experiment.importlib.util, "find_spec", lambda name: None)
    assert experiment.available() == ("random", "MCTS")
    assert 'TPE is left out; for it: pip install "jkd[search]"' in capsys.readouterr().err


def test_bad_candidates_are_refused_in_words():
    arguments = {"student": NARROW, "teacher": WIDE, "learning_rate": 0.1}
    good = auto_kd.Candidate()
    for changed, text in (
        (good._replace(intra="attention"), "candidate='attention' is not a known transform"),
        (good._replace(distance="l3"), "candidate='l3' is not a known distance"),
        (good._replace(weight=0.0), r"candidate\.weight=0\.0 must be finite and greater than 0"),
    ):
        with pytest.raises(ValueError, match=text):
            auto_kd.auto_kd(**arguments, candidate=changed)
    flat = jkd.from_linen(jkd.nets.create("mlp", 3, width=2), taps=TAPS)
    sides = {"student": flat, "teacher": WIDE, "teacher_variables": wide_variables(), "proxy": PROXY}
    with pytest.raises(ValueError, match=r"features has no map 'stage1'.*hidden1"):
        auto_kd.proxy_reward(**sides, train=signals(), held_out=signals(seed=1))
    with pytest.raises(ValueError, match="kind='maps' is not a known knowledge"):
        auto_kd.knowledge(outputs(2, 0), outputs(2, 0), "maps")
