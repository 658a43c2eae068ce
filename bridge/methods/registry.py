"""Methods by name: every file of this folder with a class ``METHOD``."""

from __future__ import annotations

from bridge.methods.base import Method
from bridge.store.plugins import METHODS
from bridge.store.schema import ConfigError


def method_names() -> tuple[str, ...]:
    """Names of the method files."""
    return METHODS.names()


def load_method(name: str, where: str = "") -> type[Method]:
    """The class ``METHOD`` of a method file, or of a module of the user's.

    Args:
        where: how errors begin.

    Raises:
        ConfigError: there is no such method, or it is no class of one.
    """
    method = METHODS.load(name, where)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ConfigError(f"{where}method '{name}': METHOD is no subclass of Method.")
    return method
