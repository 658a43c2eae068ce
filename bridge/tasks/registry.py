"""Data sets by name: every file of this folder with an object ``FAMILY``."""

from __future__ import annotations

import importlib

import bridge.tasks
from bridge.store.plugins import check_known, plugin_names
from bridge.tasks.base import Family


def family_names() -> tuple[str, ...]:
    """Names of the problem-family files."""
    return plugin_names(bridge.tasks.__path__[0], "FAMILY")


def load_family(name: str) -> Family:
    """The object ``FAMILY`` of a problem-family file.

    Raises:
        ConfigError: there is no such family.
    """
    check_known("problem family", name, family_names())
    family: Family = importlib.import_module(f"bridge.tasks.{name}").FAMILY
    return family
