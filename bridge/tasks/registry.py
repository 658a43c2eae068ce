"""Data sets by name: every file of this folder with an object ``FAMILY``."""

from __future__ import annotations

from bridge.store.plugins import FAMILIES
from bridge.store.schema import ConfigError
from bridge.tasks.base import Family


def family_names() -> tuple[str, ...]:
    """Names of the problem-family files."""
    return FAMILIES.names()


def load_family(name: str, where: str = "") -> Family:
    """The object ``FAMILY`` of a problem-family file, or of a module of the user's.

    Args:
        where: how errors begin.

    Raises:
        ConfigError: there is no such family, or it is no object.
    """
    family: Family = FAMILIES.load(name, where)
    if isinstance(family, type) or not hasattr(family, "Options"):
        raise ConfigError(
            f"{where}problem family '{name}': FAMILY is not an object of a family's class."
        )
    return family
