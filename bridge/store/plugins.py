"""Files that are found by name: a method and a data set are one file each, listed nowhere else.

The user's own have a name with a dot, that of a module or of a lone file beside ``config.yaml``, or
the name of an entry point that an installed package declares.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from bridge.store.schema import ConfigError


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


@dataclass(frozen=True)
class Room:
    """A folder of this package whose files are found by name."""

    what: str
    """In errors."""
    package: str
    """Its name; entry points are declared in the group of that name."""
    marker: str
    """What each file defines at its top level."""

    def names(self) -> tuple[str, ...]:
        """Names of its files."""
        return _names(importlib.import_module(self.package).__path__[0], self.marker)

    def own_module(self, name: str) -> str | None:
        """The module of a name that is the user's; None for this package's own and unknown ones.

        Raises:
            ConfigError: two installed packages declare the name, or it is a module of this package,
                whose code would be in no hash.
        """
        if name.startswith(f"{self.package}."):
            raise ConfigError(f"{self.what} '{name}' is not the user's; name its file alone.")
        if "." in name:
            return name.removesuffix(".py")
        points = () if name in self.names() else entry_points(group=self.package, name=name)
        modules = sorted({point.module for point in points})
        if len(modules) > 1:
            raise ConfigError(
                f"{self.what} '{name}' is declared by {' and '.join(modules)}; name the module."
            )
        return modules[0] if modules else None

    def load(self, name: str, where: str = "") -> Any:
        """The object ``marker`` of a file, or of a module of the user's.

        Args:
            where: how errors begin.

        Raises:
            ConfigError: there is no such file or module, or it has no such object; one sentence.
        """
        own = self.own_module(name)
        if own is None:
            points = (point.name for point in entry_points(group=self.package))
            check_known(self.what, name, {*self.names(), *points}, where)
            module = importlib.import_module(f"{self.package}.{name}")
        else:
            module = _import_own(f"{where}{self.what} '{name}'", name, own)
        if not hasattr(module, self.marker):
            raise ConfigError(
                f"{where}{self.what} '{name}': {module.__file__} defines no {self.marker}."
            )
        return getattr(module, self.marker)


METHODS = Room("method", "bridge.methods", "METHOD")
FAMILIES = Room("problem family", "bridge.tasks", "FAMILY")


@cache
def _names(folder: str, marker: str) -> tuple[str, ...]:
    """Told from the text: a file that is not asked for may import what is not installed here."""
    defines = re.compile(rf"^{marker}\b", re.MULTILINE)
    return tuple(
        sorted(
            path.stem
            for path in Path(folder).glob("*.py")
            if defines.search(path.read_text(encoding="utf-8"))
        )
    )


def _import_own(what: str, name: str, module: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: its files shadow nothing that a library imports
    try:
        found = importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"{what} cannot be imported: {error}; a name with a dot is a file or module beside "
            "config.yaml, or an installed module."
        ) from None
    except (Exception, SystemExit) as error:
        at = extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{what} cannot be imported: line {at.lineno} of {at.filename} raised "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None
    if name.endswith(".py") and Path(str(found.__file__)) != Path.cwd() / name:
        raise ConfigError(f"{what}: Python finds {found.__file__} first; rename the file.")
    return found
