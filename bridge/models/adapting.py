r"""A released model as a checkpoint folder to train from: links to its files, and three changes.

The folder holds links into the hub's cache or the user's own folder, so nothing is copied. What the
model's own files lack for training is written beside them: SimpleRL's ``qwen-boxed`` chat template
with its two end tokens or the model's own with thinking off, and a pad token. Everything later
(training, lm-eval, vLLM) reads the prompt from there.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from bridge.machine.hub import HubError, snapshot
from bridge.models import CheckpointError
from bridge.models.folder import settings
from bridge.store.records import CARD, content_hash, folder_hash, read_json, write_json
from bridge.store.settings import HubModel, LocalModel

# Never *.bin, *.pt or *.py: those can run code.
FILES: Final = ("*.safetensors", "*.json", "*.jinja", "merges.txt", CARD)

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
    return _linked(model, f"{model.repo} at {model.revision[:12]}", source, folder, wanted)


def prepare_local_model(model: LocalModel, folder: Path) -> Path:
    """Return the model's own folder or, where the suite changes its prompt or its pad token,
    ``folder`` with the changes.

    Raises:
        CheckpointError: what is asked for does not fit the checkpoint.
    """
    source = Path(model.path).resolve()
    if model.prompt == "chat-template" and model.pad_token is None:
        return Path(model.path)
    if not source.is_dir():
        raise CheckpointError(f"There is no folder {source}; correct the model's path.")
    wanted = content_hash([model.model_dump(mode="json", exclude={"path"}), folder_hash(source)])
    if _hash(folder) == wanted and read_json(folder / "base.json").get("path") == model.path:
        return folder
    return _linked(model, str(source), source, folder, wanted)


def _linked(
    model: HubModel | LocalModel, name: str, source: Path, folder: Path, wanted: str
) -> Path:
    if not list(source.glob("*.safetensors")):
        raise CheckpointError(
            f"{name} has no *.safetensors; other weight formats can run code when loaded and are "
            "refused: take a copy that has them."
        )
    record = {**model.model_dump(mode="json"), "hash": wanted}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for path in {path for pattern in FILES for path in source.glob(pattern)}:
        (temporary / path.name).symlink_to(path.resolve())
    try:
        _adapt(model, name, temporary)
        write_json(temporary / "base.json", record)
        if folder.exists() and read_json(folder / "base.json") != record:
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


def _adapt(model: HubModel | LocalModel, name: str, folder: Path) -> None:
    for needed in ("tokenizer_config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise CheckpointError(
                f"{name} has no {needed}; only models with a fast tokenizer can be used."
            )
    added = settings(folder, "tokenizer.json").get("added_tokens", [])
    tokens = {t["content"]: t["id"] for t in added}
    if model.prompt == "qwen-boxed":
        _take_qwen_boxed(name, folder, tokens)
    else:
        _take_own_template(model.prompt, name, folder)
    _take_pad_token(model.pad_token, name, folder, tokens)


def _take_qwen_boxed(name: str, folder: Path, tokens: dict[str, int]) -> None:
    missing = [end for end in (*_QWEN_ENDS, "<|im_start|>") if end not in tokens]
    if missing:
        raise CheckpointError(
            f"{name}: its vocabulary has no {missing[0]}, which prompt: qwen-boxed needs; set "
            "prompt: chat-template."
        )
    _replace(folder / "chat_template.jinja", QWEN_BOXED)
    generation = settings(folder, "generation_config.json")
    generation["eos_token_id"] = [tokens[end] for end in _QWEN_ENDS]
    _replace(folder / "generation_config.json", json.dumps(generation, indent=2))


def _take_own_template(prompt: str, name: str, folder: Path) -> None:
    path = folder / "chat_template.jinja"
    template = (
        path.read_text("utf-8")
        if path.is_file()
        else settings(folder, "tokenizer_config.json").get("chat_template")
    )
    if not template:
        raise CheckpointError(
            f"{name}: the tokenizer has no chat template; set prompt: qwen-boxed for a Qwen base "
            "model, or take the instruction-tuned one."
        )
    if prompt == "chat-template-no-thinking":
        if _THINKING not in template:
            raise CheckpointError(
                f"{name}: its chat template has no switch {_THINKING}; set prompt: chat-template."
            )
        _replace(path, f"{{%- set {_THINKING} = false %}}{template}")


def _take_pad_token(token: str | None, name: str, folder: Path, tokens: dict[str, int]) -> None:
    known = settings(folder, "tokenizer_config.json")
    if token is not None:
        if token not in tokens:
            raise CheckpointError(
                f"{name}: pad_token '{token}' is not a special token of its vocabulary; name one "
                "that is."
            )
        changed: dict[str, Any] = known | {"pad_token": token}
        _replace(folder / "tokenizer_config.json", json.dumps(changed, indent=2))
    elif known.get("pad_token") is None:
        raise CheckpointError(
            f"{name}: the tokenizer has no pad token; name one of its special tokens as the "
            "model's pad_token in the suite."
        )


def _replace(path: Path, text: str) -> None:
    """Write a file of our own where a link was."""
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
