"""From prompts to graded groups: requests, rollouts, verdicts, rewards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from bridge.grading import GradeItem
from bridge.grading.verdicts import Graded, Verdict
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
        self.limit_tokens = training.max_response_tokens
        """Of a rollout, at the step that is being made."""
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
        if self.training.response_token_stages:
            self.limit_tokens = self.training.response_limit(step / method.n_steps)
        for round_ in range(MAX_ROUNDS):
            if not requests:
                break
            new, entropy, words = self._draw(requests, (name, self.seed, rl_index, round_))
            groups += new
            entropies += entropy
            verdicts += words
            requests = method.followup(groups, round_, draw)
        self.limit_tokens = self.training.max_response_tokens
        groups = method.regroup(groups)
        return groups, _statistics(groups, entropies, verdicts)

    def greedy_verdicts(self, problems: Sequence[Problem], *, limit_tokens: int) -> list[Verdict]:
        """Verdict on the greedy answer to each problem."""
        prompts = [Prompt(tuple(self.policy.prompt_ids(p.question)), (0,)) for p in problems]
        completions = [
            c[0]
            for c in self.engine.generate(prompts, max_new_tokens=limit_tokens, temperature=0.0)
        ]
        graded = self.grader.grade(
            [self._item(p, c) for p, c in zip(problems, completions, strict=True)]
        )
        return [g.verdict for g in graded]

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
        seeds = [
            # The first sample is also drawn alone (sampled_reward), so it has no number.
            tuple(
                derive_seed("probe", name, self.seed, step, p.id, *((k,) if k else ()))
                for k in range(n)
            )
            for p in problems
        ]
        requests = [Request(p, n) for p in problems]
        prompts, drawn = self._generate(requests, seeds)
        graded = self._grade(requests, drawn)
        return self._groups(requests, prompts, drawn, graded, flips=False)

    def demonstration_rewards(self, problems: Sequence[Problem]) -> list[float]:
        """Reward that each problem's demonstration earns under the same grader."""
        thinking = self.policy.prompt_opens_thinking
        items = [
            GradeItem(p.demonstration or "", p.answer, False, thinking, p.question)
            for p in problems
        ]
        return [self._reward(graded) for graded in self.grader.grade(items)]

    def _draw(
        self, requests: Sequence[Request], stream: tuple[str | int, ...]
    ) -> tuple[list[Group], list[float], Counter[Verdict]]:
        seeds = [
            tuple(derive_seed(*stream, k, r.problem.id, sample) for sample in range(r.n))
            for k, r in enumerate(requests)
        ]
        with self.stopwatch.stage("sync"):
            self.engine.wake()
        with self.stopwatch.stage("rollout"):
            prompts, drawn = self._generate(requests, seeds)
        # Such answers are all wrong alike: no advantage, so no loss that could tell.
        if not all(math.isfinite(x) for cs in drawn for c in cs for x in c.logprobs):
            raise DivergedError("the policy samples tokens whose log-probs are not finite")
        self.tokens_prefilled += sum(
            len(p.ids) for p, cs in zip(prompts, drawn, strict=True) if cs[0].ids
        )
        self.tokens_generated += sum(len(c.ids) for cs in drawn for c in cs)
        with self.stopwatch.stage("grade"):
            graded = self._grade(requests, drawn)
        entropies = [e for cs in drawn for c in cs for e in c.entropies or ()]
        return (
            self._groups(requests, prompts, drawn, graded, flips=True),
            entropies,
            Counter(g.verdict for g in graded),
        )

    def _generate(
        self, requests: Sequence[Request], seeds: Sequence[tuple[int, ...]]
    ) -> tuple[list[Prompt], list[list[Completion]]]:
        prompts = [
            Prompt(tuple(self.policy.prompt_ids(r.problem.question)) + r.prefix_ids, s)
            for r, s in zip(requests, seeds, strict=True)
        ]
        # A whole demonstration ends with its end of turn: there is nothing left to sample.
        ends = self.policy.end_token_ids
        whole = [r.prefix_ids != () and r.prefix_ids[-1] in ends for r in requests]
        asked = [p for p, given in zip(prompts, whole, strict=True) if not given]
        length, temperature = self.limit_tokens, self.training.temperature
        drawn: list[list[Completion]] = []
        if asked:
            drawn = self.engine.generate(asked, max_new_tokens=length, temperature=temperature)
        left, nothing = iter(drawn), Completion((), (), (), truncated=False)
        return prompts, [
            [nothing] * r.n if given else next(left)
            for r, given in zip(requests, whole, strict=True)
        ]

    def _grade(
        self, requests: Sequence[Request], drawn: Sequence[Sequence[Completion]]
    ) -> list[Graded]:
        items = [
            self._item(r.problem, c, r.prefix_ids)
            for r, completions in zip(requests, drawn, strict=True)
            for c in completions
        ]
        return self.grader.grade(items)

    def _groups(
        self,
        requests: Sequence[Request],
        prompts: Sequence[Prompt],
        drawn: Sequence[Sequence[Completion]],
        graded: Sequence[Graded],
        *,
        flips: bool,
    ) -> list[Group]:
        left = iter(graded)
        groups = []
        for request, prompt, completions in zip(requests, prompts, drawn, strict=True):
            given = len(request.prefix_ids)
            rows = [
                Row(
                    kind="hybrid" if given else "rollout",
                    problem=request.problem,
                    prompt_ids=prompt.ids[: len(prompt.ids) - given],
                    response_ids=request.prefix_ids + completion.ids,
                    prefix_tokens=given,
                    reward=self._reward(next(left), flipped=flips and self._flipped(seed)),
                    truncated=completion.truncated,
                    sampled_logprobs=completion.logprobs,
                )
                for seed, completion in zip(prompt.seeds, completions, strict=True)
            ]
            groups.append(Group(request.problem, tuple(rows)))
        return groups

    def _item(
        self, problem: Problem, completion: Completion, prefix: tuple[int, ...] = ()
    ) -> GradeItem:
        return GradeItem(
            text=self.policy.text([*prefix, *completion.ids]),
            gold=problem.answer,
            truncated=completion.truncated,
            thinking=self.policy.prompt_opens_thinking,
            question=problem.question,
        )

    def _reward(self, graded: Graded, *, flipped: bool = False) -> float:
        return self.training.reward(1 - graded.worth if flipped else graded.worth)

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
