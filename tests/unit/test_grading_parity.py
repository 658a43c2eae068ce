"""Equal answers in other words are accepted, look-alikes are refused, real golds are themselves."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from bridge.grading import GradeItem, GraderPool
from bridge.grading.logic import roles
from bridge.tasks.real.repairs import repaired
from bridge.tasks.real.sources import DataOptions, load_set, manifest
from tests.fixtures.real_data import data_root

LOCAL_SETS = sorted(name for name, entry in manifest().items() if entry.sha256 is not None)
"""Sets of which a copy was at hand; the others have no checksum yet."""


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool() as made:
        yield made


EQUAL = [
    (r"\frac{1}{2}", "0.50"),
    ("0.5", r"\dfrac12"),
    (r"\frac{9}{2}", r"4\frac{1}{2}"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    ("1,2,3", "3, 1, 2"),
    (r"\{1,2\}", r"\left\{2, 1\right\}"),
    (r"1 \pm \sqrt{2}", r"1+\sqrt2,\ 1-\sqrt2"),
    ("x=5", "5"),
    ("5", "x = 5"),
    (r"18\text{ hours}", "18"),
    ("18", r"18\text{ hours}"),
    (r"30^\circ", "30"),
    (r"50\%", "0.5"),
    ("10080", "10,080"),
    (r"10,\!080", "10080"),
    ("5", "5."),
    (r"-\frac{5}{3}", r"-\frac{5}{3}."),
    ("1<x<2", "(1,2)"),
    ("(1,2)", "1<x<2"),
    ("(0,4]", r"0 < x \leq 4"),
    (r"(-\infty, 3)", "x<3"),
    (r"[1,2]", r"x \in [1,2]"),
    ("x + y - z + 1 = 0", "x+y-z = -1"),
    ("x + y - z + 1 = 0", "2x + 2y - 2z + 2 = 0"),
    (r"4.5 \times 10^{33}", "4.5e33"),
    (r"4.5 \times 10^{33}", r"4.5 \cdot 10^{33} \text{ erg/s}"),
    (r"1 \times 10^{-5}", "0.00001"),
    ("a + b + c", "c + a + b"),
    (r"\sin^2 t", r"\sin^2(t)"),
    ("E_{1},E_{2}", "E_2, E_1"),
    (r"m_{\max }=n^{2}-n-1", r"m_{\max} = n^2 - n - 1"),
    (r"m_{\max }=n^{2}-n-1", "n^2-n-1"),
    (r"\text{(C)}", "C"),
]
LOOK_ALIKES = [
    ("x + y - z + 1 = 0", "0"),
    ("x^2 + y^2 = 4", "4"),
    ("x^2 - 1 = 0", "0"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", r"\{1,2\}"),
    (r"\{1,2\}", "(1,2)"),
    ("[0,1)", "0<x<1"),
    ("3", "x<3"),
    ("3", "3, 4"),
    ("3, 4", "3"),
    ("3", r"3 \text{ or } 4"),
    ("221,8", "8,221"),
    ("12", "1,2"),
    ("-1", "1"),
    ("1/3", "0.3333"),
    ("1.6", "1.57"),
    (r"4.5 \times 10^{33}", "4.5"),
    (r"4.5 \times 10^{33}", "4.5e32"),
    ("43_5", "43_6"),
    ("a + b + c", "a + b"),
    ("E_{1},E_{2}", "E_1, E_3"),
    ("x", "y"),
    (r"\text{(C)}", r"\text{(D)}"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_are_accepted(pool: GraderPool, gold: str, answer: str) -> None:
    (graded,) = pool.grade([GradeItem(rf"so \boxed{{{answer}}}", gold)])
    assert graded.verdict == "correct"


@pytest.mark.parametrize(("gold", "answer"), LOOK_ALIKES)
def test_look_alikes_are_refused(pool: GraderPool, gold: str, answer: str) -> None:
    (graded,) = pool.grade([GradeItem(rf"so \boxed{{{answer}}}", gold)])
    assert graded.verdict == "wrong"


@pytest.mark.parametrize(
    ("text", "truncated", "verdict"),
    [
        (r"<think>\boxed{8}</think> so \boxed{7}", False, "correct"),
        (r"<think>\boxed{7}</think> so it is 7", False, "unparsed"),
        (r"<think>\boxed{7} and then", True, "truncated"),
        (r"\boxed{8}, no, wait: \boxed{7}", False, "correct"),
        (r"\boxed{7} at first, but \boxed{8}", False, "wrong"),
        (r"Put it in \boxed{}: the answer is \boxed{7}.", False, "correct"),
        (r"The answer $\boxed{7}$ follows, as we said.", False, "correct"),
        ("The answer is 7.", False, "unparsed"),
        (r"so \boxed{7", True, "truncated"),
        (r"so \boxed{7} and more words", True, "correct"),
        (r"\boxed{\text{so the answer is } 7}", False, "wrong"),
    ],
)
def test_what_a_text_amounts_to(pool: GraderPool, text: str, truncated: bool, verdict: str) -> None:
    (graded,) = pool.grade([GradeItem(text, "7", truncated)])
    assert graded.verdict == verdict


# -- the real golds --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", LOCAL_SETS)
def test_each_usable_gold_is_itself(pool: GraderPool, name: str) -> None:
    items = load_set(name, DataOptions(data_root=data_root())).items
    golds = sorted({item.answer for item in items})
    graded = pool.grade([GradeItem(rf"so \boxed{{{gold}}}", gold) for gold in golds])
    assert [g for g, r in zip(golds, graded, strict=True) if r.verdict != "correct"] == []


@pytest.mark.data
def test_minerva_s_e_notation_in_four_forms(pool: GraderPool) -> None:
    from json import loads
    from pathlib import Path

    raw = (Path(data_root()) / "minerva_math" / "test.jsonl").read_text(encoding="utf-8")
    golds = [loads(line)["answer"] for line in raw.split("\n") if line]
    found = [re.fullmatch(r"(-?[\d.]+)e(-?\d+)", gold) for gold in golds]
    numbers = [match for match in found if match]
    assert len(numbers) == 58
    for form in (
        r"%s \times 10^{%s}",
        r"%s \cdot 10^{%s}",
        "%se%s",
        r"%s \times 10^{%s} \mathrm{~m}",
    ):
        items = [
            GradeItem(rf"\boxed{{{form % match.groups()}}}", repaired(match[0])[0])
            for match in numbers
        ]
        assert [g.verdict for g in pool.grade(items)] == ["correct"] * 58, form


@pytest.mark.data
def test_reordered_answers_of_olympiadbench(pool: GraderPool) -> None:
    items = load_set("olympiadbench", DataOptions(data_root=data_root())).items
    lists = [i.answer for i in items if re.fullmatch(r"-?\d+(,\s*-?\d+)+", i.answer)]
    # 2349: reversed it reads as the number 8221 in either direction; both are written so.
    lists = [gold for gold in lists if gold != "221,8"]
    assert len(lists) >= 20
    reordered = [", ".join(reversed(gold.split(","))) for gold in lists]
    graded = pool.grade(
        [GradeItem(rf"\boxed{{{new}}}", gold) for new, gold in zip(reordered, lists, strict=True)]
    )
    assert {g.verdict for g in graded} == {"correct"}


@pytest.mark.data
def test_letters_and_roles_of_the_real_sets(pool: GraderPool) -> None:
    options = DataOptions(data_root=data_root())
    for item in load_set("gpqa_diamond", options).items:
        words = [
            pool.grade([GradeItem(rf"\boxed{{{letter}}}", item.answer)])[0].verdict
            for letter in "ABCD"
        ]
        assert words.count("correct") == 1 and words["ABCD".index(item.answer)] == "correct"
    rng = random.Random(0)
    for item in load_set("kk_test", options).items:
        expected = roles(item.answer)
        assert expected is not None and len(expected) == item.difficulty
        names = list(expected)
        rng.shuffle(names)
        listed = ", ".join(f"{name} is a {expected[name]}" for name in names)
        flipped = dict(
            expected, **{names[0]: "knave" if "knight" in expected[names[0]] else "knight"}
        )
        other = ", ".join(f"{name} is a {role}" for name, role in flipped.items())
        both = [GradeItem(rf"\boxed{{{text}}}", item.answer) for text in (listed, other)]
        assert [g.verdict for g in pool.grade(both)] == ["correct", "wrong"]
