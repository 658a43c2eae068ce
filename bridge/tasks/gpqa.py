"""``gpqa``: GPQA-diamond, 198 multiple-choice questions; an evaluation set, never trained on.

The hub's copy is gated and its authors ask that items not be put online as plain text.
"""

from __future__ import annotations

from pydantic import BaseModel

from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.real.family import to_problem
from bridge.tasks.real.prompts import LETTER
from bridge.tasks.real.sources import (
    LONG_ANSWER_TOKENS,
    MANY_SAMPLES,
    DataOptions,
    check_files,
    load_set,
)

BENCHMARK = "gpqa_diamond"


class Gpqa:
    """The ``gpqa`` family, see the module docstring."""

    name = "gpqa"
    Options = DataOptions

    answer_tokens = LONG_ANSWER_TOKENS
    n_samples = MANY_SAMPLES

    def check(self, options: BaseModel, where: str) -> None:
        assert isinstance(options, DataOptions)
        check_files(("gpqa_diamond",), options, where)

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        return (BENCHMARK,)

    def dataset(self, options: BaseModel) -> Dataset:
        raise ProblemError("gpqa is an evaluation set; train on another family.")

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, DataOptions)
        return tuple(to_problem(item, LETTER) for item in load_set(name, options).items)


FAMILY = Gpqa()
