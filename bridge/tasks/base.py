"""What a dataset is: problems with a gold answer, demonstrations, benchmarks.

A family is one file in this folder that defines ``FAMILY``, an object with the methods of
:class:`Family`. Synthetic families also yield a pre-training corpus for the tiny base models; real
datasets do not.

Splits never share a question. Synthetic families get that by construction
(:mod:`bridge.tasks.synthetic.splits`); :func:`check_disjoint` checks it for every family.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

MOST_ID_CHARS = 200
MOST_CHARS = 1_000_000
"""Of a question, an answer or a demonstration."""


class ProblemError(ValueError):
    """A problem that cannot be used; the message names the set, the id and the remedy."""


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer."""

    id: str
    question: str
    """What the user turn of the chat template holds."""
    answer: str
    """Gold final answer, what ``\\boxed{}`` should contain."""
    difficulty: int
    """Number of reasoning steps (synthetic families) or the level of the origin (real ones)."""
    demonstration: str | None = None
    """Expert completion (assistant turn), or None where no expert wrote one."""
    more_demonstrations: tuple[str, ...] = ()
    """Further completions of the same question."""

    @property
    def content(self) -> tuple[str | None, ...]:
        """What a record of the training data is hashed from."""
        shown = (self.demonstration, *self.more_demonstrations)
        return (self.id, self.question, self.answer, *shown)

    def demonstrated(self) -> Iterator[Problem]:
        """The problem once with each of its demonstrations; the first time under its own id."""
        if self.demonstration is not None:
            yield self
        for number, text in enumerate(self.more_demonstrations, 2):
            yield replace(self, id=f"{self.id}#{number}", demonstration=text)


@dataclass(frozen=True)
class Coverage:
    """What became of the training problems; the four counts below ``prompts`` are disjoint."""

    prompts: int
    demonstrated: int
    unmatched: int
    """No source has this problem."""
    wrong: int
    """Completions exist and are short enough, but none of them earns the reward."""
    too_long: int
    """Completions exist, but all exceed the token limit."""
    by_source: Mapping[str, int]

    def __str__(self) -> str:
        sources = ", ".join(f"{n} from {name}" for name, n in self.by_source.items()) or "none"
        return (
            f"{self.demonstrated} of {self.prompts} prompts have a demonstration ({sources}); "
            f"{self.unmatched} unmatched, {self.wrong} wrong, {self.too_long} too long"
        )


@dataclass(frozen=True)
class Dataset:
    """The training side of a family: prompts for RL, demonstrations for SFT, validation prompts."""

    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    coverage: Coverage | None = None
    """Where demonstrations were matched to prompts: how many were found, and why not the others."""

    @cached_property
    def demonstrations(self) -> tuple[Problem, ...]:
        """Training problems that carry a demonstration; one that carries several stands here as
        often."""
        return tuple(one for p in self.train for one in p.demonstrated())

    @property
    def demonstrated(self) -> dict[str, Any]:
        """How many training prompts have a demonstration and, where they were matched, why not all;
        JSON values."""
        if self.coverage is not None:
            return asdict(self.coverage)
        shown = sum(p.demonstration is not None for p in self.train)
        return {"prompts": len(self.train), "demonstrated": shown}


class Family(Protocol):
    """One dataset family, see the module docstring."""

    name: str
    Options: type[BaseModel]
    answer_tokens: int
    """Longest answer, and number of sampled answers, where lm-eval's own command line asks the
    questions; a suite says both by itself."""
    n_samples: int

    def check(self, options: BaseModel, where: str) -> None:
        """Refuse, when a suite is planned, what cannot be read later: a file that is not there.

        Raises:
            ConfigError: one sentence that begins with ``where``.
        """
        ...

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        """Names of the benchmarks, from the easiest to the hardest; a family whose benchmarks are
        the user's names none without options."""
        ...

    def dataset(self, options: BaseModel) -> Dataset:
        """Training and validation problems."""
        ...

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        """The questions of one benchmark."""
        ...


