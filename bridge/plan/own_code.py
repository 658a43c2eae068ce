"""The user's own methods and data sets: a hash of their source, which counts in a run's."""

from __future__ import annotations

from bridge.plan.fingerprint import own_modules
from bridge.store.plugins import FAMILIES, METHODS
from bridge.store.records import content_hash


def own_code_hash(method: str, family: str) -> str | None:
    """Hash of the modules that are the user's, and of what they import from where they lie.

    This package is left out: an edit of it makes runs stale, but not other runs.

    Returns:
        None where both are this package's own.
    """
    hashes: dict[str, str] = {}
    for name in filter(None, (METHODS.own_module(method), FAMILIES.own_module(family))):
        hashes |= {module: source.hash for module, source in own_modules(name).items()}
    return content_hash(hashes) if hashes else None
