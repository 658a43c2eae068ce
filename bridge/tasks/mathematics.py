r"""``mathematics``: training on MATH and its subsets, evaluated on the paper's five benchmarks.

Train sets: ``math_lvl3to5_8k`` (MATH levels 3 to 5, 8,523 rows of which 8,521 have a gold answer),
``limr`` (1,389 of them), ``math_train``. Training problems that are evaluation questions are left
out (:data:`bridge.tasks.real.family.TWINS`). Validation: drawn from those of MATH that are in
neither the training set nor MATH500 (BRIDGE, section on implementation: 500 further problems,
uniform).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from bridge.tasks.base import Dataset, Problem
from bridge.tasks.real.demonstrations import Offer
from bridge.tasks.real.family import TWINS, RealOptions, assemble, draw, offers_of
from bridge.tasks.real.family import to_problem as _problem
from bridge.tasks.real.prompts import BOXED
from bridge.tasks.real.sources import LONG_ANSWER_TOKENS, MANY_SAMPLES, Item, check_files, load_set

MATH = ("math_train", "math_test_rest")


class MathematicsOptions(RealOptions):
    """Options of the ``mathematics`` family."""

    train: Literal["math_lvl3to5_8k", "limr", "math_train"] = "math_lvl3to5_8k"
    olympiadbench: Literal["olympiadbench", "olympiadbench_674"] = "olympiadbench"
    """The 675 questions, 15 of which refer to the answer of another one, or the variant of 674 with
    those filled in. Never both: they are the same questions."""


class Mathematics:
    """The ``mathematics`` family, see the module docstring."""

    name = "mathematics"
    Options = MathematicsOptions

    answer_tokens = LONG_ANSWER_TOKENS
    n_samples = MANY_SAMPLES

    def check(self, options: BaseModel, where: str) -> None:
        assert isinstance(options, MathematicsOptions)
        names = set(self.benchmark_names()) - {"olympiadbench"} | {options.olympiadbench}
        check_files((options.train, *sorted(names)), options, where)

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        return ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, MathematicsOptions)
        return _build(options)

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, MathematicsOptions)
        source = options.olympiadbench if name == "olympiadbench" else name
        return tuple(_problem(item, BOXED) for item in load_set(source, options).items)


# Once per process and configuration: grading all demonstrations takes seconds.
@functools.cache
def _build(options: MathematicsOptions) -> Dataset:
    train = [i for i in load_set(options.train, options).items if i.identity not in TWINS]
    taken = {item.identity for item in train} | set(TWINS)
    spare = {i.identity: i for name in MATH for i in load_set(name, options).items}
    validation = draw(
        [item for key, item in spare.items() if key not in taken], options, "mathematics"
    )
    return assemble(train, validation, lambda: _offers(options), options, BOXED)


def _offers(options: MathematicsOptions) -> list[Offer]:
    sets: dict[str, Sequence[str]] = {"human": (options.train, *MATH)}
    return [
        offers_of(source, load_set(name, options).items, _completion)
        for source in options.demonstrations
        for name in sets.get(source, (source,))
    ]


def _completion(item: Item, solution: str) -> str:
    r"""A solution as an assistant turn that ends in a box.

    Human solutions and R1 traces hold their box. The gpt-oss traces end in
    ``</think> <answer>7</answer>`` instead; one that is not of that form teaches nothing.
    """
    if not item.id.startswith("math_gptoss/"):
        return solution
    reasoning, tag, rest = solution.partition("</think>")
    answer, closed, _ = rest.strip().removeprefix("<answer>").partition("</answer>")
    if not tag or not closed or not answer.strip():
        return ""
    return f"{reasoning.strip()}\n\nThe final answer is $\\boxed{{{answer.strip()}}}$."


FAMILY = Mathematics()
