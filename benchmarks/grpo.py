"""A GRPO step of this harness and the same step of TRL, on the same weights and prompts.

Rewards are a sum of ids, so no grading is in any time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.engines.native import NativeEngine
from bridge.models.checkpoint import Policy, load_policy
from bridge.step.batches import StepBatch
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rollouts import Completion, Prompt
from bridge.step.rows import Phase, Row
from bridge.step.trainer import Trainer
from bridge.step.weights import BASE, WholeWeights
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem

AGREEMENT = 1e-5
LEARNING_RATE = 1e-12
"""Nothing moves, so every repetition does the same work."""
NO_TRL = (
    "TRL is not installed, so nothing stands beside our numbers; "
    "`python -m pip install --no-deps --target .cache/trl trl==1.16.0` adds it."
)


def has_trl() -> bool:
    """Whether TRL can be imported; it is in none of our locks."""
    return find_spec("trl") is not None


class Ours:
    """One GRPO step from the parts that a run uses.

    Args:
        samples: answers to each problem.
        limit: tokens of an answer at most; with ``forced`` all answers have that many.
    """

    def __init__(
        self, folder: Path, problems: Sequence[Problem], samples: int, limit: int, *, forced: bool
    ) -> None:
        self.policy = load_policy(folder)
        self.problems, self.samples, self.limit = problems, samples, limit
        self.engine = NativeEngine(
            self.policy.model,
            end_token_ids=() if forced else self.policy.end_token_ids,
            pad_token_id=self.policy.pad_token_id,
        )
        training = TrainingConfig(
            prompts_per_step=len(problems), n=samples, max_response_tokens=limit,
            sft_batch_size=16, lr_sft=LEARNING_RATE, lr_rl=LEARNING_RATE, probe_every=10,
            probe_size=8, checkpoint_every=10, max_grad_norm=1e9,
        )  # fmt: skip
        self.trainer = Trainer(WholeWeights(self.policy), training)
        self.turn = 0

    def prompts(self) -> list[Prompt]:
        """The prompts with new seeds."""
        self.turn += 1
        first = self.turn * len(self.problems) * self.samples
        return [
            Prompt(
                tuple(self.policy.prompt_ids(p.question)),
                tuple(range(first + i * self.samples, first + (i + 1) * self.samples)),
            )
            for i, p in enumerate(self.problems)
        ]

    def rollout(self) -> list[list[Completion]]:
        return self.engine.generate(self.prompts(), max_new_tokens=self.limit, temperature=1.0)

    def batch(self, drawn: list[list[Completion]]) -> StepBatch:
        rows = []
        for problem, completions in zip(self.problems, drawn, strict=True):
            prompt = tuple(self.policy.prompt_ids(problem.question))
            rewards = [reward_of(c.ids) for c in completions]
            advantages = group_advantages(rewards, norm_by_std=True)
            rows += [
                Row("rollout", problem, prompt, c.ids, advantage=a, sampled_logprobs=c.logprobs)
                for c, a in zip(completions, advantages, strict=True)
            ]
        return StepBatch(tuple(rows))

    def update(self, batch: StepBatch) -> None:
        self.trainer.begin_step()
        gradient = self.trainer.gradient("rl", batch).gradient.take(BASE)
        self.trainer.descend(BASE, gradient, Phase("rl"))

    def step(self) -> None:
        self.update(self.batch(self.rollout()))


def reward_of(ids: Sequence[int]) -> float:
    """Something that differs within a group and costs nothing."""
    return float(sum(ids) % 7)


class Library:
    """The same checkpoint and prompts, sampled by generate of transformers."""

    def __init__(self, ours: Ours, folder: Path, *, forced: bool) -> None:
        self.policy: Policy = load_policy(folder)
        self.limit, self.forced, self.samples = ours.limit, forced, ours.samples
        self.prompts = [self.policy.prompt(p.question) for p in ours.problems]

    def rollout(self) -> Tensor:
        rows = [
            self.policy.tokenizer(p, add_special_tokens=False)["input_ids"] for p in self.prompts
        ]
        longest, pad = max(map(len, rows)), self.policy.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(r)) + r for r in rows])
        return self.policy.model.generate(
            ids.repeat_interleave(self.samples, 0),
            attention_mask=(ids != pad).long().repeat_interleave(self.samples, 0),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.limit,
            min_new_tokens=self.limit if self.forced else None,
        )


class Theirs(Library):
    """TRL's trainer with the same settings."""

    def __init__(self, ours: Ours, folder: Path, output: str, *, forced: bool) -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        super().__init__(ours, folder, forced=forced)
        more = {"min_new_tokens": ours.limit} if forced else {}
        arguments = GRPOConfig(
            output_dir=output, use_cpu=True, bf16=False, report_to=[], learning_rate=LEARNING_RATE,
            per_device_train_batch_size=len(ours.problems) * ours.samples,
            num_generations=ours.samples, max_completion_length=ours.limit, temperature=1.0,
            top_k=0, beta=0.0, loss_type="bnpo", gradient_checkpointing=False,
            generation_kwargs=more, save_strategy="no", disable_tqdm=True, logging_steps=1000,
        )  # fmt: skip
        self.trainer = GRPOTrainer(
            model=self.policy.model,
            reward_funcs=lambda completion_ids, **_: [reward_of(ids) for ids in completion_ids],
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": self.prompts}),
            processing_class=self.policy.tokenizer,
        )
        self.trainer.current_gradient_accumulation_steps = 1
        self.optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=LEARNING_RATE)

    def inputs(self, batch: StepBatch) -> dict[str, Tensor]:
        """The batch as TRL lays it out: prompts padded on the left, answers on the right."""
        pad, rows = self.policy.pad_token_id, batch.rows
        p, r = (max(len(x) for x in xs) for xs in zip(*(row.pair for row in rows), strict=True))
        left = [[0] * (p - len(row.prompt_ids)) + [1] * len(row.prompt_ids) for row in rows]
        right = [[1] * len(row.response_ids) + [0] * (r - len(row.response_ids)) for row in rows]
        prompts = [[pad] * (p - len(row.prompt_ids)) + [*row.prompt_ids] for row in rows]
        answers = [[*row.response_ids] + [pad] * (r - len(row.response_ids)) for row in rows]
        return {
            "prompt_ids": torch.tensor(prompts), "prompt_mask": torch.tensor(left),
            "completion_ids": torch.tensor(answers), "completion_mask": torch.tensor(right),
            "advantages": torch.tensor([row.advantage for row in rows]),
            "num_items_in_batch": torch.tensor(float(sum(map(sum, right)))),
        }  # fmt: skip

    def gradient(self, batch: StepBatch) -> tuple[float, Tensor]:
        self.policy.model.zero_grad()
        self.policy.model.train()
        loss = self.trainer._compute_loss(self.policy.model, self.inputs(batch))
        loss.backward()
        parts = [p.grad.reshape(-1) for p in self.policy.model.parameters()]
        return loss.item(), torch.cat(parts)

    def update(self, batch: StepBatch) -> None:
        self.gradient(batch)
        torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), 1e9)
        self.optimizer.step()

    def step(self) -> None:
        rows = [{"prompt": p} for p in self.prompts for _ in range(self.samples)]
        self.trainer._buffered_inputs = None
        self.trainer._step = 0
        self.policy.model.zero_grad()
        self.trainer.training_step(self.policy.model, rows, None)
        torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), 1e9)
        self.optimizer.step()


def check_agreement(ours: Ours, theirs: Theirs, batch: StepBatch) -> dict[str, float]:
    """Differences of loss and gradient, relative to the mean size of an advantage and the norm.

    Raises:
        SystemExit: one is above :data:`AGREEMENT`.
    """
    ours.trainer.begin_step()
    found = ours.trainer.gradient("rl", batch)
    loss, gradient = theirs.gradient(batch)
    mine = found.gradient.flat[BASE]
    size = statistics.mean(abs(row.advantage) for row in batch.rows)
    apart = {
        "loss": abs(found.loss - loss) / size,
        "gradient": float((mine - gradient).norm() / gradient.norm()),
    }
    if max(apart.values()) > AGREEMENT:
        raise SystemExit(f"the two trainers do not compute the same: {apart}")
    return apart


def set_up_torch(threads: int = 1) -> None:
    """The settings of a training run."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def totals_of(batch: StepBatch) -> dict[str, Any]:
    """Rows and mean lengths of a batch."""
    return {
        "rows": len(batch.rows),
        "prompt_tokens": statistics.mean(len(row.prompt_ids) for row in batch.rows),
        "answer_tokens": statistics.mean(len(row.response_ids) for row in batch.rows),
    }
