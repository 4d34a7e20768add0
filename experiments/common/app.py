"""Starts an experiment: what goes wrong ends with one readable line and an exit code that is not zero."""

import logging
import sys
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging
from rich.console import Console
from rich.logging import RichHandler

from experiments.common.flags import check_finite
from jkd.train import Damaged, Interrupted, NonFinite, deterministic

_EXPECTED = (ValueError, TypeError, OSError, Damaged, NonFinite)


def run_app(run: Callable[[], object]) -> None:
    """Parses the flags and runs; `--debug` shows tracebacks.

    Exit codes: 0 done, 1 bad input or a run that went bad, 130 and 143 stopped by a signal after saving.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(show_path=False)])
        if "deterministic" in flags.FLAGS and flags.FLAGS["deterministic"].value:
            deterministic()
        try:
            check_finite()
            run()
        except Interrupted as stop:
            print(f"{stop}; run the same command again to go on.", file=sys.stderr)
            raise
        except KeyboardInterrupt:
            print("stopped by SIGINT; run the same command again to go on.", file=sys.stderr)
            raise SystemExit(130) from None
        except _EXPECTED as error:
            if flags.FLAGS.debug:
                raise
            _fail(" ".join(str(error).split()) or type(error).__name__)

    app.run(main)


def _fail(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {line}", markup=False)
    raise SystemExit(1)
