r"""``own``: your own problems, from local files or from a data set of the hub.

    {"question": "2 + 2 ?", "answer": "4", "demonstration": "2 + 2 = 4, so \\boxed{4}"}

A row needs a question and an answer; ``demonstration`` (one, or a list of several), ``id`` and
``difficulty`` may be left out, and ``messages`` holds question and demonstration as a chat. Where
the columns have other names, ``columns`` maps them. ``docs/how-to/your-own.md`` shows all of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from pydantic import BaseModel, Field

from bridge.store.schema import Closed, ConfigError, Count, Name, Seed
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.own_data.golds import check_golds
from bridge.tasks.own_data.rows import read_problems
from bridge.tasks.own_data.sources import OwnSource, check_pinned


class OwnOptions(Closed):
    """Options of the ``own`` family."""

    train: OwnSource
    validation: OwnSource | None = None
    """Without one, training problems are held out."""
    validation_size: Count = 64
    """How many, where they are held out."""
    seed: Seed = 0
    """Of that draw."""
    benchmarks: dict[Name, OwnSource] = Field(min_length=1)
    """Sets of questions to measure on, by name."""
    instruction: str = ""
    r"""Follows every question after a line break, for instance ``Put the final answer within
    \boxed{}.``"""

    @property
    def sources(self) -> list[OwnSource]:
        """All sets, in the order of the options."""
        first = [self.train] if self.validation is None else [self.train, self.validation]
        return [*first, *self.benchmarks.values()]


class Own:
    """The ``own`` family, see the module docstring."""

    name = "own"
    Options = OwnOptions
    answer_tokens = 128
    n_samples = 8

    def check(self, options: BaseModel, where: str) -> None:
        """Missing files, changed files and rows that are no problems; the hub is not asked."""
        assert isinstance(options, OwnOptions)
        try:
            for source in options.sources:
                if source.path is not None:
                    check_pinned(source)
                    _problems(source, options)
        except ProblemError as error:
            raise ConfigError(f"{where}: {error}") from None

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        """Those of the options; none without."""
        return tuple(options.benchmarks) if isinstance(options, OwnOptions) else ()

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, OwnOptions)
        train = _problems(options.train, options)
        if options.validation is not None:
            return Dataset(train, _problems(options.validation, options))
        size = options.validation_size
        if size >= len(train):
            raise ProblemError(
                f"{options.train.name}: {len(train)} problems are too few to hold out {size}; "
                "lower validation_size or name a validation file."
            )
        drawn = random.Random(derive_seed("own", "validation", options.seed))
        held_out = set(drawn.sample(range(len(train)), size))
        return Dataset(
            tuple(p for i, p in enumerate(train) if i not in held_out),
            tuple(p for i, p in enumerate(train) if i in held_out),
        )

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        assert isinstance(options, OwnOptions)
        return _problems(options.benchmarks[name], options)

    def problems_on_disk(self, options: BaseModel) -> tuple[Problem, ...] | None:
        assert isinstance(options, OwnOptions)
        if any(source.path is None for source in options.sources):
            return None
        return tuple(p for source in options.sources for p in _problems(source, options))

    def check_golds(self, name: str, problems: Sequence[Problem]) -> None:
        """Nobody has read these gold answers before: refuse one that the grader cannot read."""
        check_golds(name, problems)


def _problems(source: OwnSource, options: OwnOptions) -> tuple[Problem, ...]:
    return read_problems(source, f"\n{options.instruction}" if options.instruction else "")


FAMILY = Own()
