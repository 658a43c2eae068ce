"""Files that are found by name: a method and a data set are one file each, listed nowhere else.

A name with a dot is a module of the user's, beside ``config.yaml`` or installed.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from bridge.store.schema import ConfigError


@cache
def plugin_names(folder: str, marker: str) -> tuple[str, ...]:
    """Names of a folder's files that define ``marker`` at their top level.

    Told from the text: a file that is not asked for may import what is not installed here.
    """
    defines = re.compile(rf"^{marker}\b", re.MULTILINE)
    return tuple(
        sorted(
            path.stem
            for path in Path(folder).glob("*.py")
            if defines.search(path.read_text(encoding="utf-8"))
        )
    )


def check_known(what: str, name: str, valid: Iterable[str], where: str = "") -> None:
    """Refuse a name that is none of the valid ones.

    Raises:
        ConfigError: one sentence that begins with ``where`` and gives the nearest valid name.
    """
    names = sorted(valid)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."
        raise ConfigError(f"{where}unknown {what} '{name}'; {hint}")


def is_own(name: str) -> bool:
    """Whether a method's or data set's name is a module of the user's."""
    return "." in name


def load_plugin(what: str, name: str, package: str, marker: str, where: str = "") -> Any:
    """The object ``marker`` of a file of ``package``, or of a module of the user's.

    Args:
        what: "method" or "problem family".
        where: how errors begin.

    Raises:
        ConfigError: there is no such file or module, or it has no such object; one sentence.
    """
    if not is_own(name):
        folder = importlib.import_module(package).__path__[0]
        check_known(what, name, plugin_names(folder, marker), where)
        return getattr(importlib.import_module(f"{package}.{name}"), marker)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: its files shadow nothing that a library imports
    try:
        module = importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"{where}{what} '{name}' cannot be imported: {error}; a name with a dot is a module "
            "beside config.yaml or an installed one."
        ) from None
    if not hasattr(module, marker):
        raise ConfigError(f"{where}{what} '{name}': {module.__file__} defines no {marker}.")
    return getattr(module, marker)
