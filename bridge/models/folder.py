"""What a checkpoint folder says of itself, read without torch: planning asks too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridge.models import CheckpointError
from bridge.store.records import content_hash, file_hash

_SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json")
_PROMPT_FILES = ("chat_template.jinja", "tokenizer.json", *_SETTINGS)


def refuse_code(folder: Path) -> None:
    """Refuse a checkpoint that names Python code of its own.

    Such code is never run. Without it transformers takes a class of its own where it has one of
    that name, and whether that computes the same nobody knows.

    Raises:
        CheckpointError: ``auto_map`` stands in one of the settings files.
    """
    for name in _SETTINGS:
        if settings(folder, name).get("auto_map"):
            raise CheckpointError(
                f"{folder / name} names Python code of its own (auto_map), which is never run; use "
                "a checkpoint of an architecture that transformers includes."
            )


def settings(folder: Path, name: str) -> dict[str, Any]:
    """The mapping in a JSON file of a checkpoint; empty where the file is missing.

    Raises:
        CheckpointError: the file holds no JSON mapping.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged; copy or make the checkpoint again.")
    return content


def declared_ends(folder: Path) -> list[int]:
    """Ids of ``eos_token_id`` in ``generation_config.json`` or, where there is none, in
    ``config.json``, as transformers reads them."""
    name = "generation_config.json"
    has_own = (folder / name).is_file()
    named = settings(folder, name if has_own else "config.json").get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    return [int(i) for i in ids if i is not None]


def prompt_hash(folder: Path) -> str | None:
    """Hash of the files that decide a prompt's tokens and the end of an answer: chat template,
    tokenizer, settings. None where there are none, which the job that loads the folder refuses."""
    found = {n: file_hash(folder / n) for n in _PROMPT_FILES if (folder / n).is_file()}
    return content_hash(found) if found else None
