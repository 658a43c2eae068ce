"""Rollouts that begin with a part of the problem's demonstration: what such methods share.

A hybrid row is one row: its given tokens belong to the demonstration term, its sampled ones to the
RL term. A cut is a number of the demonstration's tokens; the last of them ends the turn.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.methods.base import StepStats, refuse
from bridge.methods.one_count import check_one_count, common_count
from bridge.methods.own_demonstrations import PromptMethod
from bridge.step.rows import Group
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from bridge.models.checkpoint import Policy

_STEP_ENDS = (r"\n+", r" ;", r"\. ")
"""What ends a step of a demonstration; the first that occurs in it counts."""


def step_pattern(text: str) -> str:
    """What ends the steps of a text."""
    inside = (p for p in _STEP_ENDS if any(m.end() < len(text) for m in re.finditer(p, text)))
    return next(inside, _STEP_ENDS[0])


def step_ends(text: str) -> list[int]:
    """Where the steps of a text end, in characters; the end of the text is not among them."""
    ends = (m.end() for m in re.finditer(step_pattern(text), text))
    return [end for end in ends if end < len(text)]


def tokens_before(policy: Policy, text: str, ends: Sequence[int]) -> list[int]:
    """Number of a completion's tokens that begin before each of these characters."""
    encoded = policy.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    return [bisect_left(begins, end) for end in ends]


class PrefixMethod(PromptMethod):
    """Joint steps on rollouts, some of which begin with a part of their demonstration."""

    gives_prefixes = True

    def demonstration_ids(self, problem: Problem) -> tuple[int, ...]:
        """Tokens of the problem's demonstration and its end of turn; none where it has none."""
        if problem.demonstration is None:
            return ()
        return tuple(self.policy.completion_ids(problem.demonstration))

    def draws(self, step: int, place: int) -> random.Random:
        """Own random numbers for one of the step's prompts."""
        return random.Random(derive_seed(type(self).__name__, self.seed, step, place))


class OneCountPrefixes(PrefixMethod):
    """Given and sampled tokens stand over one count, whichever term they belong to."""

    def check(self, where: str) -> None:
        check_one_count(where, self.training)
        if self.training.loss_agg_mode == "seq-mean-token-mean":
            raise refuse(
                where,
                "loss_agg_mode seq-mean-token-mean divides by a row's length, but a row with a "
                "prefix has tokens of two terms; take another mode.",
            )

    def mix(self, step: int, stats: StepStats) -> tuple[float, float]:
        return common_count(self.training, stats, rows=sum(len(g.rows) for g in stats.groups))


def joined(groups: Sequence[Group]) -> Group:
    """One group of all the rows that a prompt got under several requests."""
    return Group(groups[0].problem, tuple(row for group in groups for row in group.rows))