@runtime_checkable
class WithOwnGolds(Protocol):
    """A family whose gold answers are the user's."""

    def check_golds(self, name: str, problems: Sequence[Problem]) -> None:
        """Refuse a gold answer that the grader cannot read.

        Raises:
            ProblemError: naming the set and the problem.
        """
        ...


@runtime_checkable
class OnDisk(Protocol):
    """A family whose problems may all lie on this machine, so that planning can look at them."""

    def problems_on_disk(self, options: BaseModel) -> tuple[Problem, ...] | None:
        """All problems; None where some would have to be fetched."""
        ...


class SyntheticFamily(Family, Protocol):
    """A family that can also pre-train a base model from scratch."""

    def vocabulary(self) -> tuple[str, ...]:
        """All words that a question or a completion of this family can hold."""
        ...

    def pretraining(
        self, rng: random.Random, *, habit: bool, world: int = 0
    ) -> Iterator[tuple[str, str]]:
        """Endless stream of (question, completion); with ``habit`` mostly immediate guesses. Other
        facts are misconceived in each ``world``."""
        ...


def check_problems(name: str, problems: Sequence[Problem]) -> None:
    """Refuse an empty set, empty questions, empty golds and duplicate ids.

    Raises:
        ProblemError: naming the set, the id and what is wrong.
    """
    if not problems:
        raise ProblemError(f"{name}: the set is empty; give it at least one problem.")
    seen: set[str] = set()
    for problem in problems:
        shown = problem.id[:MOST_ID_CHARS]
        if not problem.question.strip():
            raise ProblemError(f"{name}: problem '{shown}' has an empty question; remove it.")
        if not problem.answer.strip():
            raise ProblemError(
                f"{name}: problem '{shown}' has an empty gold answer, which no grader can "
                "verify; give it an answer or remove it."
            )
        if problem.id in seen:
            raise ProblemError(f"{name}: the id '{shown}' occurs twice; ids must be unique.")
        seen.add(problem.id)


def check_storable(name: str, problem: Problem) -> None:
    """Refuse what a tokenizer, a table or a file cannot hold. Published sets, whose content is
    pinned, are left as they are.

    Raises:
        ProblemError: naming the set, the id and what is wrong.
    """
    shown = repr(problem.id[:MOST_ID_CHARS])
    if len(problem.id) > MOST_ID_CHARS or not problem.id.isprintable():
        raise ProblemError(
            f"{name}: problem {shown} needs an id of 1 to {MOST_ID_CHARS} printable characters; "
            "rename it."
        )
    texts = {
        "question": problem.question,
        "answer": problem.answer,
        "demonstration": "".join((problem.demonstration or "", *problem.more_demonstrations)),
    }
    for part, text in texts.items():
        if len(text) > MOST_CHARS:
            raise ProblemError(
                f"{name}: problem {shown} has a {part} of {len(text):,} characters, over "
                f"{MOST_CHARS:,}; shorten it."
            )
        for character in text:
            if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t\r":
                raise ProblemError(
                    f"{name}: problem {shown} has the character U+{ord(character):04X} in its "
                    f"{part}, which neither tokenizers nor tables keep; take it out."
                )


def check_disjoint(
    train_name: str, train: Iterable[Problem], test_name: str, test: Iterable[Problem]
) -> None:
    """Refuse a test question that a training set holds, in whatever spacing, case or form.

    Raises:
        ProblemError: naming both sets and both ids.
    """
    known = {canonical(p.question): p.id for p in train}
    for problem in test:
        if (twin := known.get(canonical(problem.question))) is not None:
            raise ProblemError(
                f"{test_name}: question '{problem.id}' is also question '{twin}' of "
                f"{train_name}; remove one of them, or name the benchmark in the suite's "
                "train_on_benchmarks."
            )


def canonical(text: str) -> str:
    """Equal for copies of a text that differ in case, white space, normal form (NFKC) or
    characters without a width."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", kept).split())
