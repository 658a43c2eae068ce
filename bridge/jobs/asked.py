"""What a command line of Snakemake's asks for, together with ``config.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge.plan.config import config_path, load_user_config
from bridge.store.schema import merge, shown
from bridge.store.strict import strict_yaml


@dataclass(frozen=True)
class Asked:
    """The suite that is asked for, and how."""

    suite: str
    source: str
    """Whether runs or committed tables are shown."""
    overrides: dict[str, Any]


def asked_of(arguments: Sequence[str]) -> Asked:
    """What ``--config`` says, over what ``config.yaml`` says.

    Raises:
        ValueError: one of them cannot be read; Snakemake says why.
    """
    said = dict(word.partition("=")[::2] for word in arguments if "=" in word)
    user = load_user_config(config_path())
    overrides = dict(user.overrides)
    given = strict_yaml(said.get("overrides", "{}")) or {}
    if not isinstance(given, dict):
        raise ValueError(f"overrides have to be a mapping (got {shown(given)})")
    merge(overrides, given)
    return Asked(said.get("suite", user.suite), said.get("source", user.source), overrides)
