"""Files that are found by name: a method and a data set are one file each, listed nowhere else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

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
