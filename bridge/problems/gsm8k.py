r"""``gsm8k``: grade-school word problems; 7,473 to train on (a part is held out), 1,319 to test.

The human solutions lose their calculator marks (``<<2+3=5>>``); ``#### 5`` becomes ``\boxed{5}``.
"""

from __future__ import annotations

import re

from pydantic import BaseModel

from bridge.problems.base import Dataset, Problem, ProblemError
from bridge.problems.demonstrations import Coverage
from bridge.problems.prompts import BOXED
from bridge.problems.real import RealOptions, assemble, cached, draw, offers_of, to_problem
from bridge.problems.sources import Item, load_set

BENCHMARK = "gsm8k"
_CALCULATOR = re.compile(r"<<[^<>]*>>")


class Gsm8k:
    """The ``gsm8k`` family, see the module docstring."""

    name = "gsm8k"
    Options = RealOptions

    def benchmark_names(self) -> tuple[str, ...]:
        return (BENCHMARK,)

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, RealOptions)
        return _build(options)[0]

    def coverage(self, options: BaseModel) -> Coverage:
        """How many training prompts have a demonstration, and why the others have none."""
        assert isinstance(options, RealOptions)
        return _build(options)[1]

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, RealOptions)
        return tuple(to_problem(i, BOXED) for i in load_set("gsm8k_test", options).items)


@cached
def _build(options: RealOptions) -> tuple[Dataset, Coverage]:
    if set(options.demonstrations) - {"human"}:
        raise ProblemError("gsm8k has human solutions only; set demonstrations to [human] or [].")
    items = load_set("gsm8k_train", options).items
    validation = draw(items, options, "gsm8k")
    held_out = {item.id for item in validation}
    train = [item for item in items if item.id not in held_out]
    offers = [offers_of("human", train, _completion)] if options.demonstrations else []
    return assemble(train, validation, lambda: offers, options, BOXED)


def _completion(item: Item, solution: str) -> str:
    steps, _, answer = _CALCULATOR.sub("", solution).rpartition("####")
    return f"{steps.strip()}\nThe final answer is $\\boxed{{{answer.strip().replace(',', '')}}}$."


FAMILY = Gsm8k()
