"""Tree-structured Parzen estimators, which are Optuna's: the next trial from those that went before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from jkd import _check
from jkd.search.journal import Evaluation
from jkd.search.levels import Candidate, Level, described, options_at
from jkd.search.loop import Evaluate, SearchResult, run


class Uniform(NamedTuple):
    """A real number in [low, high]; on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False


class Integer(NamedTuple):
    """An integer in [low, high]; on a logarithmic scale if `log`."""

    low: int
    high: int
    log: bool = False


class Choice(NamedTuple):
    """One of several strings or numbers."""

    options: tuple[Any, ...]


Space = Mapping[str, Uniform | Integer | Choice]
"""What is searched, by the name of each parameter."""


def tpe_suggest(
    history: Sequence[tuple[Mapping[str, Any], float | None]],
    space: Space,
    key: jax.Array,
    *,
    startup: int = 10,
) -> dict[str, Any]:
    """The parameters of the next trial: likely among the good trials and unlikely among the others.

    Each parameter by itself: of 24 draws from the density `l` of the best tenth of the trials (25 at most), the one of
    the largest `l / g`, `g` the density of the others.

    Args:
      history: `(parameters, score)` of the trials before, in their order; larger scores are better, None for a trial
        that failed.
      space: the parameters.
      key: of the draws.
      startup: trials that are drawn at random before, at least 0.

    Returns:
      A value for each parameter; a function of the arguments alone.

    Raises:
      ImportError: without Optuna, which `pip install "jkd[search]"` brings.
      ValueError: for a trial whose parameters are not those of the space, or bounds out of order.

    Example:
      >>> space = {"rate": Uniform(1e-3, 1.0, log=True), "net": Choice(("a", "b"))}
      >>> sorted(tpe_suggest([], space, jax.random.key(0)))
      ['net', 'rate']

    References:
      Bergstra, Bardenet, Bengio, Kégl. Algorithms for Hyper-Parameter Optimization, NeurIPS 2011. Akiba, Sano, Yanase,
      Ohta, Koyama. [Optuna](https://arxiv.org/abs/1907.10902), KDD 2019.
    """
    _check.not_negative("startup", startup)
    optuna = _optuna()
    distributions = {name: _distribution(optuna, one) for name, one in space.items()}
    study = _study(optuna, key, startup)
    for values, score in history:
        if set(values) != set(space):
            raise ValueError(f"history: a trial has the parameters {sorted(values)}; expected {sorted(space)}.")
        study.add_trial(_trial(optuna, values, distributions, score))
    return dict(study.ask(distributions).params)


def tpe_search(
    options_per_level: Sequence[Level],
    evaluate: Evaluate,
    *,
    budget: int,
    key: jax.Array,
    confirm: int = 3,
    path: str | Path | None = None,
    startup: int = 10,
) -> SearchResult:
    """Searches like `mcts`, each level by a Parzen estimator of its own.

    A level whose options depend on the choices above has one estimator for each set of options.

    Args:
      options_per_level: as for `mcts`.
      evaluate: as for `mcts`.
      budget: number of evaluations, at least 1.
      key: of all choices.
      confirm: how many of the best are evaluated with the seed 1 as well, at least 1.
      path: a JSON file from which the search goes on, as for `mcts`.
      startup: evaluations at random before the estimators are asked.

    Returns:
      The best candidate and the log.

    Raises:
      ImportError: without Optuna, which `pip install "jkd[search]"` brings.
      ValueError: as `mcts`.

    Example:
      >>> found = tpe_search([(1, 2), (3, 4)], lambda c, seed: sum(c), budget=20, key=jax.random.key(0))
      >>> found.best
      (2, 4)

    References:
      As `tpe_suggest`.
    """
    _check.not_negative("startup", startup)
    optuna = _optuna()

    def named(prefix: Candidate) -> tuple[str, Any]:
        options = options_at(options_per_level, prefix)
        return f"{len(prefix)}: {', '.join(map(str, options))}", optuna.distributions.CategoricalDistribution(options)

    def propose(log: Sequence[Evaluation], rng: np.random.Generator) -> tuple[Candidate, int]:
        study = _study(optuna, jax.random.key(int(rng.integers(2**31))), startup)
        worst = min((one.reward for one in log if one.reward is not None), default=None)
        for one in log:
            levels = [(*named(one.candidate[:at]), value) for at, value in enumerate(one.candidate)]
            values = {name: value for name, _, value in levels}
            distributions = {name: distribution for name, distribution, _ in levels}
            reward = worst if one.reward is None else one.reward
            study.add_trial(_trial(optuna, values, distributions, reward))
        trial = study.ask()
        prefix: Candidate = ()
        while len(prefix) < len(options_per_level):
            name, distribution = named(prefix)
            prefix = (*prefix, trial.suggest_categorical(name, distribution.choices))
        return prefix, 0

    identity = {"search": "tpe", "startup": startup, "levels": described(options_per_level)}
    return run(propose, evaluate, budget=budget, key=key, confirm=confirm, path=path, identity=identity)


def _optuna() -> ModuleType:
    """Optuna, quiet."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError('Parzen estimators are Optuna\'s; install it with: pip install "jkd[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: ModuleType, key: jax.Array, startup: int) -> Any:
    """An empty study whose sampler is seeded by the key."""
    seed = int(jax.random.bits(key, dtype=np.uint32))
    return optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    )


def _trial(optuna: ModuleType, values: Mapping[str, Any], distributions: Mapping[str, Any], score: Any) -> Any:
    """A trial that is over: complete, or failed where there is no score."""
    state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(params=dict(values), distributions=dict(distributions), value=score, state=state)


def _distribution(optuna: ModuleType, one: Uniform | Integer | Choice) -> Any:
    """Optuna's name for it."""
    if isinstance(one, Choice):
        return optuna.distributions.CategoricalDistribution(one.options)
    kind = optuna.distributions.FloatDistribution if isinstance(one, Uniform) else optuna.distributions.IntDistribution
    return kind(one.low, one.high, log=one.log)
