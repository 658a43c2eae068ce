"""Methods by name: every file of this folder with a class ``METHOD``."""

from __future__ import annotations

import importlib

import bridge.methods
from bridge.methods.base import Method
from bridge.store.plugins import check_known, plugin_names


def method_names() -> tuple[str, ...]:
    """Names of the method files."""
    return plugin_names(bridge.methods.__path__[0], "METHOD")


def load_method(name: str) -> type[Method]:
    """The class ``METHOD`` of a method file.

    Raises:
        ConfigError: there is no such method.
    """
    check_known("method", name, method_names())
    method: type[Method] = importlib.import_module(f"bridge.methods.{name}").METHOD
    return method
