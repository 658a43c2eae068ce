r"""``word_problems``: short word problems; MAWPS and ASDiv-A to train on, SVAMP to test.

A demonstration is the problem's equation, one operation a line, and the box:

    41 + 14 = 55
    55 - 31 = 24
    \boxed{24}

Of the 2,759 training problems ``held_out_size`` are held out (benchmark ``mawps_asdiv``, of the
training set's own kind) and ``validation_size`` more for the probe; a further ``warm_up_size`` may
teach a base model the form of an answer (``part: warm_up``), and no run trains on those. SVAMP
changes what is asked in problems of that kind, so it is the harder benchmark.
"""

from __future__ import annotations

import functools
import random
from typing import Literal

from pydantic import BaseModel

from bridge.store.schema import Count, CountOrZero
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.real.family import RealOptions, assemble, offers_of, to_problem
from bridge.tasks.real.prompts import EQUATIONS
from bridge.tasks.real.sources import Item, check_files, load_set

TRAIN, TEST = "mawps_asdiv_train", "svamp"
HELD_OUT = "mawps_asdiv"


class WordProblemsOptions(RealOptions):
    """Options of the ``word_problems`` family."""

    part: Literal["train", "warm_up"] = "train"
    """What is trained on: what is left, or the problems of the warm-up."""
    held_out_size: Count = 200
    validation_size: Count = 100
    warm_up_size: CountOrZero = 240


class WordProblems:
    """The ``word_problems`` family, see the module docstring."""

    name = "word_problems"
    Options = WordProblemsOptions
    answer_tokens = 64
    n_samples = 8

    def check(self, options: BaseModel, where: str) -> None:
        assert isinstance(options, WordProblemsOptions)
        check_files((TRAIN, TEST), options, where)

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        return (HELD_OUT, TEST)

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, WordProblemsOptions)
        return _dataset(options)

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, WordProblemsOptions)
        items = load_set(TEST, options).items if name == TEST else _parts(options)[HELD_OUT]
        return tuple(to_problem(item, EQUATIONS) for item in items)


# Once per process and configuration: grading all demonstrations takes seconds.
@functools.cache
def _dataset(options: WordProblemsOptions) -> Dataset:
    parts = _parts(options)
    offers = [offers_of("human", parts[options.part], _completion)]
    return assemble(
        parts[options.part],
        parts["validation"],
        lambda: offers if options.demonstrations else [],
        options,
        EQUATIONS,
    )


def _parts(options: WordProblemsOptions) -> dict[str, list[Item]]:
    """The training file, drawn apart; ``part`` changes no part.

    Raises:
        ProblemError: nothing is left to train on.
    """
    # Order-free, so that another order of rows gives the same parts.
    items = sorted(load_set(TRAIN, options).items, key=lambda item: item.id)
    random.Random(derive_seed("parts", "word_problems", options.seed)).shuffle(items)
    sizes = {
        HELD_OUT: options.held_out_size,
        "validation": options.validation_size,
        "warm_up": options.warm_up_size,
    }
    if sum(sizes.values()) >= len(items):
        raise ProblemError(
            f"word_problems: {sum(sizes.values())} of {len(items)} problems are held out, so none "
            "is left to train on; lower held_out_size, validation_size or warm_up_size."
        )
    parts = {}
    for name, size in sizes.items():
        parts[name], items = items[:size], items[size:]
    return parts | {"train": items}


def _completion(item: Item, solution: str) -> str:
    return f"{solution.strip()}\n\\boxed{{{item.answer}}}"


FAMILY = WordProblems()
