"""Both objectives of a finished policy on the coupling study's probes, and answers to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bridge.engines.native import NativeEngine
from bridge.grading.labels import matthews
from bridge.grading.lenient import last_number_is
from bridge.grading.pool import GraderPool
from bridge.machine.telemetry import Stopwatch
from bridge.methods.base import Method
from bridge.models.checkpoint import Policy
from bridge.run.experience import Collector
from bridge.step.batches import StepBatch
from bridge.step.rows import Row, demonstration_row
from bridge.step.scoring import sequence_logprobs
from bridge.step.trainer import Trainer
from bridge.step.weights import WholeWeights
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem
from studies.coupling.arms import check_same_scores
from studies.coupling.tabular import Array


@dataclass(frozen=True)
class Answers:
    """Sampled answers of one policy, temperature 1."""

    rows: tuple[tuple[Row, ...], ...]
    """[prompts][samples]"""
    reward: Array
    """[prompts, samples] by the strict verifier."""
    lenient: Array
    """[prompts, samples]: 1 where the last number of the text is the gold answer."""
    positive: Array
    """[prompts] of bool: whether the gold answer is 1."""
    log_own: Array
    """[prompts, samples], log-prob of the whole answer under the policy itself, nats."""


def sample(
    policy: Policy,
    problems: Sequence[Problem],
    training: TrainingConfig,
    grader: GraderPool,
    *,
    n: int,
    seed: int,
) -> Answers:
    """Draw and grade ``n`` answers per problem, as the trainer does, without reward noise."""
    settings = training.model_copy(update={"n": n, "reward_flip": 0.0, "temperature": 1.0})
    engine = NativeEngine(
        policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
    )
    collector = Collector(policy, engine, grader, settings, seed=seed, stopwatch=Stopwatch())
    method = Method(Method.Options(), settings, seed)
    groups, _ = collector.groups(method, problems, 0, 0, draw=lambda n: [], name="coupling")
    rows = tuple(group.rows for group in groups)
    return Answers(
        rows=rows,
        reward=np.array([[row.reward for row in group] for group in rows], dtype=np.float64),
        lenient=np.array(
            [
                [last_number_is(policy.text(list(r.response_ids)), r.problem.answer) for r in group]
                for group in rows
            ],
            dtype=np.float64,
        ),
        positive=np.array([problem.answer == "1" for problem in problems]),
        log_own=log_of(policy, rows),
    )


def label_correlation(answers: Answers) -> float:
    """Matthews correlation of the lenient labels; not a number where a gold or a label is missing.

    For problems whose only gold answers are 0 and 1.
    """
    n = answers.lenient.shape[1]
    found = matthews(
        [bool(p) for p in answers.positive for _ in range(n)],
        [bool(right) for right in answers.lenient.ravel()],
    )
    return float("nan") if found is None else found


def log_of(policy: Policy, rows: Sequence[Sequence[Row]]) -> Array:
    """[prompts, samples]: log-probs of whole answers under a policy, nats."""
    # Short answers are few: an answer that is drawn again is not scored again.
    flat = [(row.prompt_ids, row.response_ids) for group in rows for row in group]
    distinct = list(dict.fromkeys(flat))
    known = dict(zip(distinct, sequence_logprobs(policy, distinct), strict=True))
    return np.array([known[one] for one in flat]).reshape(len(rows), -1)


def demonstration_losses(policy: Policy, problems: Sequence[Problem]) -> Array:
    """[problems]: L of each demonstration, nats per sequence, end-of-turn token included."""
    rows = [demonstration_row(policy, problem) for problem in problems]
    return -np.array(sequence_logprobs(policy, [(r.prompt_ids, r.response_ids) for r in rows]))


def check_phases_agree(
    name: str, policy: Policy, problems: Sequence[Problem], training: TrainingConfig
) -> None:
    """Score the same demonstrations by the code of an SFT step and by that of an RL step.

    Raises:
        CouplingError: they differ by more than 1e-6 nats per token.
    """
    taught = [demonstration_row(policy, problem) for problem in problems]
    drawn = [
        replace(
            row,
            kind="rollout",
            prompt_ids=tuple(policy.prompt_ids(row.problem.question)),
            advantage=1.0,
            sampled_logprobs=(0.0,) * len(row.response_ids),
        )
        for row in taught
    ]
    settings = training.model_copy(update={"kl_coef": 0.0})
    trainer = Trainer(WholeWeights(policy), settings)
    sft = trainer.gradient("demonstration", StepBatch(tuple(taught))).logprobs
    rl = trainer.gradient("rl", StepBatch(tuple(drawn))).logprobs
    check_same_scores(
        name,
        [value for i in range(len(taught)) for value in sft[i].tolist()],
        [value for i in range(len(drawn)) for value in rl[i].tolist()],
    )


def policy_path(done: dict[str, object], folder: Path) -> Path:
    """Where a finished run's policy lies."""
    return (folder / str(done["policy"])).resolve()
