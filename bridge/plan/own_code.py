"""The user's own methods and data sets: a hash of their source, which counts in a run's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bridge.plan.fingerprint import module_source
from bridge.store.plugins import FAMILIES, METHODS
from bridge.store.records import content_hash


def own_code_hash(method: str, family: str) -> str | None:
    """Hash of the modules that are the user's, and of what they import from where they lie.

    This package is left out: an edit of it makes runs stale, but not other runs. Of a module beside
    ``config.yaml`` everything below that folder counts, of an installed one its own package.

    Returns:
        None where both are this package's own.
    """
    hashes: dict[str, str] = {}
    for name in filter(None, (METHODS.own_module(method), FAMILIES.own_module(family))):
        root = _root(name)
        beside, waiting = root == Path.cwd(), [name]
        while waiting:
            module = waiting.pop()
            top = module.partition(".")[0]
            if module in hashes or top == "bridge" or not (beside or top == name.partition(".")[0]):
                continue
            found = module_source(module, root)
            hashes[module] = found.hash
            waiting += found.imports
    return content_hash(hashes) if hashes else None


def _root(name: str) -> Path:
    """The folder that the first part of a module's name lies in; it has been imported."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).resolve()
    return path.parents[name.count(".") + (path.name == "__init__.py")]
