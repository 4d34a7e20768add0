"""Promise 10: every flag's range and every contradiction of two flags is refused in words that say what to do."""

import json

import pytest

import experiments
from experiments.common import broken_runs
from tests.experiments.commands import run
from tests.trust import flag_cases

MODULES = sorted(
    f"experiments.{path.stem}" for path in __import__("pathlib").Path(experiments.__path__[0]).glob("[!_]*.py")
)
CONTRADICTIONS = {
    ("--accumulate=7",): "--accumulate=7 does not divide --batch_size=64; make it a divisor.",
    ("--student=resnet8", "--student_width=3"): (
        "--student_width=3 does not apply to --student=resnet8, whose widths are fixed; leave it."
    ),
    ("--teacher=resnet8", "--teacher_width=3"): (
        "--teacher_width=3 does not apply to --teacher=resnet8, whose widths are fixed; leave it."
    ),
    ("--delta=0.2",): (
        "delta=0.2 with momentum=0.9 gives the momenta 0.7 (task) and 1.1 (distillation); both must lie in [0, 1) and "
        "delta must not be negative."
    ),
    ("--teacher_checkpoint=net.npz", "--teacher_epochs=3"): (
        "--teacher_epochs=3.0 does not apply with --teacher_checkpoint, whose teacher is not trained; "
        "leave one of them."
    ),
    ("--teacher_checkpoint=net.npz", "--teacher_seed=3"): (
        "--teacher_seed=3 does not apply with --teacher_checkpoint, whose teacher is not trained; leave one of them."
    ),
    ("--teacher_checkpoint=net.npz", "--teacher_learning_rate=3"): (
        "--teacher_learning_rate=3.0 does not apply with --teacher_checkpoint, whose teacher is not trained; "
        "leave one of them."
    ),
    ("--sync_batch_norm",): (
        "--sync_batch_norm belongs to --parallel=pmap; under jit batch statistics are global anyway."
    ),
    ("--gather",): "--gather belongs to --parallel=pmap; under jit losses see the global batch anyway.",
    ("--parallel=pmap", "--mesh=data:1"): "--mesh belongs to --parallel=jit; under pmap every device holds everything.",
    ("--parallel=pmap", "--sharding_rule=kernel=data"): (
        "--sharding_rule belongs to --parallel=jit; under pmap every device holds everything."
    ),
    ("--parallel=pmap", "--teacher_sharding=fsdp"): (
        "--teacher_sharding=fsdp belongs to --parallel=jit; under pmap every device holds it all."
    ),
    ("--batch_size=12", "--accumulate=3"): (
        "batch_size=12 is not divisible by the 8 devices. Use a multiple of 8, such as 16."
    ),
    ("--epochs=0",): "--epochs=0 trains nothing; it must be greater than 0.",
    ("--teacher_epochs=0",): "--teacher_epochs=0 trains nothing; it must be greater than 0.",
    ("--num_train=1000000",): "num_train=1000000 must lie in [1, 4000], the number of training examples.",
    ("--data_dir=somewhere",): "data_dir='somewhere' does not apply to mnist1d, which is not read from disk; leave it.",
}


def own_flags(module, tmp_path):
    """The flags of an experiment."""
    path = tmp_path / "flags.json"
    assert broken_runs.start(flag_cases.write_own_flags, module, str(path), log=tmp_path / "flags.log") == 0
    return json.loads(path.read_text())


def answers(module, cases, tmp_path):
    """What an experiment answers."""
    path = tmp_path / "answers.json"
    cases = [[f"--workdir={tmp_path / 'run'}", "--noprogress", *case] for case in cases]
    code = broken_runs.start(flag_cases.write_answers, module, cases, str(path), log=tmp_path / "answers.log")
    assert code == 0, (tmp_path / "answers.log").read_text()
    return json.loads(path.read_text())


@pytest.mark.parametrize("module", MODULES)
def test_every_number_has_a_range_and_every_choice_its_list(module, tmp_path):
    found = own_flags(module, tmp_path)
    expected = {}
    for flag in found:
        name, (low, high) = flag["name"], flag["bounds"]
        if flag["type"] in ("int", "float"):
            assert low is not None, f"--{name} has no lower bound"
            for bad in [low - 1] if high is None else [low - 1, high + 1]:
                value = float(bad) if flag["type"] == "float" else bad
                expected[f"--{name}={bad}"] = f"flag --{name}={bad}: {value} is not {flag['help']}"
            expected[f"--{name}=many"] = f"flag --{name}=many: "
        if flag["type"] == "string enum":
            expected[f"--{name}=other"] = f"flag --{name}=other: value should be one of <"
        if flag["type"] == "bool":
            expected[f"--{name}=other"] = f"flag --{name}=other: ('Non-boolean argument to boolean flag', 'other')"
    assert len(expected) > 5
    for (case, text), answer in zip(
        expected.items(), answers(module, [[case] for case in expected], tmp_path), strict=True
    ):
        assert answer.startswith(text), (case, answer)


def test_numbers_that_are_none_are_refused(tmp_path):
    """Of the main job: NaN passes a comparison with any bound."""
    names = [f["name"] for f in own_flags("experiments.dot", tmp_path) if f["type"] == "float"]
    cases = [[f"--{name}={value}"] for name in names for value in ("nan", "inf")]
    for [case], answer in zip(cases, answers("experiments.dot", cases, tmp_path), strict=True):
        assert answer == f"{case} must be a finite number." or ("is not" in answer and case in answer), (case, answer)


@pytest.mark.parametrize(("module", "flag"), [("mirage", "learning_rate"), ("adasim", "base_rate")])
def test_numbers_that_are_none_are_refused_where_flags_are_an_experiments_own(module, flag, tmp_path):
    done = run(f"experiments.{module}", f"--{flag}=nan", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert " ".join(done.stderr.split()) == f"error: --{flag}=nan must be a finite number."
    assert not (tmp_path / "run").exists()


def test_contradictions(tmp_path):
    """Of two flags, or of a flag and a default, a file or this machine."""
    found = answers("experiments.dot", list(CONTRADICTIONS), tmp_path)
    for (case, text), answer in zip(CONTRADICTIONS.items(), found, strict=True):
        assert text in answer, (case, answer)
