"""``chains_labels``: format and noise of its demonstrations, and what the verifier pays."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.grading.extraction import last_boxed
from bridge.tasks.base import Dataset, Problem
from bridge.tasks.registry import load_family

SIZES = {"train_size": 600, "validation_size": 200, "demonstrations": 400}


def dataset(**options: Any) -> Dataset:
    family = load_family("chains_labels")
    return family.dataset(family.Options.model_validate(SIZES | options))


def demonstrated(data: Dataset) -> list[Problem]:
    return [*data.demonstrations, *data.validation]


def test_aligned_demonstrations_earn_everything_and_bare_ones_nothing() -> None:
    for problem in demonstrated(dataset()):
        assert problem.demonstration is not None
        assert last_boxed(problem.demonstration) == problem.answer
    for problem in demonstrated(dataset(target="bare")):
        assert problem.demonstration is not None
        assert last_boxed(problem.demonstration) is None
        assert problem.demonstration.split()[-1] == problem.answer


@pytest.mark.parametrize("target", ["box", "bare"])
def test_noise_changes_that_share_of_the_labels_and_nothing_else(target: str) -> None:
    clean = demonstrated(dataset(target=target))
    noisy = demonstrated(dataset(target=target, label_noise=0.3))
    wrong = 0
    for left, right in zip(clean, noisy, strict=True):
        assert left.demonstration is not None
        assert right.demonstration is not None
        assert (left.id, left.question, left.answer) == (right.id, right.question, right.answer)
        place = -1 if target == "bare" else -2
        ours, theirs = left.demonstration.split(), right.demonstration.split()
        wrong += ours[place] != theirs[place]
        del ours[place], theirs[place]
        assert ours == theirs
    # 600 draws of probability 0.3: four standard errors are 0.075.
    assert wrong / len(clean) == pytest.approx(0.3, abs=0.075)


def test_wrong_labels_take_every_other_value() -> None:
    shifts = set()
    for problem in demonstrated(dataset(label_noise=0.99)):
        assert problem.demonstration is not None
        shifts.add((int(problem.demonstration.split()[-2]) - int(problem.answer)) % 10)
    assert shifts >= set(range(1, 10))


def test_its_benchmarks_have_names_of_their_own() -> None:
    family = load_family("chains_labels")
    options = family.Options.model_validate({"questions_scale": 0.05})
    names = family.benchmark_names()
    assert names[0] == "labels_rung1"
    assert all(family.benchmark(name, options) for name in names)
    assert not set(names) & set(load_family("chains").benchmark_names())
