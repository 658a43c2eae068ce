"""Trials of an equal tuning: every row of a suite with the same number of settings to try.

A suite with ``trials`` replaces each row of its grid by ``count`` rows, named ``mixing.t03``. Each
draws the two learning rates from one range and the method's own declared knob
(:attr:`bridge.methods.base.Method.tuning`) from its list. The design is a Latin hypercube: every
setting is spread evenly by itself, so a method without a knob, or one that uses a single rate, has
as many different trials as the others (McKay, Beckman, Conover, Technometrics 21, 1979). Trial i
has the same rates for every method.
"""

from __future__ import annotations

import math
import random
from typing import Any

from bridge.methods.base import Method, Times
from bridge.methods.registry import load_method
from bridge.plan.config import MethodConfig, Suite, Trials
from bridge.store.schema import ConfigError, merge, validate
from bridge.store.seeds import derive_seed
from bridge.store.settings import TrainingConfig

RATES = ("lr_sft", "lr_rl")


def trial_label(row: str, number: int) -> str:
    """Name of a trial's row."""
    return f"{row}.t{number:02d}"


def row_of(label: str) -> tuple[str, int | None]:
    """The row that a label is a trial of, and the trial's number; None for a row of its own."""
    row, dot, number = label.rpartition(".t")
    return (row, int(number)) if dot and number.isdigit() else (label, None)


def with_trials(suite: Suite, where: str) -> Suite:
    """The suite with the trials of its rows in their place; unchanged where it asks for none.

    Raises:
        ConfigError: a method declares no knob, or there is no such method.
    """
    if suite.trials is None:
        return suite
    rows = dict.fromkeys(label for block in suite.grid for label in block.methods)
    made: dict[str, dict[str, MethodConfig]] = {}
    for label in rows:
        config = suite.methods.get(label, MethodConfig())
        name = config.method or label
        kind = load_method(name, f"{where}: methods.{label}: ")
        made[label] = _trials_of(label, config, kind, suite, where)
    grid = tuple(
        block.model_copy(
            update={"methods": tuple(t for label in block.methods for t in made[label])}
        )
        for block in suite.grid
    )
    methods = {label: trial for trials in made.values() for label, trial in trials.items()}
    return suite.model_copy(update={"methods": methods, "grid": grid})


def _trials_of(
    label: str, config: MethodConfig, method: type[Method], suite: Suite, where: str
) -> dict[str, MethodConfig]:
    assert suite.trials is not None
    options = validate(method.Options, config.options, where, f"methods.{label}.options")
    training = suite.training.model_dump()
    merge(training, config.training)
    planned = method(options, validate(TrainingConfig, training, where, f"methods.{label}"))
    if planned.n_steps == 0:
        return {label: config}
    if method.tuning is None:
        raise ConfigError(
            f"{where}: methods.{label}: the method declares nothing about its tuning, so its "
            "trials could not be equal to the others'; set `tuning` in its class ({} if it has no "
            "knob)."
        )
    found = {}
    for number, rates in enumerate(design(suite.trials, len(RATES))):
        raw: dict[str, Any] = {
            "method": config.method or label,
            "options": dict(config.options),
            "training": {**config.training, **dict(zip(RATES, rates, strict=True))},
        }
        for knob, (path, values) in enumerate(method.tuning.items()):
            part, key = path.split(".")
            choice = _place(suite.trials, len(RATES) + knob)[number]
            value = values[int(choice * len(values))]
            if isinstance(values, Times):
                own = getattr(options, key) if part == "options" else training[key]
                value = type(own)(own * value)
            raw[part][key] = value
        found[trial_label(label, number)] = MethodConfig.model_validate(raw)
    return found


def design(trials: Trials, n_rates: int) -> list[tuple[float, ...]]:
    """The rates of each trial, to two digits."""
    low, high = map(math.log, trials.rates)
    places = [_place(trials, dimension) for dimension in range(n_rates)]
    return [
        tuple(float(f"{math.exp(low + at * (high - low)):.1e}") for at in point)
        for point in zip(*places, strict=True)
    ]


def _place(trials: Trials, dimension: int) -> list[float]:
    """Where each trial lies in one dimension, in [0, 1): one in each of `count` equal strata."""
    rng = random.Random(derive_seed("trials", trials.seed, dimension))
    strata = list(range(trials.count))
    rng.shuffle(strata)
    return [(stratum + rng.random()) / trials.count for stratum in strata]
