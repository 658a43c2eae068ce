"""How long the rows of a run can be, in tokens, and how long they are on average.

Of problems that lie on this machine the texts are counted, with the tokenizer of a local model;
else a prompt counts as long.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

from bridge.jobs.needs.shapes import ModelShape
from bridge.plan.grid import RunSpec
from bridge.store.records import canonical_json
from bridge.store.settings import LocalModel
from bridge.tasks.base import OnDisk, ProblemError
from bridge.tasks.registry import load_family

PROMPT_TOKENS = 256
"""A long problem with its chat template; a model of shorter context: a quarter of it."""
MEAN_PROMPT_TOKENS = 128
TEMPLATE_TOKENS = 32
"""What a chat template adds to a question that is counted: roles, marks, a short system turn."""
BYTES_PER_TOKEN = 3
"""Of a text that is counted without its tokenizer; English has about 4."""
MEAN_SHARE = 0.3
"""Mean length of an answer and of a demonstration, as a share of the longest that is allowed."""


@dataclass(frozen=True)
class Rows:
    """Lengths in tokens."""

    prompt: int
    answer: int
    """The longest answer."""
    demonstration: int
    """The longest demonstration."""
    mean_prompt: float
    mean_answer: float
    mean_demonstration: float

    @property
    def longest(self) -> int:
        """The longest row of an update."""
        return self.prompt + max(self.answer, self.demonstration)


def rows_of(spec: RunSpec, shape: ModelShape) -> Rows:
    """The lengths of a run: of its data where that is at hand, else limits of its configuration,
    and of its model's context."""
    context = shape.max_position_embeddings
    counted = _counted_of(spec)
    if counted is not None:
        prompt = min(counted.prompt, context)
        answer = max(1, min(spec.training.max_response_tokens, context - prompt))
        shown = min(counted.demonstration, context - prompt)
        mean_shown = min(counted.mean_demonstration, shown)
        return Rows(prompt, answer, shown, counted.mean_prompt, MEAN_SHARE * answer, mean_shown)
    prompt = min(PROMPT_TOKENS, context // 4)
    answer = min(spec.training.max_response_tokens, context - prompt)
    demonstration = spec.dataset_options.get("max_demonstration_tokens") or answer
    demonstration = min(demonstration, context - prompt)
    mean_prompt = min(MEAN_PROMPT_TOKENS, prompt)
    means = (MEAN_SHARE * answer, MEAN_SHARE * demonstration)
    return Rows(prompt, answer, demonstration, mean_prompt, *means)


@dataclass(frozen=True)
class _Counted:
    """Lengths of texts in tokens."""

    prompt: int
    demonstration: int
    mean_prompt: float
    mean_demonstration: float


def _counted_of(spec: RunSpec) -> _Counted | None:
    if not isinstance(load_family(spec.family), OnDisk):
        return None
    model = spec.model_config
    tokenizer = Path(model.path, "tokenizer.json") if isinstance(model, LocalModel) else None
    return _counted(spec.family, canonical_json(spec.dataset_options), tokenizer)


@cache
def _counted(family_name: str, options_json: str, tokenizer: Path | None) -> _Counted | None:
    """Lengths of all problems of a data set; None where they are not all on this machine."""
    family = load_family(family_name)
    assert isinstance(family, OnDisk)
    try:
        options = family.Options.model_validate(json.loads(options_json))
        problems = family.problems_on_disk(options)
    except ProblemError:  # changed since it was planned; the job will say so
        return None
    if problems is None:
        return None
    prompts = [n + TEMPLATE_TOKENS for n in _lengths([p.question for p in problems], tokenizer)]
    texts = [one.demonstration or "" for p in problems for one in p.demonstrated()]
    shown = _lengths(texts, tokenizer) or [0]
    return _Counted(max(prompts), max(shown), sum(prompts) / len(prompts), sum(shown) / len(shown))


def _lengths(texts: list[str], tokenizer: Path | None) -> list[int]:
    if tokenizer is not None and tokenizer.is_file():
        try:
            from tokenizers import Tokenizer

            coded = Tokenizer.from_file(str(tokenizer)).encode_batch_fast(texts)
            return [len(one) for one in coded]
        except Exception:  # not installed where only plans are made, or a file of another kind
            pass
    return [ceil(len(text.encode()) / BYTES_PER_TOKEN) for text in texts]
