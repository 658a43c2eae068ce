"""Load and save policies as ordinary Hugging Face checkpoints.

Held to on purpose: weights come from safetensors only, no code of a checkpoint is ever run
(``trust_remote_code=False`` at every call: where it is left out, transformers asks), nothing is
fetched from a hub without the user's knowledge.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from bridge.models import CheckpointError as CheckpointError
from bridge.models.folder import check_folder, declared_ends, refuse_code, settings
from bridge.models.prompts import dated, opens_thinking, rendered, turn_end
from bridge.store.records import folder_hash, read_json, writing


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    """Where it was loaded from."""
    end_token_ids: tuple[int, ...]
    """Tokens that end an answer; demonstrations end with the first one."""

    @property
    def pad_token_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def n_parameters(self) -> int:
        """Number of distinct parameters (tied weights once)."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def prompt_opens_thinking(self) -> bool:
        """Whether an answer begins inside a block of thinking that the chat template opened."""
        return opens_thinking(self.tokenizer)

    def prompt(self, question: str) -> str:
        """The chat-templated user turn, up to where the completion begins."""
        return rendered(self.tokenizer, question)

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of :meth:`prompt`."""
        return list(self.tokenizer(self.prompt(question), add_special_tokens=False)["input_ids"])

    def completion_ids(self, completion: str) -> list[int]:
        """Token ids of an assistant turn, end-of-turn token included."""
        ids = list(self.tokenizer(completion, add_special_tokens=False)["input_ids"])
        return [*ids, self.end_token_ids[0]]

    def text(self, ids: list[int]) -> str:
        """Text of generated ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer that the checkpoint says it has; its prompts are the same on every day.

    ``AutoTokenizer`` overrides that for model types on a list of its own (``qwen2`` among them in
    transformers 5) and then rebuilds a generic tokenizer as byte-level BPE: another vocabulary, in
    silence. A checkpoint that names the generic fast class is therefore read by that class.

    Raises:
        CheckpointError: the checkpoint names code of its own, or its prompts cannot be fixed.
    """
    refuse_code(folder)
    loader = PreTrainedTokenizerFast if names_generic_tokenizer(folder) else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several by name; this is the one of plain chats
        template = template.get("default")
    tokenizer.chat_template = None if template is None else dated(template)
    return tokenizer


def names_generic_tokenizer(folder: Path) -> bool:
    """Whether the checkpoint names the fast class that any ``tokenizer.json`` fits."""
    declared = settings(folder, "tokenizer_config.json").get("tokenizer_class")
    return declared in ("TokenizersBackend", "PreTrainedTokenizerFast")


def end_token_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """All tokens that end an answer, in training as in evaluation.

    First the one that the chat template ends a turn with, which is what demonstrations end with;
    then the tokenizer's and those of ``generation_config.json``.

    Raises:
        CheckpointError: there is none, so no answer would ever end.
    """
    named = [turn_end(tokenizer), tokenizer.eos_token_id, *sorted(declared_ends(folder))]
    ends = tuple(dict.fromkeys(int(i) for i in named if i is not None))
    if not ends:
        raise CheckpointError(
            f"{folder}: neither the tokenizer nor generation_config.json names a token that ends "
            "an answer; set the tokenizer's eos_token."
        )
    return ends


def load_policy(
    folder: Path, *, dtype: torch.dtype = torch.float32, with_weights: bool = True
) -> Policy:
    """Load a checkpoint folder.

    Args:
        with_weights: False: the weights are not read but zeros that take no memory, for a process
            that is sent its part of them.

    Raises:
        CheckpointError: missing, not safetensors, damaged, or without what a chat policy needs.
    """
    check_folder(folder)
    hf_logging.disable_progress_bar()
    try:
        model = _load_model(folder, dtype) if with_weights else _unread_model(folder, dtype)
        tokenizer = load_tokenizer(folder)
    except CheckpointError:
        raise
    except Exception as error:
        # Whatever the library makes of a damaged folder, the user needs the folder and the cause.
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder} cannot be loaded ({type(error).__name__}: {cause})."
        ) from error
    if tokenizer.chat_template is None:
        raise CheckpointError(f"{folder}: the tokenizer has no chat template; add one to it.")
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise CheckpointError(f"{folder}: the tokenizer needs an eos_token and a pad_token.")
    if dtype == torch.float64:
        _compute_norms_in_float64(model)
    model.eval()  # No dropout anywhere: the log-probs of sampling and of training must agree.
    return Policy(model, tokenizer, folder, end_token_ids(folder, tokenizer))


def _load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    return model


def _unread_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    from accelerate import init_empty_weights

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):  # buffers are computed, not read
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()  # parameters made there are no longer those that were tied
    return hollow(model, dtype)


def hollow(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model of the same layers whose weights are zeros that take no memory."""
    zero = torch.zeros((), dtype=dtype)
    weights = {id(p): nn.Parameter(zero.expand(p.shape)) for p in model.parameters()}
    return copy.deepcopy(model, weights)


def _compute_norms_in_float64(model: nn.Module) -> None:
    """Replace the library's norms, which compute in float32 whatever the weights are in: float64 is
    for comparisons that rounding must not blur."""

    def forward(norm: Any, x: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        scaled: Tensor = norm.weight * (x * torch.rsqrt(variance + norm.variance_epsilon))
        return scaled

    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = MethodType(forward, module)


def weights_hash(folder: Path) -> str:
    """Name the weights of a checkpoint folder.

    The hash that a prepared base model was recorded with: of its files without that record, which
    holds seconds and would make equal models differ. Of the folder's files where there is none.
    """
    record = folder / "base.json"
    return str(read_json(record)["hash"]) if record.is_file() else folder_hash(folder)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights of a model in place; buffers stay, for the frequencies of rotary positions
    would be wrong by whole turns in bfloat16."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """:func:`bridge.store.records.writing` for safetensors, with one sentence for a full disk.

    Raises:
        RecordError: disk full, quota used up or folder not writable.
    """
    with writing(path):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), str(error)) from error


def save_policy(policy: Policy, folder: Path) -> None:
    """Write a checkpoint that :func:`load_policy` and any Hugging Face tool can read, and whose
    answers end at the same tokens there."""
    hf_logging.disable_progress_bar()
    if set(policy.end_token_ids) != set(declared_ends(policy.folder)):
        assert policy.model.generation_config is not None, "a causal language model generates"
        policy.model.generation_config.eos_token_id = list(policy.end_token_ids)
    with writing_tensors(folder):
        policy.model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
