"""``uft``: a hint that fades out, and a likelihood term on the hint (arXiv 2505.16984).

A demonstration is cut into ``n_parts``. The first k of them begin all answers of its prompt,

    k ~ Binomial(n_parts, q(t)),  q from ``q_start`` to ``q_end`` by a cosine over ``hint_steps``,

and k = 0 afterwards.  L = L_RL(own tokens) + beta L_D(hint tokens),  each over its own count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from bridge.methods.base import StepStats
from bridge.methods.own_demonstrations import PromptOptions
from bridge.methods.prefixes import PrefixMethod, step_ends, tokens_before
from bridge.step.rows import Request
from bridge.store.schema import Count, StepsOrZero
from bridge.tasks.base import Problem


class UFT(PrefixMethod):
    """See ``docs/methods/uft.md``."""

    class Options(PromptOptions):
        """Options of ``uft``."""

        n_parts: Count = 5
        hint_steps: StepsOrZero = 300
        """Steps with hints."""
        q_start: float = Field(0.95, ge=0, le=1)
        q_end: float = Field(0.05, ge=0, le=1)
        beta: float = Field(0.001, ge=0)
        """Weight of the hint's likelihood."""

    options: Options
    tuning: ClassVar = {"options.beta": (0.001, 0.01, 0.1)}

    def hint_share(self, step: int) -> float:
        """q(t): expected share of a demonstration that is given."""
        o = self.options
        if step > o.hint_steps:
            return 0.0
        high = (1.0 + math.cos(math.pi * (step - 1) / max(1, o.hint_steps - 1))) / 2.0
        return high * o.q_start + (1.0 - high) * o.q_end

    def parts(self, step: int, place: int) -> int:
        """k of one of the step's prompts."""
        rng, q = self.draws(step, place), self.hint_share(step)
        return sum(rng.random() < q for _ in range(self.options.n_parts))

    def cut(self, problem: Problem, parts: int) -> int:
        """Tokens of the first parts: equal ones, moved to the nearest end of a step."""
        text, tokens = problem.demonstration or "", len(self.demonstration_ids(problem)[:-1])
        wanted = parts * tokens / self.options.n_parts
        ends = tokens_before(self.policy, text, step_ends(text))
        if not ends:
            return math.floor(wanted)
        return min((0, *ends, tokens), key=lambda end: abs(end - wanted))

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        cuts = [self.cut(p, self.parts(step, i)) for i, p in enumerate(problems)]
        return [
            Request(p, self.training.n, self.demonstration_ids(p)[:cut])
            for p, cut in zip(problems, cuts, strict=True)
        ]

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        return 1.0, self.options.beta if stats.tokens["demonstration"] else 0.0


METHOD = UFT
