"""``chains_labels``: the questions of ``chains`` with demonstrations in a chosen format.

For the coupling study (``docs/studies/coupling.md``), whose decisive factor is whether the
demonstrations look like what the verifier pays:

- ``target: box`` ends in ``\\boxed{ 9 }``, as the verifier wants it; ``target: bare`` ends in
  ``9``, for which it pays nothing.
- ``label_noise``: share of demonstrations whose final label is another one, in training and
  validation alike, so that both demonstration probes measure the loss against one expert.

The expert's reasoning has no slips by default. Questions, ids and base models are those of a family
of its own: another seed stream than ``chains``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, Field

from bridge.store.seeds import derive_seed
from bridge.tasks.base import Dataset, Problem
from bridge.tasks.chains import MODULUS, Chains, ChainsOptions

_PREFIX = "labels_"
_BOX = re.compile(r"\\boxed\{ (\d) \}$")


class ChainsLabelsOptions(ChainsOptions):
    """Options of the ``chains_labels`` family."""

    slip: float = Field(0.0, ge=0.0, le=1.0)
    target: Literal["box", "bare"] = "box"
    """Format of the demonstrations' final label."""
    label_noise: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a demonstration's final label is another one."""


class ChainsLabels(Chains):
    """The ``chains_labels`` family, see the module docstring."""

    name = "chains_labels"
    Options = ChainsLabelsOptions

    def benchmark_names(self, options: BaseModel | None = None) -> tuple[str, ...]:
        return tuple(_PREFIX + name for name in super().benchmark_names())

    def benchmark(self, name: str, options: BaseModel) -> tuple[Problem, ...]:
        return super().benchmark(name.removeprefix(_PREFIX), options)

    def dataset(self, options: BaseModel) -> Dataset:
        assert isinstance(options, ChainsLabelsOptions)
        plain = super().dataset(options)
        return Dataset(
            tuple(_relabelled(p, options) for p in plain.train),
            tuple(_relabelled(p, options) for p in plain.validation),
        )


def _relabelled(problem: Problem, options: ChainsLabelsOptions) -> Problem:
    """The problem with its demonstration's final label in the wanted format, wrong now and then."""
    if problem.demonstration is None:
        return problem
    found = _BOX.search(problem.demonstration)
    assert found is not None, "a demonstration of chains ends in a box"
    label = int(found[1])
    draw = derive_seed("label noise", options.seed, problem.id)
    # Two independent parts of one draw: whether the label is wrong, and which one it is then.
    if (draw >> 16) % 10**6 < options.label_noise * 10**6:
        label = (label + 1 + draw % 2**16 % (MODULUS - 1)) % MODULUS
    text = f"\\boxed{{ {label} }}" if options.target == "box" else str(label)
    return replace(problem, demonstration=problem.demonstration[: found.start()] + text)


FAMILY = ChainsLabels()
