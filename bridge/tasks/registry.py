"""Data sets by name: every file of this folder with an object ``FAMILY``."""

from __future__ import annotations

import bridge.tasks
from bridge.store.plugins import load_plugin, plugin_names
from bridge.tasks.base import Family


def family_names() -> tuple[str, ...]:
    """Names of the problem-family files."""
    return plugin_names(bridge.tasks.__path__[0], "FAMILY")


def load_family(name: str, where: str = "") -> Family:
    """The object ``FAMILY`` of a problem-family file, or of a module of the user's.

    Args:
        where: how errors begin.

    Raises:
        ConfigError: there is no such family.
    """
    family: Family = load_plugin("problem family", name, "bridge.tasks", "FAMILY", where)
    return family
