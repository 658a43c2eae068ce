"""Tiny base models, trained from scratch and saved as ordinary Hugging Face checkpoints.

Two architectures of a few hundred thousand parameters share one word-level tokenizer. What comes
out is loaded like any other checkpoint (safetensors, fast tokenizer, chat template, generation
config), by any tool, so nothing downstream knows that it is tiny.

Left out on purpose: everything a real pre-training has and this world does not need (dropout,
weight decay on a schedule, mixed precision).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from bridge.models.muon import Muon
from bridge.store.seeds import derive_seed

Architecture = Literal["qwen2", "llama"]

USER, ASSISTANT, END, PAD, UNKNOWN = (
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|pad|>",
    "<|unknown|>",
)
_ROWS_AT_ONCE = 8
"""Rows of a forward pass of pre-training."""
_SPECIAL = (PAD, UNKNOWN, USER, ASSISTANT, END)

# One user turn, one assistant turn; the generation prompt ends where the completion begins.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|> {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}<|assistant|> {{ message['content'] }} <|end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(words: Sequence[str], *, context_tokens: int) -> PreTrainedTokenizerFast:
    """Return a word-level fast tokenizer whose decoded text is the words joined by blanks."""
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys((*_SPECIAL, *words)))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=context_tokens,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(
    architecture: Architecture,
    *,
    tokenizer: PreTrainedTokenizerFast,
    hidden: int,
    layers: int,
    heads: int,
    context_tokens: int,
    seed: int,
) -> PreTrainedModel:
    """Return a randomly initialised model in float32."""
    torch.manual_seed(seed)
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": context_tokens,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "qwen2":
        # Qwen2-MoE with dense layers only is Qwen2, weight for weight. Beside the plain name
        # transformers rebuilds every tokenizer as Qwen's own byte-level BPE, silently.
        dense = {"num_experts": 0, "mlp_only_layers": list(range(layers))}
        model: PreTrainedModel = Qwen2MoeForCausalLM(Qwen2MoeConfig(**shared, **dense))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shared))
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=context_tokens // 2,
    )
    return model


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    skills: Sequence[Iterator[tuple[str, str]]],
    habits: Sequence[Iterator[tuple[str, str]]],
    *,
    steps: int,
    habit_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Teach the families' single steps, then the bad habit of guessing; loss on completions only.

    The hidden matrices are trained by Muon, the rest by AdamW: on this world Muon reaches the loss
    in 300 steps that AdamW alone does not reach in 600 (``LOG.md``).

    Args:
        skills, habits: one endless (question, completion) stream per family each; ``steps`` batches
            of the first kind are followed by ``habit_steps`` of the second.
        on_step: called with (step, loss) after each step, for progress.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    rng = random.Random(derive_seed("pretrain-mixture", seed))
    hidden_matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(hidden_matrices, lr=learning_rate, weight_decay=0.01)
    adamw = torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    total, warmup = steps + habit_steps, max(1, steps // 12)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in (muon, adamw)]
    model.train()
    for step in range(1, total + 1):
        pairs = [next(rng.choice(skills if step <= steps else habits)) for _ in range(batch_size)]
        model.zero_grad(set_to_none=True)
        loss = _backward(model, tokenizer, pairs)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"pre-training loss is {loss} at step {step}; lower its learning_rate."
            )
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip((muon, adamw), schedules, strict=True):
            optimizer.step()
            schedule.step()
        if on_step is not None:
            on_step(step, loss)


def _backward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]
) -> float:
    """Backward pass of the mean loss per completion token, which is returned.

    Rows of like length run together: of one batch of all rows half would be padding.
    """
    rows = [
        (tokenizer(f"{USER} {q} {ASSISTANT}")["input_ids"], tokenizer(f"{a} {END}")["input_ids"])
        for q, a in pairs
    ]
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    n_targets, total = sum(len(answer) for _, answer in rows), 0.0
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        ids, labels = _batch(rows[begin : begin + _ROWS_AT_ONCE], tokenizer.pad_token_id)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        chosen = labels[:, 1:] != -100
        # The output layer runs on completion positions only: most positions are prompt or padding.
        loss = torch.nn.functional.cross_entropy(
            model.lm_head(hidden[chosen]), labels[:, 1:][chosen], reduction="sum"
        )
        (loss / n_targets).backward()
        total += loss.item() / n_targets
    return total


def _batch(
    rows: Sequence[tuple[list[int], list[int]]], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels of (prompt ids, answer ids); -100 marks what carries no loss.
    Causal attention needs no mask: padding comes after everything that is looked at."""
    length = max(len(p) + len(a) for p, a in rows)
    ids = torch.full((len(rows), length), pad_token_id, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


def save_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary checkpoint: safetensors, tokenizer, chat template, generation config."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
