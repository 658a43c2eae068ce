"""Splits of the synthetic families: a question's canonical text alone decides where it belongs.

So training, validation, test and pre-training share no question by construction, whatever the sizes
and seeds. What counts as the same question is the family's canonical text: wording and names that
change nothing are left out of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from pydantic import Field

from bridge.store.schema import Closed, Count, CountOrZero, Seed
from bridge.store.seeds import bucket, derive_seed
from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.synthetic.habits import Alter, Writer, exact, slipping

Split = Literal["pretrain", "train", "validation", "test"]

# Shares of the question space in percent, in this order. Pre-training sees most of it: what is
# under study is what fine-tuning adds, on questions that no earlier stage has shown.
_SPLIT_SHARES: tuple[tuple[Split, int], ...] = (
    ("pretrain", 60),
    ("train", 20),
    ("validation", 5),
    ("test", 15),
)

_MAX_DRAWS = 100_000
"""Draws in search of one new question; more means that there is none left."""


class SyntheticOptions(Closed):
    """Options that all synthetic families share."""

    seed: Seed = 0
    """Seed of the questions; runs with other training seeds share the questions."""
    world: int = Field(0, ge=0, le=1000)
    """Draws training and validation problems and the expert's slips anew; the benchmarks stay."""
    train_size: Count = 1024
    """Number of RL prompts."""
    validation_size: Count = 128
    demonstrations: CountOrZero = 128
    """How many of the training prompts carry a demonstration."""
    slip: float = Field(0.10, ge=0.0, le=1.0)
    """Probability that the expert gets one computed number wrong."""
    questions_per_rung: Count | None = None
    """Questions of each benchmark, so that all weigh the same; None: the sizes of real ones."""
    questions_scale: float = Field(1.0, gt=0.0, le=1.0)
    """Share of each benchmark's questions that is used (smoke tests)."""
    demonstration_max_steps: int
    """Longest problem that has a demonstration; families say how long it can be."""


@dataclass(frozen=True)
class Rung:
    """What a benchmark asks."""

    steps: tuple[int, ...]
    """Numbers of steps of its questions, which take turns."""
    worded: bool
    questions: int


class Question(Protocol):
    """What a synthetic family draws."""

    @property
    def steps(self) -> int:
        """Difficulty."""
        ...

    @property
    def answer(self) -> int | str:
        """Gold answer."""
        ...

    def canonical(self) -> str:
        """The text that decides the split."""
        ...

    def question(self, *, worded: bool) -> str:
        """The text that the model reads."""
        ...

    def reasoning(self, write: Writer = exact) -> str:
        """A solution step by step, computed by ``write``."""
        ...


Q = TypeVar("Q", bound=Question)
Draw = Callable[[random.Random, int], Q]
"""(random numbers, steps) -> a question of that many steps."""


def split_of(canonical: str) -> Split:
    """Return the split a question belongs to, from its canonical text alone."""
    position = bucket(canonical, n_buckets=100)
    for split, share in _SPLIT_SHARES:
        if position < share:
            return split
        position -= share
    raise AssertionError("the split shares add up to 100")


def build_dataset(
    family: str,
    options: SyntheticOptions,
    draw: Draw[Q],
    *,
    steps: Sequence[int],
    alter: Alter,
    split: Split = "train",
) -> Dataset:
    """Draw training and validation problems whose numbers of steps go round ``steps``.

    The first ``options.demonstrations`` training problems of at most
    ``options.demonstration_max_steps`` carry a demonstration by an expert who slips; validation
    problems carry one without slips.

    Args:
        split: that the training problems come from.

    Raises:
        ProblemError: the family has no more different questions.
    """
    seen: set[str] = set()
    world = [options.world] if options.world else []  # world 0 is as it was before there were more

    def drawn(split: Split, n: int) -> list[Q]:
        rng = random.Random(derive_seed(family, split, options.seed, *world))
        return [_draw_in(family, draw, rng, steps[i % len(steps)], split, seen) for i in range(n)]

    train = drawn(split, options.train_size)
    limit = options.demonstration_max_steps
    easy = [i for i, question in enumerate(train) if question.steps <= limit]
    shown = set(easy[: options.demonstrations])
    expert = slipping(
        random.Random(derive_seed(family, "expert", options.seed, *world)), options.slip, alter
    )
    return Dataset(
        tuple(
            _problem(split, i, q, demonstration=q.reasoning(expert) if i in shown else None)
            for i, q in enumerate(train)
        ),
        tuple(
            _problem("validation", i, q, demonstration=q.reasoning())
            for i, q in enumerate(drawn("validation", options.validation_size))
        ),
    )


def build_benchmark(
    family: str,
    name: str,
    options: SyntheticOptions,
    draw: Draw[Q],
    rung: Rung,
) -> tuple[Problem, ...]:
    """Draw the test questions of a benchmark, their number scaled by ``questions_scale``.

    Raises:
        ProblemError: the family has no more different questions.
    """
    rng = random.Random(derive_seed(family, name, options.seed))
    seen: set[str] = set()
    asked = options.questions_per_rung or rung.questions
    return tuple(
        _problem(
            name,
            i,
            _draw_in(family, draw, rng, rung.steps[i % len(rung.steps)], "test", seen),
            worded=rung.worded,
        )
        for i in range(max(1, round(asked * options.questions_scale)))
    )


def _draw_in(
    family: str, draw: Draw[Q], rng: random.Random, steps: int, split: Split, seen: set[str]
) -> Q:
    """Draw until a new question of the wanted split comes up."""
    for _ in range(_MAX_DRAWS):
        question = draw(rng, steps)
        text = question.canonical()
        if text not in seen and split_of(text) == split:
            seen.add(text)
            return question
    raise ProblemError(
        f"{family}: there are no more different {split} questions of {steps} steps; lower the "
        f"size of the {split} set."
    )


def _problem(
    set_: str, i: int, question: Question, *, worded: bool = False, demonstration: str | None = None
) -> Problem:
    return Problem(
        id=f"{set_}/{i:05d}",
        question=question.question(worded=worded),
        answer=str(question.answer),
        difficulty=question.steps,
        demonstration=demonstration,
    )
