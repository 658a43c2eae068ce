"""What training texts and evaluation questions of a suite have in common, as rows of a table.

Three measures per pair of sets, from strict to loose:

- exact: the same text up to case and white space. Training refuses this.
- renamed: the same text once single letters are numbered in order of appearance, so that
  ``x + y = 3`` and ``a + b = 3`` are twins.
- 8-gram: a run of eight words or signs that also stands in a training text. Problems made from one
  pattern share many of them without sharing a question, so the mean share stands beside the count.

An instruction that follows every question of a family is taken off first.

Pure text, no model code. Left out: what a base model saw in pre-training; of real base models
nobody outside knows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from bridge.plan.grid import Plan
from bridge.store.records import canonical_json
from bridge.tasks.base import Problem
from bridge.tasks.real.prompts import posed
from bridge.tasks.registry import load_family

N = 8
_TOKEN = re.compile(r"\w+|[^\w\s]")

Row = dict[str, Any]


def contamination_rows(plan: Plan) -> list[Row]:
    """One row per data set, training set and evaluation set, in the order of the suite's grid.

    Columns: suite, dataset, training_set (prompts, demonstrations), benchmark (the family's, and
    ``validation``), n_training, n_questions, n_exact, n_renamed, n_overlapping (questions with at
    least one 8-gram), overlap (mean share of a question's 8-grams, a fraction).

    Raises:
        ProblemError: a data set cannot be read.
    """
    return [
        {"suite": plan.name, "dataset": name} | row
        for name, (family, options) in _datasets(plan).items()
        for row in _family_rows(family, canonical_json(options))
    ]


@cache
def _family_rows(name: str, options_json: str) -> tuple[Row, ...]:
    family = load_family(name)
    options = family.Options.model_validate(json.loads(options_json))
    dataset = family.dataset(options)
    evaluation = {b: family.benchmark(b, options) for b in family.benchmark_names(options)}
    evaluation["validation"] = dataset.validation
    shown = dataset.demonstrations
    training = {
        "prompts": (dataset.train, [posed(p.question) for p in dataset.train]),
        "demonstrations": (shown, [f"{posed(p.question)} {p.demonstration}" for p in shown]),
    }
    return tuple(
        {"training_set": training_set, "benchmark": benchmark, "n_training": len(texts)}
        | seen.shared(problems)
        for training_set, (members, texts) in training.items()
        if texts
        for seen in [_Seen((posed(p.question) for p in members), texts)]
        for benchmark, problems in evaluation.items()
    )


def normalised(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def renamed(text: str) -> str:
    """Normalised, with each single letter replaced by its number in order of appearance."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"#{len(numbers)}")

    return re.sub(r"\b[^\W\d_]\b", number, normalised(text))


def ngrams(text: str, n: int = N) -> Iterator[tuple[str, ...]]:
    """All runs of ``n`` words or signs; a text with fewer is one run of its own length."""
    tokens = _TOKEN.findall(text.lower())
    for start in range(max(len(tokens) - n, 0) + 1):
        yield tuple(tokens[start : start + n])


class _Seen:
    """What a training set holds."""

    def __init__(self, questions: Iterable[str], texts: Iterable[str]) -> None:
        questions = list(questions)
        self.exact = set(map(normalised, questions))
        self.renamed = set(map(renamed, questions))
        self.ngrams = {gram for text in texts for gram in ngrams(text)}

    def shared(self, problems: Iterable[Problem]) -> Row:
        """Counts over the questions of one evaluation set."""
        questions = [posed(problem.question) for problem in problems]
        shares = []
        for question in questions:
            own = list(ngrams(question))
            shares.append(sum(gram in self.ngrams for gram in own) / len(own))
        return {
            "n_questions": len(questions),
            "n_exact": sum(normalised(q) in self.exact for q in questions),
            "n_renamed": sum(renamed(q) in self.renamed for q in questions),
            "n_overlapping": sum(share > 0 for share in shares),
            "overlap": sum(shares) / len(shares) if shares else 0.0,
        }


def _datasets(plan: Plan) -> Mapping[str, tuple[str, dict[str, Any]]]:
    return {spec.dataset: (spec.family, spec.dataset_options) for spec in plan.runs}
