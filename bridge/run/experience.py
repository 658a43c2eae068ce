"""From prompts to graded groups: requests, rollouts, verdicts, rewards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from bridge.grading import GradeItem
from bridge.grading.verdicts import Verdict
from bridge.machine.telemetry import Stopwatch
from bridge.methods.base import Method
from bridge.models.checkpoint import Policy
from bridge.step.protocols import Engine, Grader
from bridge.step.rollouts import Completion, Prompt
from bridge.step.rows import Group, Request, Row
from bridge.step.trainer import DivergedError
from bridge.store.seeds import derive_seed
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem

MAX_ROUNDS = 4
"""Bound on a method's follow-up rounds within one step."""


class Collector:
    """Draws and grades the rollouts of a run; counts what it spent."""

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        grader: Grader,
        training: TrainingConfig,
        *,
        seed: int,
        stopwatch: Stopwatch,
    ) -> None:
        self.policy = policy
        self.engine = engine
        self.grader = grader
        self.training = training
        self.seed = seed
        self.stopwatch = stopwatch
        self.tokens_generated = 0
        self.tokens_prefilled = 0

    def groups(
        self,
        method: Method,
        problems: Sequence[Problem],
        step: int,
        rl_index: int,
        *,
        draw: Callable[[int], list[Problem]],
        name: str = "rollout",
    ) -> tuple[list[Group], dict[str, float | None]]:
        """Return the step's groups and its rollout statistics.

        Args:
            rl_index: number of the rollout batch; with the problem, the round and the sample it
                names the random stream of each rollout.
            draw: takes further prompts, for methods that ask for more.
            name: of the random streams; another one where the same prompts are answered again.
        """
        groups: list[Group] = []
        entropies: list[float] = []
        verdicts: Counter[Verdict] = Counter()
        requests = method.requests(problems, step)
        for round_ in range(MAX_ROUNDS):
            if not requests:
                break
            new, entropy, words = self._draw(requests, (name, self.seed, rl_index, round_))
            groups += new
            entropies += entropy
            verdicts += words
            requests = method.followup(groups, round_, draw)
        return groups, _statistics(groups, entropies, verdicts)

    def greedy_accuracy(self, problems: Sequence[Problem], *, limit_tokens: int) -> float:
        """Share of problems answered correctly by greedy decoding."""
        prompts = [Prompt(tuple(self.policy.prompt_ids(p.question)), (0,)) for p in problems]
        completions = [
            c[0]
            for c in self.engine.generate(prompts, max_new_tokens=limit_tokens, temperature=0.0)
        ]
        graded = self.grader.grade(
            [self._item(p, c) for p, c in zip(problems, completions, strict=True)]
        )
        return sum(g.verdict == "correct" for g in graded) / len(problems)

    def sampled_reward(self, problems: Sequence[Problem], *, name: str, step: int) -> float:
        """Mean reward of one sample per problem (the J probe)."""
        rewards = [
            row.reward or 0.0
            for group in self.probe_groups(problems, n=1, name=name, step=step)
            for row in group.rows
        ]
        return sum(rewards) / len(problems)

    def probe_groups(
        self, problems: Sequence[Problem], *, n: int, name: str, step: int
    ) -> list[Group]:
        """``n`` graded samples per problem. A measurement: no reward is flipped, nothing counted.

        Args:
            name: of the random streams.
        """
        prompts = [
            Prompt(
                tuple(self.policy.prompt_ids(p.question)),
                tuple(
                    # The first sample is also drawn alone (sampled_reward), so it has no number.
                    derive_seed("probe", name, self.seed, step, p.id, *((k,) if k else ()))
                    for k in range(n)
                ),
            )
            for p in problems
        ]
        drawn = self.engine.generate(
            prompts,
            max_new_tokens=self.training.max_response_tokens,
            temperature=self.training.temperature,
        )
        graded = iter(
            self.grader.grade(
                [self._item(p, c) for p, cs in zip(problems, drawn, strict=True) for c in cs]
            )
        )
        return [
            Group(
                problem,
                tuple(
                    Row(
                        kind="rollout",
                        problem=problem,
                        prompt_ids=prompt.ids,
                        response_ids=completion.ids,
                        reward=self._reward(next(graded).verdict),
                        truncated=completion.truncated,
                        sampled_logprobs=completion.logprobs,
                    )
                    for completion in completions
                ),
            )
            for problem, prompt, completions in zip(problems, prompts, drawn, strict=True)
        ]

    def demonstration_rewards(self, problems: Sequence[Problem]) -> list[float]:
        """Reward that each problem's demonstration earns under the same grader."""
        graded = self.grader.grade(
            [GradeItem(text=p.demonstration or "", gold=p.answer) for p in problems]
        )
        return [self._reward(g.verdict) for g in graded]

    def _draw(
        self, requests: Sequence[Request], stream: tuple[str | int, ...]
    ) -> tuple[list[Group], list[float], Counter[Verdict]]:
        prompt_ids = [tuple(self.policy.prompt_ids(r.problem.question)) for r in requests]
        prompts = [
            Prompt(
                ids + r.prefix_ids,
                tuple(derive_seed(*stream, k, r.problem.id, sample) for sample in range(r.n)),
            )
            for k, (r, ids) in enumerate(zip(requests, prompt_ids, strict=True))
        ]
        with self.stopwatch.stage("sync"):
            self.engine.wake()
        with self.stopwatch.stage("rollout"):
            drawn = self.engine.generate(
                prompts,
                max_new_tokens=self.training.max_response_tokens,
                temperature=self.training.temperature,
            )
        # Such answers are all wrong alike: no advantage, so no loss that could tell.
        if not all(math.isfinite(x) for cs in drawn for c in cs for x in c.logprobs):
            raise DivergedError("the policy samples tokens whose log-probs are not finite")
        self.tokens_prefilled += sum(len(p.ids) for p in prompts)
        self.tokens_generated += sum(len(c.ids) for cs in drawn for c in cs)
        with self.stopwatch.stage("grade"):
            graded = iter(
                self.grader.grade(
                    [
                        self._item(r.problem, c, r.prefix_ids)
                        for r, cs in zip(requests, drawn, strict=True)
                        for c in cs
                    ]
                )
            )
        groups: list[Group] = []
        entropies: list[float] = []
        verdicts: Counter[Verdict] = Counter()
        for prompt, request, ids, completions in zip(
            prompts, requests, prompt_ids, drawn, strict=True
        ):
            rows = []
            for seed, completion in zip(prompt.seeds, completions, strict=True):
                verdict = next(graded).verdict
                verdicts[verdict] += 1
                if completion.entropies is not None:
                    entropies += completion.entropies
                rows.append(
                    Row(
                        kind="hybrid" if request.prefix_ids else "rollout",
                        problem=request.problem,
                        prompt_ids=ids,
                        response_ids=request.prefix_ids + completion.ids,
                        prefix_tokens=len(request.prefix_ids),
                        reward=self._reward(verdict, flipped=self._flipped(seed)),
                        truncated=completion.truncated,
                        sampled_logprobs=completion.logprobs,
                    )
                )
            groups.append(Group(request.problem, tuple(rows)))
        return groups, entropies, verdicts

    def _item(
        self, problem: Problem, completion: Completion, prefix: tuple[int, ...] = ()
    ) -> GradeItem:
        return GradeItem(
            text=self.policy.text([*prefix, *completion.ids]),
            gold=problem.answer,
            truncated=completion.truncated,
        )

    def _reward(self, verdict: Verdict, *, flipped: bool = False) -> float:
        right = (verdict == "correct") != flipped
        return self.training.reward_correct if right else self.training.reward_wrong

    def _flipped(self, seed: int) -> bool:
        """Whether noise turns the reward of the training rollout with this sampling seed."""
        return derive_seed("reward flip", seed) < self.training.reward_flip * 2**63


def _statistics(
    groups: Sequence[Group],
    entropies: Sequence[float],
    verdicts: Counter[Verdict],
) -> dict[str, float | None]:
    rows = [row for group in groups for row in group.rows]
    lengths = [len(row.response_ids) - row.prefix_tokens for row in rows]
    return {
        "reward_mean": sum(row.reward or 0.0 for row in rows) / len(rows),
        "accuracy": verdicts["correct"] / len(rows),
        "response_length_mean": sum(lengths) / len(lengths),
        "response_length_max": max(lengths),
        "truncated_share": sum(row.truncated for row in rows) / len(rows),
        "zero_spread_share": sum(len(set(g.rewards)) == 1 for g in groups) / len(groups),
        "entropy": sum(entropies) / len(entropies) if entropies else None,
        "unparsed_share": verdicts["unparsed"] / len(rows),
        "grader_timeouts": float(verdicts["timeout"]),
    }
