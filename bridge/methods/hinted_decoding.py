"""``hinted_decoding``: SFT on demonstrations that the model has rewritten in its own words
(arXiv 2602.12222), then RL if wanted.

Before the run the base model answers each demonstrated problem once. It is sampled from two prompts
together, one of which shows the demonstration (:mod:`bridge.methods.rewriting`):

    m_t ~ p_t^(1 - l_t) q_t^l_t,    l_t = clip(beta H(p_t) / log V, 0, 1)

so that it follows the demonstration where that leaves no choice and its own habits elsewhere. What
the verifier accepts takes the demonstrations' place; all else is ``cold_start``.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bridge.grading.verdicts import GradeItem
from bridge.methods.cold_start import ColdStart
from bridge.methods.hints import TEMPLATE, check_length, check_template, hinted_prompt
from bridge.step.rows import Group, Row, demonstration_row
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.trainer import Trainer
    from bridge.store.records import RunFolder
    from bridge.tasks.base import Dataset


class HintedDecoding(ColdStart):
    """See ``docs/methods/hinted_decoding.md``."""

    class Options(ColdStart.Options):
        """Options of ``hinted_decoding``."""

        beta: float = Field(3.0, ge=0)
        """How soon an open choice is left to the plain prompt; 0: never."""
        temperature: float = Field(0.3, gt=0)
        top_p: float = Field(0.95, gt=0, le=1)
        """Mass of the likeliest tokens that a rewrite is drawn from."""
        teacher_template: str = TEMPLATE
        """Question of the prompt that shows the demonstration."""
        verify: bool = True
        """Whether a rewrite must earn the full reward; otherwise it only has to end by itself."""

    options: Options
    tuning: ClassVar = {"options.beta": (1.0, 3.0, 10.0)}
    kept_share = 0.0
    """Of the rewrites."""

    def check(self, where: str) -> None:
        super().check(where)
        check_template(self.options.teacher_template, where)

    def before_run(self, trainer: Trainer, dataset: Dataset, folder: RunFolder) -> None:
        from bridge.methods.precomputed import identity_of, precomputed  # torch

        pool, o, limit = dataset.demonstrations, self.options, self.training.max_response_tokens
        if not pool:
            return  # the first SFT step refuses such a data set
        prompts = [self._prompts(problem) for problem in pool]
        rule = f"rewrites {o.beta} {o.temperature} {o.top_p} {limit} {o.teacher_template}"
        found = precomputed(
            folder.columns(),
            identity_of(trainer.policy.sampler, pool, rule),
            trainer.ranks,
            lambda: self._rewritten(trainer, pool, prompts),
        )
        rewrites = {name: tuple(ids.tolist()) for name, ids in found.items()}
        for problem, both in zip(pool, prompts, strict=True):
            trainer.tokens_scored += sum(map(len, both)) + 2 * len(rewrites[problem.id])
        self._learn(pool, rewrites)

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        taught = [self.taught[row.problem.id] for row in demonstrations]
        return super().rows(groups, taught, step)

    def scalars(self) -> dict[str, float]:
        return {"rewrites_kept_share": self.kept_share}

    def _prompts(self, problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
        shown, template = problem.demonstration or "", self.options.teacher_template
        hinted = hinted_prompt(self.policy, template, problem, shown)
        check_length(self.policy, problem, hinted, self.training.max_response_tokens)
        return hinted, tuple(self.policy.prompt_ids(problem.question))

    def _rewritten(
        self,
        trainer: Trainer,
        pool: Sequence[Problem],
        prompts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    ) -> dict[str, Tensor]:
        import torch

        from bridge.methods.rewriting import Mixture, rewrite

        o, ranks = self.options, trainer.ranks
        mixture, limit = Mixture(o.beta, o.temperature, o.top_p), self.training.max_response_tokens
        # Like a data set: the same for all seeds of the suite.
        seeds = [derive_seed("rewrite", problem.id) for problem in pool]
        with trainer.policy.whole_model():
            mine = ranks.share(prompts), ranks.share(seeds)
            answers = ranks.join(rewrite(trainer.policy.sampler, *mine, mixture, limit))
        return {p.id: torch.tensor(ids) for p, ids in zip(pool, answers, strict=True)}

    def _learn(self, pool: Sequence[Problem], rewrites: Mapping[str, tuple[int, ...]]) -> None:
        """Put a row that is learnt in the place of each demonstration."""
        worth = self._worth(pool, rewrites)
        kept = [problem for problem, good in zip(pool, worth, strict=True) if good]
        if not kept:
            raise ProblemError(
                f"none of the {len(pool)} rewritten demonstrations is right, so nothing could be "
                "learnt; change beta or teacher_template, or set verify to false."
            )
        self.kept_share = len(kept) / len(pool)
        # In the place of one that is not kept another stands: steps stay as large as in SFT.
        shuffled = random.Random(derive_seed("rewrites", self.seed)).sample(kept, len(kept))
        others = itertools.cycle(shuffled)
        chosen = {p.id: p if good else next(others) for p, good in zip(pool, worth, strict=True)}
        self.taught = {
            name: replace(demonstration_row(self.policy, p), response_ids=rewrites[p.id])
            for name, p in chosen.items()
        }

    def _worth(
        self, pool: Sequence[Problem], rewrites: Mapping[str, tuple[int, ...]]
    ) -> list[bool]:
        """Whether each rewrite is kept."""
        ended = [rewrites[p.id][-1] in self.policy.end_token_ids for p in pool]
        if not self.options.verify:
            return ended
        thinking = self.policy.prompt_opens_thinking
        texts = [self.policy.text(list(rewrites[p.id])) for p in pool]
        graded = self.grader.grade(
            [
                GradeItem(text, p.answer, not whole, thinking, p.question)
                for text, p, whole in zip(texts, pool, ended, strict=True)
            ]
        )
        return [g.worth == 1.0 and whole for g, whole in zip(graded, ended, strict=True)]


METHOD = HintedDecoding
