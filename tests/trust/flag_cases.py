"""What commands say, found in processes of their own: each experiment defines its flags anew."""

import importlib
import json
from pathlib import Path

from absl import flags
from absl.testing import flagsaver

FLAGS = flags.FLAGS


def write_answers(module, cases, path):
    """For each list of arguments, what the command of a module answers; "accepted" if it runs."""
    experiment = _load(module)
    Path(path).write_text(json.dumps([_answer(experiment, case) for case in cases]))


def write_own_flags(module, path):
    """Name, type, bounds and default of every flag that a module or what it shares defines."""
    _load(module)
    found = []
    for name in FLAGS:
        if not str(FLAGS.find_module_defining_flag(name)).startswith("experiments"):
            continue
        flag = FLAGS[name]
        kind = flag.flag_type()
        bound = [getattr(flag.parser, side, None) for side in ("lower_bound", "upper_bound")]
        found.append({"name": name, "type": kind, "bounds": bound, "help": flag.parser.syntactic_help})
    Path(path).write_text(json.dumps(found))


def _load(module):
    """An experiment, with its flags defined."""
    experiment = importlib.import_module(module)
    experiment.define_flags()
    FLAGS(["command"])
    return experiment


def _answer(experiment, arguments):
    saved = flagsaver.save_flag_values()
    try:
        FLAGS(["command", *arguments])
        experiment.main()
    except (flags.Error, ValueError, TypeError, OSError) as error:
        return " ".join(str(error).split())
    finally:
        flagsaver.restore_flag_values(saved)
    return "accepted"


def write_failed_soak(path):
    """What `experiments.trust` ends with when one promise is not held."""
    trust = _load("experiments.trust")
    trust.run = lambda *arguments, **keywords: [
        trust.Row("two and two are four", 3, 3, []),
        trust.Row("the moon is made of cheese", 2, 1, ["it is not"]),
    ]
    try:
        trust.main()
    except ValueError as error:
        Path(path).write_text(str(error))
