r"""``knights_knaves``: who tells the truth; 4,500 puzzles of 3 to 7 people to train on, 500 test.

The gold answer lists everybody's role; :mod:`bridge.grading.logic` compares such lists. The
demonstrations are the synthetic chains of the origin with the list in a box.
"""

from __future__ import annotations

from pydantic import BaseModel

from bridge.grading.logic import roles
from bridge.problems.base import Dataset, Problem, ProblemError
from bridge.problems.demonstrations import Coverage
from bridge.problems.prompts import ROLES
from bridge.problems.real import RealOptions, assemble, cached, draw, offers_of, to_problem
from bridge.problems.sources import Item, load_set

BENCHMARK = "kk_test"


class KnightsKnaves:
    """The ``knights_knaves`` family, see the module docstring."""

    name = "knights_knaves"
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
        return tuple(to_problem(item, ROLES) for item in load_set(name, options).items)


@cached
def _build(options: RealOptions) -> tuple[Dataset, Coverage]:
    if set(options.demonstrations) - {"human"}:
        raise ProblemError(
            "knights_knaves has its own chains only; set demonstrations to [human] or []."
        )
    items = load_set("kk_train", options).items
    validation = draw(items, options, "knights_knaves")
    held_out = {item.id for item in validation}
    train = [item for item in items if item.id not in held_out]
    offers = [offers_of("human", train, _completion)] if options.demonstrations else []
    return assemble(train, validation, lambda: offers, options, ROLES)


def _completion(item: Item, solution: str) -> str:
    listed = ", ".join(f"{name} is a {role}" for name, role in (roles(item.answer) or {}).items())
    return f"{solution.strip()}\n\\boxed{{{listed}}}"


FAMILY = KnightsKnaves()
