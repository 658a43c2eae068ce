"""How long do a rollout, an update and a whole GRPO step take, beside TRL and transformers?

    python -m pip install --no-deps trl==1.16.0
    python -m benchmarks.against_trl POLICY --write benchmarks/against_trl.json

POLICY is a checkpoint folder of a tiny model, such as ``results/laptop/models/tiny-llama`` (not
``tiny-qwen``: TRL looks for experts in its architecture). First both trainers take the loss and the
gradient of one batch, which must agree; then everything is timed by turns in one process, on the
same weights, prompts and settings. Answers end where the policy ends them (``natural``), or never
before the limit (``forced``). Rewards are a sum of ids, so no grading is in any time. CPU seconds:
the medians, and the median of the ratios by turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from benchmarks.processor import processor
from bridge.engines.native import NativeEngine
from bridge.machine.provenance import versions
from bridge.models.checkpoint import Policy, load_policy
from bridge.step.batches import StepBatch
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rollouts import Completion, Prompt
from bridge.step.rows import Phase, Row
from bridge.step.trainer import Trainer
from bridge.step.weights import BASE, WholeWeights
from bridge.store.settings import TrainingConfig
from bridge.tasks.registry import load_family

PROMPTS, SAMPLES = 8, 8
AGREEMENT = 1e-5


class Ours:
    """One GRPO step from the parts that a run uses."""

    def __init__(self, folder: Path, limit: int, *, forced: bool) -> None:
        self.policy = load_policy(folder)
        self.limit = limit
        self.engine = NativeEngine(
            self.policy.model,
            end_token_ids=() if forced else self.policy.end_token_ids,
            pad_token_id=self.policy.pad_token_id,
        )
        training = TrainingConfig(
            prompts_per_step=PROMPTS, n=SAMPLES, max_response_tokens=limit, sft_batch_size=16,
            lr_sft=1e-12, lr_rl=1e-12, probe_every=10, probe_size=8, checkpoint_every=10,
            max_grad_norm=1e9,
        )  # fmt: skip
        self.trainer = Trainer(WholeWeights(self.policy), training)
        family = load_family("chains")
        self.problems = family.dataset(family.Options()).train[:PROMPTS]
        self.turn = 0

    def rollout(self) -> list[list[Completion]]:
        self.turn += 1
        first = self.turn * PROMPTS * SAMPLES
        prompts = [
            Prompt(
                tuple(self.policy.prompt_ids(p.question)),
                tuple(range(first + i * SAMPLES, first + (i + 1) * SAMPLES)),
            )
            for i, p in enumerate(self.problems)
        ]
        return self.engine.generate(prompts, max_new_tokens=self.limit, temperature=1.0)

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
        gradient = self.trainer.gradient("rl", batch).gradient.take("base")
        self.trainer.descend("base", gradient, Phase("rl"))

    def step(self) -> None:
        self.update(self.batch(self.rollout()))


def reward_of(ids: Sequence[int]) -> float:
    """Something that differs within a group and costs nothing."""
    return float(sum(ids) % 7)


class Theirs:
    """TRL's trainer with the same settings, and generate of transformers."""

    def __init__(self, ours: Ours, folder: Path, output: str, *, forced: bool) -> None:
        self.policy: Policy = load_policy(folder)
        self.limit, self.forced = ours.limit, forced
        more = {"min_new_tokens": ours.limit} if forced else {}
        arguments = GRPOConfig(
            output_dir=output, use_cpu=True, bf16=False, report_to=[], learning_rate=1e-12,
            per_device_train_batch_size=PROMPTS * SAMPLES, num_generations=SAMPLES,
            max_completion_length=ours.limit, temperature=1.0, top_k=0, beta=0.0,
            loss_type="bnpo", gradient_checkpointing=False, generation_kwargs=more,
            save_strategy="no", disable_tqdm=True, logging_steps=1000,
        )  # fmt: skip
        self.prompts = [self.policy.prompt(p.question) for p in ours.problems]
        self.trainer = GRPOTrainer(
            model=self.policy.model,
            reward_funcs=lambda completion_ids, **_: [reward_of(ids) for ids in completion_ids],
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": self.prompts}),
            processing_class=self.policy.tokenizer,
        )
        self.trainer.current_gradient_accumulation_steps = 1
        self.optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=1e-12)

    def rollout(self) -> Tensor:
        rows = [
            self.policy.tokenizer(p, add_special_tokens=False)["input_ids"] for p in self.prompts
        ]
        longest, pad = max(map(len, rows)), self.policy.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(r)) + r for r in rows])
        return self.policy.model.generate(
            ids.repeat_interleave(SAMPLES, 0),
            attention_mask=(ids != pad).long().repeat_interleave(SAMPLES, 0),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.limit,
            min_new_tokens=self.limit if self.forced else None,
        )

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
        rows = [{"prompt": p} for p in self.prompts for _ in range(SAMPLES)]
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


def by_turns(pair: tuple[Callable[[], Any], Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of ours and theirs; the first round of each is thrown away."""
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            begin = time.process_time()
            pair[which]()
            seconds[which].append(time.process_time() - begin)
    mine, other = (s[1:] for s in seconds)
    return {
        "ours_s": round(statistics.median(mine), 4),
        "theirs_s": round(statistics.median(other), 4),
        "ratio": round(statistics.median(b / a for a, b in zip(mine, other, strict=True)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("policy", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    measured: dict[str, Any] = {
        "processor": processor(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "versions": versions("trl"),
    }
    for name, forced, limit in (("natural", False, 72), ("forced", True, 64)):
        with tempfile.TemporaryDirectory() as output:
            ours = Ours(arguments.policy, limit, forced=forced)
            theirs = Theirs(ours, arguments.policy, output, forced=forced)
            batch = ours.batch(ours.rollout())
            measured[name] = {
                "answer_tokens": statistics.mean(len(row.response_ids) for row in batch.rows),
                "apart": check_agreement(ours, theirs, batch),
            }
            pairs = {
                "rollout": (ours.rollout, theirs.rollout),
                "update": (
                    lambda o=ours, b=batch: o.update(b),
                    lambda t=theirs, b=batch: t.update(b),
                ),
                "step": (ours.step, theirs.step),
            }
            for what, pair in pairs.items():
                measured[name][what] = by_turns(pair, arguments.rounds)
    text = json.dumps(measured, indent=2) + "\n"
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
