"""Verdict words, inputs and limits, and the shortcut for plain integers."""

import subprocess
import sys
from collections.abc import Iterator
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.grading import GRADER_VERSION, VERDICTS, GradeItem, GraderLimits, Verdict
from bridge.grading.dispatch import Dispatcher
from bridge.grading.verdicts import integer_verdict


def test_the_words_are_closed() -> None:
    assert frozenset(get_args(Verdict)) == VERDICTS
    assert sorted(VERDICTS) == ["correct", "timeout", "truncated", "unparsed", "wrong"]


def test_the_version_names_every_library_a_verdict_depends_on() -> None:
    names = ["bridge", "math-verify", "latex2sympy2_extended", "sympy"]
    assert [part.rsplit("-", 1)[0] for part in GRADER_VERSION.split("+")] == names


@pytest.mark.parametrize("gold", ["", " \n"])
def test_an_empty_gold_names_the_remedy(gold: str) -> None:
    with pytest.raises(ValueError, match="drop this question"):
        GradeItem(r"\boxed{7}", gold)


@pytest.mark.parametrize(
    "field", ["time_s", "memory_gib", "answer_chars", "workers", "startup_s", "cache_entries"]
)
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        GraderLimits(**{field: 0})


def test_the_default_memory_limit_is_below_a_gigabyte_and_a_half() -> None:
    assert GraderLimits().memory_gib * 2**30 < 1.5e9


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("7", "7", "correct"),
        (" 7\n", "\t7 ", "correct"),
        ("7", "007", "correct"),
        ("0", "-0", "correct"),
        ("-7", "7", "wrong"),
        ("999999999999999", "999999999999998", "wrong"),
        # Not plain integers: these are for math-verify.
        ("1000000000000000", "1000000000000000", None),
        ("7", "+7", None),
        ("7", "7.0", None),
        ("7", "--7", None),
        ("7", "7\x00", None),
        ("7", "٧", None),
        ("7", "７", None),
        ("7", "\u20077", None),  # a space, but not an ASCII one
        ("7", "\u22127", None),  # a minus sign, but not the ASCII one
        ("1000", "1,000", None),
        ("10", "1_0", None),
        ("7", "", None),
    ],
)
def test_integer_shortcut(gold: str, answer: str, verdict: Verdict | None) -> None:
    assert integer_verdict(gold, answer) == verdict


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(GraderLimits())
    yield dispatcher
    dispatcher.close()


_integers = st.from_regex(r"-?[0-9]{1,15}", fullmatch=True)
_pairs = st.one_of(
    st.tuples(_integers, _integers),
    # Near and equal values, which independent draws hardly ever give.
    st.tuples(_integers, st.sampled_from([-1, 0, 1])).map(lambda p: (p[0], str(int(p[0]) + p[1]))),
    _integers.map(lambda number: (number, str(-int(number)))),
    st.tuples(_integers, st.integers(1, 15)).map(lambda p: (p[0], str(int(p[0])).zfill(p[1]))),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(_pairs, min_size=20, max_size=40, unique=True))
def test_math_verify_agrees_with_the_shortcut(
    dispatcher: Dispatcher, pairs: list[tuple[str, str]]
) -> None:
    shortcut = {pair: integer_verdict(*pair) for pair in pairs}
    expected = {(*pair, ""): (verdict, None) for pair, verdict in shortcut.items() if verdict}
    assert dispatcher.judge(list(expected)) == expected


@pytest.mark.slow
def test_importing_the_package_loads_no_mathematics() -> None:
    program = (
        "import sys, bridge.grading;"
        "heavy = {'math_verify', 'latex2sympy2_extended', 'sympy', 'torch', 'transformers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
