"""A suite whose settings are tuned here: its trials run first, by the same command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bridge.jobs.asked import asked_of
from bridge.plan.choices import choice_path
from bridge.plan.config import load_suite, suite_file


def trials_first(arguments: Sequence[str]) -> list[str] | None:
    """What to start Snakemake with before ``arguments``: the tuning suite up to its choice.

    None where the suite is not tuned, uses a committed choice, is shown from its committed tables,
    or cannot be told (Snakemake then says why).
    """
    try:
        asked = asked_of(arguments)
        suite = load_suite(suite_file(asked.suite, Path()), asked.overrides)
    except ValueError:
        return None
    if asked.source == "cached":
        return None
    if suite.tuned_by is None or suite.tuned_by.frozen:
        return None
    target = choice_path(suite.tuned_by, Path("results")).as_posix()
    kept = _without_config(arguments)
    return [target, *kept, "--config", f"suite={suite.tuned_by.suite}"]


def _without_config(arguments: Sequence[str]) -> list[str]:
    """The options without ``--config`` and what belongs to it."""
    kept: list[str] = []
    skipping = False
    for word in arguments:
        if word == "--config":
            skipping = True
        elif word.startswith("-"):
            skipping = False
            kept.append(word)
        elif not skipping:
            kept.append(word)
    return kept
