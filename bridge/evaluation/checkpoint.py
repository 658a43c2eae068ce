"""Refuse an unusable checkpoint folder in one sentence, before anything heavy is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bridge.evaluation import EvaluationError
from bridge.models.folder import refuse_code

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def check_checkpoint(folder: Path) -> None:
    """Check that a folder holds a configuration, readable safetensors, a tokenizer and a template.

    Raises:
        EvaluationError, CheckpointError: one sentence naming the file and the remedy.
    """
    if not folder.is_dir():
        raise EvaluationError(f"There is no checkpoint at {folder}; train the run again.")
    _json(folder / "config.json")
    refuse_code(folder)
    for path in _weight_files(folder):
        _check_tensors(path)
    if not (folder / "tokenizer.json").is_file():
        raise EvaluationError(
            f"{folder} has no tokenizer.json; save the model's fast tokenizer beside its weights."
        )
    if not _has_chat_template(folder):
        raise EvaluationError(
            f"The tokenizer in {folder} has no chat template, so prompts cannot be rendered as in "
            "training; add a chat_template.jinja beside it."
        )


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise EvaluationError(f"{index} is damaged; train the run again.")
        return [folder / name for name in sorted({str(name) for name in shards.values()})]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if any(p.suffix in _PICKLED for p in folder.iterdir()):
        raise EvaluationError(
            f"{folder} has pickled weights only, which could run code when loaded; save the model "
            "as safetensors."
        )
    raise EvaluationError(f"{folder} has no model.safetensors; train the run again.")


def _check_tensors(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy") as stream:
            names = list(stream.keys())
    except FileNotFoundError:
        raise EvaluationError(f"{path} is missing; train the run again.") from None
    except (SafetensorError, OSError) as error:
        raise EvaluationError(f"{path} is damaged ({error}); train the run again.") from error
    if not names:
        raise EvaluationError(f"{path} holds no tensors; train the run again.")


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    # Before transformers 4.51 the template was a field of this file.
    return settings.is_file() and bool(_json(settings).get("chat_template"))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvaluationError(f"{path} is missing; train the run again.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} is damaged; train the run again.")
    return content
