"""``arithmetic``: right golds, demonstrations line by line, and splits that share no sum."""

from __future__ import annotations

import itertools
import re

import pytest

from bridge.plan.grid import load_plan
from bridge.plan.questions import checked_dataset
from bridge.tasks.arithmetic import FAMILY, ArithmeticOptions
from bridge.tasks.base import Problem, ProblemError
from tests.fixtures.workflow import ROOT

OPTIONS = ArithmeticOptions(train_size=400, demonstrations=400, validation_size=60)


def problems() -> list[Problem]:
    parts = [FAMILY.dataset(OPTIONS.model_copy(update={"part": p})) for p in ("train", "warm_up")]
    tests = [FAMILY.benchmark(name, OPTIONS) for name in FAMILY.benchmark_names()]
    return list(itertools.chain(*(p.train for p in parts), parts[0].validation, *tests))


def numbers(problem: Problem) -> list[int]:
    asked = problem.question.partition("?")[0].replace("- ", "-").replace("+ ", "+")
    return [int(n) for n in re.findall(r"[+-]?\d+", asked)]


def test_golds_are_the_sums() -> None:
    for problem in problems():
        assert sum(numbers(problem)) == int(problem.answer) >= 0
        assert len(numbers(problem)) == problem.difficulty + 1


def test_a_demonstration_computes_line_by_line() -> None:
    for problem in FAMILY.dataset(OPTIONS).train:
        *lines, box = (problem.demonstration or "").splitlines()
        total, *terms = numbers(problem)
        for line, term in zip(lines, terms, strict=True):
            sign = "+" if term > 0 else "-"
            assert line == f"{total} {sign} {abs(term)} = {total + term}"
            total += term
        assert box == f"\\boxed{{{total}}}"


def test_no_two_splits_share_a_sum_in_any_order() -> None:
    """Training, warm-up, validation and benchmarks; a run that would share some is refused."""
    sums = [tuple(sorted(numbers(p))) for p in problems()]
    assert len(sums) == len(set(sums)) == 400 + 400 + 60 + 200 + 200


def test_a_run_that_trains_on_its_warm_up_is_refused() -> None:
    plan = load_plan("pocket_smoke", root=ROOT)
    checked_dataset(plan.runs[0])
    same = {"models": {"smollm2-135m-warm": {"warm_up": {"options": {"part": "train"}}}}}
    plan = load_plan("pocket_smoke", root=ROOT, overrides=same)
    with pytest.raises(ProblemError, match="of the warm-up of smollm2-135m-warm; remove one"):
        checked_dataset(plan.runs[0])
