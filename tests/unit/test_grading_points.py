"""GeneralPoints: which expressions are right, what is not read, and what hostile answers cost."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import permutations, product
from operator import add, mul, sub, truediv
from pathlib import Path
from typing import Any

import pytest

from bridge.grading import GradeItem, GraderPool
from bridge.grading.points import points_verdict
from bridge.tasks.real.sources import DataOptions, load_set, manifest
from tests.fixtures.real_data import data_root

SIGNS = {"+": add, "-": sub, "*": mul, "/": truediv}
GOLD = "make 24 : ( 1 + 3 ) * 6"
FRACTIONS = "make 24 : 8 / ( 3 - 8 / 3 )"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("( 1 + 3 ) * 6", "correct"),
        ("6*(3+1)", "correct"),
        ("6*(3+1) = 24", "correct"),
        ("make 24 : 6 * (3 + 1)", "correct"),
        ("6 * 3 + 6 * 1", "wrong"),  # a card twice
        ("(1+3)*6*1", "wrong"),
        ("1 + 3 * 6", "wrong"),
        ("24", "wrong"),
        ("(1 + 3) * 6 = 25", "wrong"),
        ("make 25 : (1 + 3) * 6", "wrong"),
        ("6 / (1 - 3 / 4)", "wrong"),  # other cards
        ("13 + 6", "wrong"),  # two cards put together
        ("6 / (3 - 3 * 1)", "wrong"),
        (r"(1+3)\times 6", "correct"),
        (r"\left(1+3\right)\cdot6", "correct"),
        ("(3 \u2212 1) \u00d7 6", "wrong"),
        ("(1+3)(6)", "unparsed"),
        ("(1+3)*6 = 4*6 = 24", "unparsed"),
        ("-1 + 3 * 6", "unparsed"),
        ("6^(3-1)", "unparsed"),
        ("(1 + 3) * 6.0", "unparsed"),
        ("(1 + 3) * \uff16", "unparsed"),
        ("((1 + 3) * 6", "unparsed"),
        ("1 + 3) * 6", "unparsed"),
        ("A + 3 * 6", "unparsed"),
        ("", "unparsed"),
        ("=24", "unparsed"),
    ],
)
def test_answers(answer: str, verdict: str) -> None:
    assert points_verdict(GOLD, answer) == verdict


@pytest.mark.parametrize(
    "answer", ["8/(3-8/3)", r"\frac{8}{3-\frac{8}{3}}", r"8 \div (3 - \dfrac{8}{3}) = 24"]
)
def test_fractions_are_exact(answer: str) -> None:
    assert points_verdict(FRACTIONS, answer) == "correct"
    assert points_verdict(FRACTIONS, "8 / ( 8 / 3 - 3 )") == "wrong"
    assert points_verdict(FRACTIONS, "8 / ( 3 - 3 ) + 8") == "wrong"
    assert points_verdict(FRACTIONS, r"\frac{8}{3") == "unparsed"
    assert points_verdict(FRACTIONS, r"\frac{(8}{3)} - 8") == "unparsed"


def test_every_right_expression_passes_and_no_other() -> None:
    """All expressions over four cards in two shapes, computed here by Python's own fractions."""
    gold, right = "make 24 : ( 4 + 4 ) * ( 6 / 2 )", 0
    for a, b, c, d in set(permutations((2, 4, 4, 6))):
        for x, y, z in product(SIGNS, repeat=3):
            for tree in (((a, x, b), y, (c, z, d)), (a, x, ((b, y, c), z, d))):
                expected = "correct" if _value(tree) == 24 else "wrong"
                assert points_verdict(gold, _text(tree)) == expected, tree
                right += expected == "correct"
    assert right > 10


def _value(tree: Any) -> Fraction | None:
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = _value(tree[0]), _value(tree[2])
    if left is None or right is None or (tree[1] == "/" and right == 0):
        return None
    return SIGNS[tree[1]](left, right)


def _text(tree: Any) -> str:
    return str(tree) if isinstance(tree, int) else f"({_text(tree[0])} {tree[1]} {_text(tree[2])})"


@pytest.mark.parametrize("gold", ["24", "x = 5", "2 + 3 = 5", "make peace", "(1) Ann is a knight"])
def test_other_golds_are_not_judged(gold: str) -> None:
    assert points_verdict(gold, "( 1 + 3 ) * 6") is None


HOSTILE = [
    "(" * 900 + "1" + ")" * 900,
    "1" * 1999,
    "1 " * 900,
    "9" * 900 + "*" + "9" * 900,
    " " * 1900 + "==",
    "1+" * 999 + "1",
    "make " * 300,
    r"\frac{" * 300,
    "()" * 900,
    "__import__('os').system('true')",
    "(1+3)*6 if 1 else 9",
    "6**3**1",
    "\x00(1+3)*6",
    "\ud800",
    "\N{ARABIC-INDIC DIGIT SIX} * 4",
]


def test_hostile_answers_end_and_are_never_right() -> None:
    for answer in HOSTILE:
        assert points_verdict(GOLD, answer) in ("wrong", "unparsed"), answer[:40]
    # Text of the grammar's own characters, at random: it may be anything but an exception.
    rng = random.Random(0)
    for _ in range(3000):
        points_verdict(GOLD, "".join(rng.choice("136+-*/() =\\") for _ in range(rng.randrange(40))))


def test_the_pool_judges_them_in_a_worker_and_names_a_gold_that_misses_its_target() -> None:
    with GraderPool() as pool:
        items = [
            GradeItem(r"so \boxed{6 \times (3 + 1)}", GOLD),
            GradeItem(r"\boxed{(1 + 3) * 6 = 23}", GOLD),
            GradeItem(r"\boxed{\frac{8}{3-\frac{8}{3}}}", FRACTIONS),
            GradeItem("(1 + 3) * 6", GOLD),
            GradeItem(rf"\boxed{{{HOSTILE[0]}}}", GOLD),
        ]
        words = [graded.verdict for graded in pool.grade(items)]
        assert words == ["correct", "wrong", "correct", "unparsed", "unparsed"]
        assert pool.worker_pids()
        with pytest.raises(ValueError, match=r"gold answer 'make 24 : 1 \+ 3'"):
            pool.grade([GradeItem(r"\boxed{4}", "make 24 : 1 + 3")])


def test_no_real_gold_is_taken_for_one() -> None:
    options = DataOptions(data_root=data_root())
    for name, entry in manifest().items():
        if (Path(options.data_root or "") / entry.file).is_file():
            for item in load_set(name, options).items:
                assert points_verdict(item.answer, "1") is None
