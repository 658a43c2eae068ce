"""Verdicts of choices and of knights and knaves, and when they do not apply."""

from __future__ import annotations

import pytest

from bridge.grading import GradeItem, GraderPool
from bridge.grading.logic import choice_verdict, roles, roles_verdict

GOLD = "(1) Zoe is a knight\n(2) Max is a knave"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("B", "correct"),
        ("b", "correct"),
        ("(B)", "correct"),
        (r"\text{B}", "correct"),
        (r"\textbf{(B)}", "correct"),
        ("B. about 0.39", "correct"),
        ("B) a longer text, with commas", "correct"),
        ("Option B", "correct"),
        ("Answer: B", "correct"),
        ("C", "wrong"),
        ("A. B", "wrong"),
        ("A or B", "unparsed"),
        ("Berlin", "unparsed"),
        ("0.39", "unparsed"),
        ("AB", "unparsed"),
    ],
)
def test_choices(answer: str, verdict: str) -> None:
    assert choice_verdict("B", answer) == verdict


@pytest.mark.parametrize("gold", ["B", "(B)", r"\text{B}", r"\text{(B)}", r"(\textbf{B})"])
def test_a_letter_in_brackets_or_in_a_font_is_a_choice(gold: str) -> None:
    assert choice_verdict(gold, "B") == choice_verdict(gold, "(B)") == "correct"
    assert choice_verdict(gold, "C") == "wrong"


@pytest.mark.parametrize("gold", ["7", "x", "BC", "2B", "b", r"\text{B or C}"])
def test_other_golds_are_no_choice(gold: str) -> None:
    assert choice_verdict(gold, "B") is None


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (GOLD, "correct"),
        ("Max is a knave, Zoe is a knight", "correct"),
        (r"\text{Zoe is a knight and Max is a knave.}", "correct"),
        ("Zoe: knight; Max: knave", "correct"),
        (r"\text{Zoe} = \text{knight}, \text{Max} = \text{knave}", "correct"),
        ("ZOE is the Knight, max is a KNAVE", "correct"),
        ("Max is not a knight; Zoe is a knight", "correct"),
        ("Zoe is a knight, Max is a knight", "wrong"),
        ("Zoe is a knight", "wrong"),
        ("Zoe is a knight, Max is a knave, Ann is a knave", "wrong"),
        ("Zoe is a knight, Max is a knave, Max is a knight", "wrong"),
        ("both lie", "unparsed"),
        ("1", "unparsed"),
    ],
)
def test_roles(answer: str, verdict: str) -> None:
    assert roles_verdict(GOLD, answer) == verdict


def test_other_golds_are_no_roles() -> None:
    assert roles_verdict("(1, 2)", "(1, 2)") is None
    assert roles_verdict("7", "Zoe is a knight") is None
    assert roles("Zoe is a knight, Zoe is a knave") is None


def test_the_pool_decides_them_without_a_worker() -> None:
    with GraderPool() as pool:
        items = [
            GradeItem(r"so \boxed{B}", "B"),
            GradeItem(r"A, B? \boxed{A} no: \boxed{B. d}", "B"),
            GradeItem(r"\boxed{Max is a knave, Zoe is a knight}", GOLD),
            GradeItem("B", "B"),
            GradeItem(r"\boxed{B", "B", truncated=True),
        ]
        words = [graded.verdict for graded in pool.grade(items)]
        assert words == ["correct", "correct", "correct", "unparsed", "truncated"]
        assert pool.worker_pids() == []
