"""One epoch of SFT on demonstrations of their own lengths, here and by TRL with packing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.grpo import LEARNING_RATE
from bridge.models.checkpoint import load_policy
from bridge.step.batches import StepBatch
from bridge.step.rows import Phase, Row
from bridge.step.trainer import Trainer
from bridge.step.weights import BASE, WholeWeights
from bridge.store.settings import TrainingConfig
from bridge.tasks.registry import load_family

ROWS, ROWS_PER_STEP = 64, 16
"""TRL packs as many tokens into a step as ours has on average."""


def sft_pair(folder: Path, output: str) -> tuple[tuple[Callable[[], Any], Callable[[], Any]], int]:
    """Our epoch and TRL's, and the tokens of both."""
    policy = load_policy(folder)
    family = load_family("chains")
    rows = [
        Row(
            "demonstration",
            problem,
            tuple(policy.prompt_ids(problem.question)),
            tuple(policy.completion_ids(problem.demonstration)),
        )
        for problem in family.dataset(family.Options()).train
        if problem.demonstration is not None
    ][:ROWS]
    tokens = sum(len(p) + len(r) for p, r in (row.pair for row in rows))
    return (_ours(folder, rows), _theirs(folder, rows, tokens, output)), tokens


def _ours(folder: Path, rows: list[Row]) -> Callable[[], None]:
    training = TrainingConfig(
        max_response_tokens=72, sft_batch_size=ROWS_PER_STEP, lr_sft=LEARNING_RATE,
        lr_rl=LEARNING_RATE, probe_every=10, probe_size=8, checkpoint_every=10, max_grad_norm=1e9,
    )  # fmt: skip
    trainer = Trainer(WholeWeights(load_policy(folder)), training)

    def epoch() -> None:
        for begin in range(0, len(rows), ROWS_PER_STEP):
            trainer.begin_step()
            batch = StepBatch(tuple(rows[begin : begin + ROWS_PER_STEP]))
            gradient = trainer.gradient("demonstration", batch).gradient.take(BASE)
            trainer.descend(BASE, gradient, Phase("sft"))

    return epoch


def _theirs(folder: Path, rows: list[Row], tokens: int, output: str) -> Callable[[], None]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    policy = load_policy(folder)
    steps = -(-len(rows) // ROWS_PER_STEP)
    arguments = SFTConfig(
        output_dir=output, use_cpu=True, bf16=False, report_to=[], learning_rate=LEARNING_RATE,
        per_device_train_batch_size=1, packing=True, max_length=-(-tokens // steps),
        gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = [
        {
            "input_ids": [*row.prompt_ids, *row.response_ids],
            "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.response_ids),
        }
        for row in rows
    ]
    trainer = SFTTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list(data),
        processing_class=policy.tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=LEARNING_RATE)
    batches = list(trainer.get_train_dataloader())
    packed = sum(batch["input_ids"].numel() for batch in batches)
    if packed != tokens:
        raise SystemExit(f"TRL packed {packed} tokens of {tokens}; the epochs are not the same.")

    def epoch() -> None:
        for batch in batches:
            policy.model.zero_grad()
            trainer.training_step(policy.model, dict(batch), torch.tensor(1.0) * tokens)
            torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1e9)
            optimizer.step()

    return epoch
