"""What the families of real data share: options, prompts, the validation draw."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, Field

from bridge.grading import GraderPool
from bridge.store.schema import Count, Seed
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.real.demonstrations import Offer, choose, token_limit
from bridge.tasks.real.sources import (
    LONG_ANSWER_TOKENS,
    MANY_SAMPLES,
    DataOptions,
    Item,
    check_files,
    load_set,
)

# Training problems that also are evaluation questions, in the same or in other words: identity ->
# question. All pairs that share numbers and answer and half of their word 5-grams were read by eye.
TWINS: Final[Mapping[str, str]] = {
    "9e57333f15178ac6": "math500 test/intermediate_algebra/1566.json",  # math/test/00652
    "7bb0d540cf5ec0ae": "math500 test/intermediate_algebra/337.json",  # math/train/01509
    "d02448d3d58d57b3": "olympiadbench/2607",  # math/train/04009
    "2272c19424b47575": "olympiadbench/2644",  # math/train/06864
    "64be1f6fec747580": "olympiadbench/2713",  # math/test/04640
    "730a01d78d31761d": "olympiadbench/2791",  # math/train/04487
    "75744f06ff3d8157": "olympiadbench/2794",  # math/train/07294
    "123b78bfd5a34654": "olympiadbench/2890",  # math/train/03443
    "95462959afbea7d9": "olympiadbench/2895",  # math/train/04533
    "131533c85959954c": "olympiadbench/2918",  # math/test/02680
}


class RealOptions(DataOptions):
    """Options of every family of real data that is trained on."""

    # Not strict: a recorded configuration is JSON, which has lists where this is a tuple.
    demonstrations: tuple[Literal["human", "math_traces_gptoss", "deepmath_103k"], ...] = Field(
        ("human",), strict=False
    )
    """Sources of demonstrations, the preferred one first; empty for none."""
    max_demonstration_tokens: Count = 3000
    tokenizer: str | None = None
    """Counts those tokens: a checkpoint folder or ``repository@commit``; None counts bytes."""
    validation_size: Count = 500
    seed: Seed = 0
    """Of the validation draw."""


def to_problem(item: Item, instruction: str, demonstration: str | None = None) -> Problem:
    """The item with its prompt rendered."""
    return Problem(
        id=item.id,
        question=item.problem + instruction,
        answer=item.answer,
        difficulty=item.difficulty,
        demonstration=demonstration,
    )


def draw(items: Sequence[Item], options: RealOptions, name: str) -> list[Item]:
    """A uniform draw of ``validation_size`` items, without replacement.

    Raises:
        ProblemError: there are not enough.
    """
    if options.validation_size >= len(items):
        raise ProblemError(
            f"{name}: only {len(items)} problems are left for validation; lower the option "
            f"validation_size ({options.validation_size})."
        )
    # Order-free, so that another order of rows gives the same set.
    ordered = sorted(items, key=lambda item: item.id)
    return random.Random(derive_seed("validation", name, options.seed)).sample(
        ordered, options.validation_size
    )


def assemble(
    train: Sequence[Item],
    validation: Sequence[Item],
    offers: Callable[[], Sequence[Offer]],
    options: RealOptions,
    instruction: str,
) -> Dataset:
    """Training problems with their demonstrations, and validation problems."""
    fits = token_limit(options.max_demonstration_tokens, options.tokenizer)
    with GraderPool() as pool:
        chosen, coverage = choose(train, offers(), fits=fits, pool=pool)
    return Dataset(
        tuple(to_problem(item, instruction, chosen.get(item.id)) for item in train),
        tuple(to_problem(item, instruction) for item in validation),
        coverage,
    )


def offers_of(name: str, items: Sequence[Item], write: Callable[[Item, str], str]) -> Offer:
    """The solutions of a set as completions."""
    completions: dict[str, list[str]] = {}
    for item in items:
        texts = (write(item, solution) for solution in item.solutions)
        completions.setdefault(item.identity, []).extend(text for text in texts if text)
    return name, completions


@dataclass(frozen=True)
class SingleSource:
    """A family with one training set, a part of which is held out, and one benchmark.

    Its demonstrations are the training set's own solutions.
    """

    name: str
    train: str
    """Training set in the manifest."""
    test: str
    """Benchmark's set in the manifest."""
    benchmark_name: str
    instruction: str
    completion: Callable[[Item, str], str]
    """Makes an assistant turn that ends in a box from a solution."""
    Options: type[RealOptions] = RealOptions
    answer_tokens: int = LONG_ANSWER_TOKENS
    n_samples: int = MANY_SAMPLES

    def check(self, options: BaseModel, where: str) -> None:
        assert isinstance(options, RealOptions)
        check_files((self.train, self.test), options, where)

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        return (self.benchmark_name,)

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, RealOptions)
        return _held_out(self, options)

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, RealOptions)
        items = load_set(self.test, options).items
        return tuple(to_problem(item, self.instruction) for item in items)


# Once per process and configuration: grading all demonstrations takes seconds.
@functools.cache
def _held_out(family: SingleSource, options: RealOptions) -> Dataset:
    if set(options.demonstrations) - {"human"}:
        raise ProblemError(
            f"{family.name} has its own solutions only; set demonstrations to [human] or []."
        )
    items = load_set(family.train, options).items
    validation = draw(items, options, family.name)
    held_out = {item.id for item in validation}
    train = [item for item in items if item.id not in held_out]
    offers = [offers_of("human", train, family.completion)] if options.demonstrations else []
    return assemble(train, validation, lambda: offers, options, family.instruction)
