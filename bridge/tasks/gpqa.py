"""``gpqa``: GPQA-diamond, 198 multiple-choice questions; an evaluation set, never trained on.

The hub's copy is gated and its authors ask that items not be put online as plain text.
"""

from __future__ import annotations

from pydantic import BaseModel

from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.real.family import to_problem
from bridge.tasks.real.prompts import LETTER
from bridge.tasks.real.sources import DataOptions, load_set

BENCHMARK = "gpqa_diamond"


class Gpqa:
    """The ``gpqa`` family, see the module docstring."""

    name = "gpqa"
    Options = DataOptions

    def benchmark_names(self) -> tuple[str, ...]:
        return (BENCHMARK,)

    def dataset(self, options: BaseModel) -> Dataset:
        raise ProblemError("gpqa is an evaluation set; train on another family.")

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, DataOptions)
        return tuple(to_problem(item, LETTER) for item in load_set(name, options).items)


FAMILY = Gpqa()
