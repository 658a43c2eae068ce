"""A reward function of the user's: found, and hashed with all that it imports from its folder."""

from __future__ import annotations

import ast
from pathlib import Path

from bridge.plan.fingerprint import fingerprint
from bridge.store.schema import ConfigError


def reward_hash(reward: str, root: Path, where: str) -> str:
    """Hash of the function's module and of every module below ``root`` that it imports.

    Nothing is imported here: the function runs in the grading worker only.

    Args:
        reward: ``package.module:function``.
        root: the folder with ``suites/``, where the module lies.

    Raises:
        ConfigError: there is no such module or function; one sentence that begins with ``where``.
    """
    module, _, name = reward.partition(":")
    base = root.resolve().joinpath(*module.split("."))
    path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
    if path is None:
        raise ConfigError(
            f"{where}: there is no {base.with_suffix('.py')}; write the function there, or correct "
            f"'{reward}' (package.module:function, beside config.yaml)."
        )
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = fingerprint((module,), root=root.resolve())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {path} is not Python: {error}.") from None
    if name not in {known for node in tree.body for known in _names(node)}:
        raise ConfigError(f"{where}: {path} has no '{name}'; define it or correct '{reward}'.")
    return found


def _names(node: ast.stmt) -> list[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name] if isinstance(name := getattr(node, "name", None), str) else []
