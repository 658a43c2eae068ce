"""What a suite file (``suites/*.yaml``) and ``config.yaml`` can hold.

A suite describes a grid of runs; ``config.yaml`` chooses the suite and overrides parts of it.
Nothing here imports torch: planning works on a bare machine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bridge.store.schema import NAME, Closed, ConfigError, Name, merge, read_yaml, validate
from bridge.store.settings import EvaluationConfig, ModelConfig, TrainingConfig


class DatasetConfig(Closed):
    """A problem family with its options."""

    family: Name
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the family, see the ``Options`` class of its file in ``bridge/tasks/``."""


class MethodConfig(Closed):
    """One row of the tables: a method with its options, under its own label."""

    method: Name | None = None
    """File in ``bridge/methods/``; the label itself when left out."""
    options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the shared training configuration, for ablations."""


class GridBlock(Closed):
    """The product of these lists is trained and evaluated."""

    models: tuple[Name, ...] = Field(min_length=1)
    datasets: tuple[Name, ...] = Field(min_length=1)
    methods: tuple[Name, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)


class Suite(Closed):
    """One grid of runs."""

    title: str
    models: dict[Name, ModelConfig]
    datasets: dict[Name, DatasetConfig]
    training: TrainingConfig
    evaluation: EvaluationConfig
    methods: dict[Name, MethodConfig] = Field(default_factory=dict)
    train_on_benchmarks: tuple[Name, ...] = ()
    """Benchmarks whose questions a training set may hold; without being named here such a suite is
    refused. The table of contamination counts them all the same."""
    grid: tuple[GridBlock, ...] = Field(min_length=1)


class UserConfig(Closed):
    """``config.yaml``: what a user edits."""

    suite: Name
    """Name of a file in ``suites/``."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Merged over the suite, key by key."""
    threads: int = Field(1, ge=1)
    """Threads of one training or evaluation job."""
    device: Name | None = None
    """A GPU of ``bridge/jobs/needs/devices.yaml``; a plan with a run that cannot fit is refused."""
    source: Literal["results", "cached"] = "results"
    """Tidy tables behind tables and figures: of the runs here, or committed in results/cached."""


def load_suite(path: Path, overrides: dict[str, Any] | None = None) -> Suite:
    """Read a suite file, merge overrides over it and check it.

    Raises:
        ConfigError: naming the file, the key and, for an unknown key, the nearest valid one.
    """
    raw = extended(path)
    suite = validate(Suite, raw, path)
    if overrides:
        merge(raw, overrides)
        suite = validate(Suite, raw, f"overrides of {path}", "overrides")
    return suite


def extended(path: Path) -> dict[str, Any]:
    """The mapping of a suite file, laid over that of the suite it ``extends``, key by key.

    Raises:
        ConfigError: the other suite is not there, or extends a third one.
    """
    raw = read_yaml(path)
    name = raw.pop("extends", None)
    if name is None:
        return raw
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ConfigError(f"{path}: extends: expected the name of a suite (got {name!r:.80}).")
    base = read_yaml(path.with_name(f"{name}.yaml"))
    if "extends" in base:
        raise ConfigError(
            f"{path}: extends: {name} extends {base['extends']!r:.80} itself, and only one level "
            "is read; name the suite that holds the blocks, and one that extends nothing."
        )
    merge(base, raw)
    return base


def load_user_config(path: Path) -> UserConfig:
    """Read ``config.yaml``."""
    return validate(UserConfig, read_yaml(path), path)
