"""A library of ours that is not installed here, in one sentence."""

from __future__ import annotations

import re
from importlib import metadata

DISTRIBUTION = "bridge-harness"


def missing_library(error: ModuleNotFoundError) -> str | None:
    """What to install; None where the package declares no such library, not even in an extra."""
    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # a checkout that is only on the path
        return None
    known = {_plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in declared}
    name = (error.name or "").partition(".")[0]
    if _plain(name) not in known:
        return None
    return f"{name} is not installed here; pip install '{DISTRIBUTION}[all]'"


def _plain(name: str) -> str:
    """One spelling for a distribution and the module in it: math-verify is math_verify."""
    return name.lower().replace("-", "_")
