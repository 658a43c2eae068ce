"""``srl``: RL on single steps of a demonstration, rewarded by likeness (arXiv 2510.25992).

A demonstration of N steps makes N - 1 prompts: the question and its first k - 1 steps. The policy
writes the next one, and its reward is the likeness of the two texts, 2 M / T of their characters (M
matched, T in both together). There is no likelihood term. ``steps`` of these are followed by
``rl_steps`` of plain RL.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import ClassVar

from pydantic import Field

from bridge.methods.own_demonstrations import PromptOptions
from bridge.methods.prefixes import PrefixMethod, step_ends, step_pattern, tokens_before
from bridge.step.rows import Group, Phase, Request, Row
from bridge.store.schema import StepsOrZero
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem

_MONOLOGUE = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class _Task:
    """What the policy is to write next."""

    step: str
    pattern: str
    """What ends a step."""


class SRL(PrefixMethod):
    """See ``docs/methods/srl.md``."""

    class Options(PromptOptions):
        """Options of ``srl``."""

        rl_steps: StepsOrZero
        """Steps of plain RL afterwards."""
        filter_eps: float = Field(1e-3, ge=0)
        """Groups whose rewards have a smaller standard deviation are dropped."""
        monologue: bool = False
        """The answer begins with ``<think> ... </think>``, which is not scored."""
        bad_format: float = -1.0
        """Reward of an answer without a step in it."""
        demonstrated_share: float = Field(1.0, ge=0, le=1)

    options: Options
    tuning: ClassVar = {"options.filter_eps": (0.0, 0.001, 0.05)}

    def __init__(self, options: Options, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self._tasks: list[_Task | None] = []
        """Of the step's requests, between :meth:`requests` and :meth:`regroup`."""

    @property
    def n_steps(self) -> int:
        return self.options.steps + self.options.rl_steps

    def phase(self, step: int) -> Phase:
        return Phase("rl", "srl" if self._is_first(step) else "rlvr")

    def demonstrated_prompts(self, step: int) -> int:
        return super().demonstrated_prompts(step) if self._is_first(step) else 0

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        self._tasks, out = [], []
        for place, problem in enumerate(problems):
            text = problem.demonstration or ""
            ends = step_ends(text) if self._is_first(step) else []
            if not ends:  # nothing to split: plain RL on it
                self._tasks.append(None)
                out.append(Request(problem, self.training.n))
                continue
            k = self.draws(step, place).randrange(len(ends))
            begin = ends[k - 1] if k else 0
            self._tasks.append(_Task(text[begin : ends[k]], step_pattern(text)))
            (given,) = tokens_before(self.policy, text, [begin])
            out.append(Request(problem, self.training.n, self.demonstration_ids(problem)[:given]))
        return out

    def regroup(self, groups: list[Group]) -> list[Group]:
        return [
            group
            if task is None
            else replace(group, rows=tuple(self._judged(row, task) for row in group.rows))
            for group, task in zip(groups, self._tasks, strict=True)
        ]

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        eps = self.options.filter_eps if self._is_first(step) else 0.0
        kept = [group for group in groups if statistics.pstdev(group.rewards) >= eps]
        return super().rows(kept, (), step)

    def mix(self, step: int, stats: object) -> tuple[float, float]:
        return 1.0, 0.0

    def _is_first(self, step: int) -> bool:
        return step <= self.options.steps

    def _judged(self, row: Row, task: _Task) -> Row:
        """The row up to the end of its step, with the reward of that step."""
        own = list(row.response_ids[row.prefix_tokens :])
        text = self.policy.text(own)
        told = _MONOLOGUE.match(text)
        if self.options.monologue and told is None:
            return replace(row, reward=self.options.bad_format)
        begin = told.end() if self.options.monologue and told is not None else 0
        found = re.compile(task.pattern).search(text, begin)
        end = found.end() if found is not None else len(text)
        action, wanted = text[begin:end].strip(), task.step.strip()
        if not action:
            return replace(row, reward=self.options.bad_format)
        likeness = SequenceMatcher(None, action, wanted, autojunk=False).ratio()
        kept = len(own) if found is None else self._tokens_of(own, end)
        return replace(
            row,
            reward=likeness,
            response_ids=row.response_ids[: row.prefix_tokens + kept],
            sampled_logprobs=row.sampled_logprobs[:kept],
            truncated=row.truncated and kept == len(own),
        )

    def _tokens_of(self, ids: list[int], end: int) -> int:
        """Fewest leading tokens whose text has ``end`` characters, by bisection."""
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self.policy.text(ids[:middle])) >= end:
                high = middle
            else:
                low = middle + 1
        return low


METHOD = SRL
