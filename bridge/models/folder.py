"""What a checkpoint folder says of itself, read without torch: planning asks too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridge.models import CheckpointError
from bridge.store.hashes import remembered_hashes
from bridge.store.records import content_hash, read_json
from bridge.store.settings import MadeModel
from bridge.store.strict import strict_json

_SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_INDEX = "model.safetensors.index.json"
_OTHERS = ("chat_template.jinja", "tokenizer.json", "special_tokens_map.json", _INDEX, *_SETTINGS)


def check_folder(folder: Path) -> None:
    """Refuse a folder without what a chat policy needs: a configuration, safetensors, a fast
    tokenizer and a chat template, and no code of its own. The weights are not opened.

    Raises:
        CheckpointError: naming the file and the remedy.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint at {folder}; make it or correct the path.")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder / 'config.json'} is missing; make the checkpoint again.")
    refuse_code(folder)
    missing = next((path for path in weight_files(folder) if not path.is_file()), None)
    if missing is not None:
        if any(path.suffix in _PICKLED for path in folder.iterdir()):
            raise CheckpointError(
                f"{folder} has pickled weights only, which could run code when loaded; save the "
                "model as safetensors."
            )
        raise CheckpointError(f"{missing} is missing; make the checkpoint again.")
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json; save the model's fast tokenizer beside its weights."
        )
    # Before transformers 4.51 the template was a field of the settings.
    own = settings(folder, "tokenizer_config.json").get("chat_template")
    if not own and not (folder / "chat_template.jinja").is_file():
        raise CheckpointError(
            f"the tokenizer in {folder} has no chat template, so no prompt can be rendered; put a "
            "chat_template.jinja beside it."
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a folder has to hold.

    Raises:
        CheckpointError: the index of a model in several files is damaged.
    """
    if not (folder / _INDEX).is_file():
        return [folder / "model.safetensors"]
    shards = settings(folder, _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{folder / _INDEX} is damaged; make the checkpoint again.")
    return [folder / name for name in sorted({str(name) for name in shards.values()})]


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
        content = strict_json(path.read_text(encoding="utf-8"))
    except ValueError:
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


def is_made(model: MadeModel, folder: Path) -> bool:
    """Whether the folder has this base model, made by the workflow."""
    path = folder / "base.json"
    expected = content_hash(model.model_dump(mode="json"))
    return path.is_file() and read_json(path).get("config_hash") == expected


def checkpoint_hash(folder: Path, memory: Path) -> str:
    """Hash of what a policy is loaded from: weights, tokenizer, chat template, settings. Where the
    folder lies, and what else is in it, does not count.

    Args:
        memory: folder for the hashes of files seen before, see :mod:`bridge.store.hashes`.
    """
    others = [folder / name for name in _OTHERS if (folder / name).is_file()]
    known = memory / f"{content_hash(str(folder.resolve()))}.json"
    return content_hash(remembered_hashes([*others, *weight_files(folder)], known))
