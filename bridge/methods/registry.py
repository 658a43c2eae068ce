"""Methods by name: every file of this folder with a class ``METHOD``."""

from __future__ import annotations

import bridge.methods
from bridge.methods.base import Method
from bridge.store.plugins import load_plugin, plugin_names


def method_names() -> tuple[str, ...]:
    """Names of the method files."""
    return plugin_names(bridge.methods.__path__[0], "METHOD")


def load_method(name: str, where: str = "") -> type[Method]:
    """The class ``METHOD`` of a method file, or of a module of the user's.

    Args:
        where: how errors begin.

    Raises:
        ConfigError: there is no such method.
    """
    method: type[Method] = load_plugin("method", name, "bridge.methods", "METHOD", where)
    return method
