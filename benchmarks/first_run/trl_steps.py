"""GRPO steps of TRL on a checkpoint, with the settings of benchmarks/gpu_check.py; as JSON.

    python -m benchmarks.first_run.trl_steps CHECKPOINT OUT.json [--small]

Rewards are a sum of ids, as in benchmarks/against_trl.py, so no grading is in any time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.gpu_check import STEPS
from bridge.machine.provenance import device_name, versions
from bridge.machine.telemetry import host_memory_gib
from bridge.models.checkpoint import load_policy
from bridge.store.records import write_json
from bridge.tasks.registry import load_family

PROMPTS, SAMPLES = 8, 4


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begin = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(round(time.monotonic() - self._begin, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true", help="sizes for a processor")
    arguments = parser.parse_args()
    policy = load_policy(arguments.checkpoint)
    family = load_family("chains")
    options = family.Options.model_validate({"train_size": 32, "validation_size": 8})
    asked = [policy.prompt(p.question) for p in family.dataset(options).train[:PROMPTS]]
    gpu, clock, drawn = torch.cuda.is_available(), Clock(), [0]

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        drawn[0] += sum(map(len, completion_ids))
        return [float(sum(ids) % 7) for ids in completion_ids]

    with tempfile.TemporaryDirectory() as output:
        settings = GRPOConfig(
            output_dir=output, use_cpu=not gpu, bf16=gpu, report_to=[], learning_rate=1e-6,
            per_device_train_batch_size=PROMPTS * SAMPLES, num_generations=SAMPLES,
            max_completion_length=8 if arguments.small else 256, temperature=1.0, top_k=0,
            beta=0.01, loss_type="bnpo", gradient_checkpointing=gpu, max_steps=STEPS,
            save_strategy="no", disable_tqdm=True, logging_steps=1000,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=policy.model,
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": asked}),
            processing_class=policy.tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
    write_json(
        arguments.out,
        {
            "device": device_name(),
            "versions": versions("trl"),
            "seconds_by_step": clock.seconds,
            "tokens_generated": drawn[0],
            "memory_gib": {"allocated": peak, "host": host_memory_gib()},
        },
    )


if __name__ == "__main__":
    main()
