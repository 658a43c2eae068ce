r"""``cola``: is a sentence acceptable English? 8,551 to train on, 1,043 to test; labels 0 and 1.

For the coupling study (``docs/studies/coupling.md``, reading B2): the strict verifier wants the
label in a box, ``\boxed{1}``; the lenient yardstick takes the last label of the text
(:mod:`bridge.grading.lenient`). The demonstration is the label alone, in the verifier's format or,
with ``target: bare``, without the box. GLUE hides its test labels, so its validation set is the
benchmark here, and what is held out for the probes is drawn from the training set.

The last ``warm_up_size`` sentences may teach a base model the form of an answer (``part:
warm_up``), and no run trains on those.

Left out of training: sentences of the benchmark, and all but the first of equal sentences (case and
spacing aside), whose copies may have another label.
"""

from __future__ import annotations

import functools
from typing import Literal

from pydantic import BaseModel, Field

from bridge.store.schema import Count, CountOrZero, Seed
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.real.prompts import ACCEPTABLE
from bridge.tasks.real.sources import (
    LONG_ANSWER_TOKENS,
    MANY_SAMPLES,
    DataOptions,
    Item,
    check_files,
    load_set,
)

BENCHMARK = "cola_validation"
LABELS = ("0", "1")


class ColaOptions(DataOptions):
    """Options of the ``cola`` family."""

    part: Literal["train", "warm_up"] = "train"
    """What is trained on: all but the sentences of the warm-up, or those."""
    warm_up_size: CountOrZero = 0
    target: Literal["box", "bare"] = "box"
    """Format of the demonstrations."""
    label_noise: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a demonstration's label is the other one, in training and held out alike."""
    validation_size: Count = 500
    """Sentences of the training set that are held out for the probes."""
    seed: Seed = 0
    """Of the held-out draw and of the noise."""


class Cola:
    """The ``cola`` family, see the module docstring."""

    name = "cola"
    Options = ColaOptions

    answer_tokens = LONG_ANSWER_TOKENS
    n_samples = MANY_SAMPLES

    def check(self, options: BaseModel, where: str) -> None:
        assert isinstance(options, ColaOptions)
        check_files(("cola_train", "cola_validation"), options, where)

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        return (BENCHMARK,)

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, ColaOptions)
        return _dataset(options)

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, ColaOptions)
        return tuple(_problem(item, None) for item in _items(name, options))


@functools.cache
def _dataset(options: ColaOptions) -> Dataset:
    known = {_text(item) for item in _items(BENCHMARK, options)}
    kept: list[Item] = []
    for item in _items("cola_train", options):
        if _text(item) not in known:
            known.add(_text(item))
            kept.append(item)
    if options.validation_size + options.warm_up_size >= len(kept):
        raise ProblemError(
            f"cola: only {len(kept)} sentences can be trained on; lower the option validation_size "
            f"({options.validation_size}) or warm_up_size ({options.warm_up_size})."
        )
    # By a hash of seed and sentence: free of order, and the same sentences whatever the size.
    kept.sort(key=lambda item: derive_seed("held out", options.seed, _text(item)))
    problems = tuple(_problem(item, options) for item in kept)
    held_out, rest = problems[: options.validation_size], problems[options.validation_size :]
    trained = len(rest) - options.warm_up_size
    return Dataset(rest[:trained] if options.part == "train" else rest[trained:], held_out)


def _items(name: str, options: ColaOptions) -> tuple[Item, ...]:
    items = load_set(name, options).items
    for item in items:
        if item.answer not in LABELS:
            raise ProblemError(
                f"{name}: sentence '{item.id}' has the label '{item.answer}', not 0 or 1; GLUE's "
                "test set has hidden labels and cannot be used."
            )
    return items


def _problem(item: Item, options: ColaOptions | None) -> Problem:
    return Problem(
        id=item.id,
        question=item.problem + ACCEPTABLE,
        answer=item.answer,
        difficulty=item.difficulty,
        demonstration=None if options is None else _demonstration(item, options),
    )


def _demonstration(item: Item, options: ColaOptions) -> str:
    draw = derive_seed("label noise", options.seed, item.id)
    wrong = draw % 10**6 < options.label_noise * 10**6
    label = LABELS[1 - LABELS.index(item.answer)] if wrong else item.answer
    return f"\\boxed{{{label}}}" if options.target == "box" else label


def _text(item: Item) -> str:
    return " ".join(item.problem.lower().split())


FAMILY = Cola()
