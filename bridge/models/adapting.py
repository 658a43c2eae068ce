r"""A model of the hub as a checkpoint folder like any other: links to its files, and three changes.

The folder holds links into the hub's cache, so nothing is copied. What the model's own files lack
for training is written beside them: SimpleRL's ``qwen-boxed`` chat template with its two end
tokens or the model's own with thinking off, and a pad token. Everything later (training, lm-eval,
vLLM) reads the prompt from there.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from bridge.machine.hub import HubError, snapshot
from bridge.models.checkpoint import CheckpointError
from bridge.store.records import content_hash, read_json, write_json
from bridge.store.settings import HubModel

# Never *.bin, *.pt or *.py: those can run code.
FILES: Final = ("*.safetensors", "*.json", "*.jinja", "merges.txt")

# SimpleRL's template of this name; the words after the problem come with the problem itself
# (bridge.tasks.real.prompts.BOXED), as they do for every other model.
QWEN_BOXED: Final = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The variable by which Qwen3's template leaves thinking out; set inside, every reader obeys it.
_THINKING: Final = "enable_thinking"

# SimpleRL's evaluation stops at either.
_QWEN_ENDS: Final = ("<|im_end|>", "<|endoftext|>")


def prepare_hub_model(model: HubModel, folder: Path) -> Path:
    """Return ``folder`` as a checkpoint of the model, fetching what the hub's cache lacks.

    Raises:
        CheckpointError: the hub does not give it, it has no safetensors, or its tokenizer lacks a
            chat template or a pad token that the configuration does not supply.
    """
    wanted = content_hash(model.model_dump(mode="json"))
    if _hash(folder) == wanted:
        return folder
    try:
        source = snapshot("model", model.repo, model.revision, FILES)
    except HubError as error:
        raise CheckpointError(str(error)) from error
    if not list(source.glob("*.safetensors")):
        raise CheckpointError(
            f"{model.repo} has no *.safetensors at {model.revision[:12]}; other weight formats can "
            "run code when loaded and are refused: pin a commit that has them."
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            (temporary / path.name).symlink_to(path.resolve())
    try:
        _adapt(model, temporary)
        write_json(temporary / "base.json", {"hash": wanted, **model.model_dump(mode="json")})
        if folder.exists() and _hash(folder) != wanted:
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError:
        # Another run of the suite was faster; its folder must then be the same.
        if _hash(folder) != wanted:
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _hash(folder: Path) -> str | None:
    record = folder / "base.json"
    return str(read_json(record)["hash"]) if record.is_file() else None


def _adapt(model: HubModel, folder: Path) -> None:
    settings = _json(folder, model, "tokenizer_config.json")
    tokens = {t["content"]: t["id"] for t in _json(folder, model, "tokenizer.json")["added_tokens"]}
    if model.prompt == "qwen-boxed":
        missing = [end for end in (*_QWEN_ENDS, "<|im_start|>") if end not in tokens]
        if missing:
            raise CheckpointError(
                f"{model.repo}: its vocabulary has no {missing[0]}, which prompt: qwen-boxed "
                "needs; set prompt: chat-template."
            )
        _replace(folder / "chat_template.jinja", QWEN_BOXED)
        generation = folder / "generation_config.json"
        known = json.loads(generation.read_text("utf-8")) if generation.is_file() else {}
        known["eos_token_id"] = [tokens[end] for end in _QWEN_ENDS]
        _replace(generation, json.dumps(known, indent=2))
    else:
        path = folder / "chat_template.jinja"
        template = path.read_text("utf-8") if path.is_file() else settings.get("chat_template")
        if not template:
            raise CheckpointError(
                f"{model.repo}: the tokenizer has no chat template; set prompt: qwen-boxed for a "
                "Qwen base model, or take the instruction-tuned one."
            )
        if model.prompt == "chat-template-no-thinking":
            if _THINKING not in template:
                raise CheckpointError(
                    f"{model.repo}: its chat template has no switch {_THINKING}; set prompt: "
                    "chat-template."
                )
            _replace(path, f"{{%- set {_THINKING} = false %}}{template}")
    if model.pad_token is not None:
        if model.pad_token not in tokens:
            raise CheckpointError(
                f"{model.repo}: pad_token '{model.pad_token}' is no special token of its "
                "vocabulary; name one that is."
            )
        _replace(
            folder / "tokenizer_config.json",
            json.dumps(settings | {"pad_token": model.pad_token}, indent=2),
        )
    elif settings.get("pad_token") is None:
        raise CheckpointError(
            f"{model.repo}: the tokenizer has no pad token; name one of its special tokens as the "
            "model's pad_token in the suite."
        )


def _json(folder: Path, model: HubModel, name: str) -> Any:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{model.repo} has no {name} at {model.revision[:12]}; only models with a fast "
            "tokenizer can be used."
        )
    return read_json(path)


def _replace(path: Path, text: str) -> None:
    """Write a file of our own where a link was."""
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
