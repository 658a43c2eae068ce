r"""Equal answers and look-alikes by kind: ``grading_cases/<kind>.tsv``.

A line has gold, answer and verdict; ``not`` is wrong or unparsed. The kinds are explained in
docs/grading.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.grading import GradeItem, GraderPool

KINDS = sorted((Path(__file__).parent / "grading_cases").glob("*.tsv"))


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool() as made:
        yield made


@pytest.mark.parametrize("kind", KINDS, ids=lambda path: path.stem)
def test_each_case_of_a_kind(pool: GraderPool, kind: Path) -> None:
    # Not splitlines: some answers hold separators that it knows.
    cases = [line.split("\t") for line in kind.read_text(encoding="utf-8").split("\n") if line]
    graded = pool.grade([GradeItem(rf"so \boxed{{{answer}}}", gold) for gold, answer, _ in cases])
    got = ["correct" if result.verdict == "correct" else "not" for result in graded]
    assert {"correct", "not"} <= {right for *_, right in cases}
    assert [(*case, said) for case, said in zip(cases, got, strict=True) if case[2] != said] == []
    assert not {result.verdict for result in graded} & {"timeout", "truncated"}


@settings(max_examples=40, deadline=None)
@given(st.integers(1001, 9998), st.integers(-40, 12), st.sampled_from([-1, 1]))
def test_a_number_is_itself_in_any_notation_and_no_other(
    pool: GraderPool, digits: int, power: int, step: int
) -> None:
    """Four significant digits at any size: one more or less in the last place is another number."""

    def forms(digits: int) -> list[str]:
        exact = Decimal(digits).scaleb(power - 3)
        mantissa = f"{digits // 1000}.{digits % 1000:03d}"
        return [f"{exact:f}", rf"{mantissa} \times 10^{{{power}}}", f"{mantissa}e{power}"]

    gold, *equal = forms(digits)
    graded = pool.grade([GradeItem(rf"\boxed{{{form}}}", gold) for form in equal])
    assert [result.verdict for result in graded] == ["correct"] * 2
    graded = pool.grade([GradeItem(rf"\boxed{{{form}}}", gold) for form in forms(digits + step)])
    assert [result.verdict for result in graded] == ["wrong"] * 3
