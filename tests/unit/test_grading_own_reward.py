"""Reward functions of the user's: called in the worker, under its limits, never a silent 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.grading import GradeItem, GraderError, GraderLimits, GraderPool

SOURCE = """
import time
import numpy
from helpers import HALF

def known(question, response, answer):
    if response == "hang":
        while True: pass
    if response == "sleep":
        time.sleep(1000)
    if response == "eat":
        return len([0] * 10**10)
    if response == "raise":
        raise KeyError("no such thing")
    if response == "exit":
        raise SystemExit(0)
    if response == "numpy":
        return numpy.float32(0.25)
    print("printed text is not a reply")
    values = {"none": None, "half": HALF, "nan": float("nan"), "text": "1", "two": 2, "list": [1]}
    if response in values:
        return values[response]
    return response == answer and question == "What?"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rewards.py").write_text(SOURCE)
    (tmp_path / "helpers.py").write_text("HALF = 0.5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pool(mine: Path) -> Iterator[GraderPool]:
    with GraderPool(GraderLimits(time_s=0.3), reward="rewards:known") as made:
        yield made


def item(text: str, *, truncated: bool = False) -> GradeItem:
    return GradeItem(text, "gold", truncated, question="What?")


def test_numbers_become_verdicts_and_scores(pool: GraderPool) -> None:
    texts = ["gold", "other", "half", "numpy", "none"]
    graded = [*pool.grade([item(t) for t in texts]), *pool.grade([item("none", truncated=True)])]
    assert [(g.verdict, g.score) for g in graded] == [
        ("correct", 1.0),
        ("wrong", 0.0),
        ("wrong", 0.5),
        ("wrong", 0.25),
        ("unparsed", None),
        ("truncated", None),
    ]
    # The gold answer counts only as far as the function looks at it: this is no mathematics.
    other = GradeItem("\\boxed{1}", "1", question="?")
    assert pool.grade([other])[0].verdict == "wrong"


@pytest.mark.parametrize("text", ["hang", "sleep", "eat"])
def test_what_costs_too_much_is_a_timeout_and_costs_nobody_else(
    pool: GraderPool, text: str
) -> None:
    graded = pool.grade([item("half"), item(text), item("gold")])
    assert [g.verdict for g in graded] == ["wrong", "timeout", "correct"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise", "raised KeyError: 'no such thing'"),
        ("exit", "raised SystemExit"),
        ("nan", "returned nan, not a number from 0 to 1"),
        ("text", "returned '1', not a number"),
        ("two", "returned 2, not a number"),
        ("list", r"returned \[1\], not a number"),
    ],
)
def test_what_is_no_reward_is_one_sentence(pool: GraderPool, text: str, said: str) -> None:
    with pytest.raises(GraderError, match=f"the reward rewards:known {said}") as caught:
        pool.grade([item("half"), item(text)])
    assert f"for the response '{text}' to 'What?'" in str(caught.value)
    assert pool.grade([item("gold")])[0].verdict == "correct", "the pool goes on"


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("rewards:unknown", "AttributeError"),
        ("broken:known", "ValueError: on import"),
        ("rewards:HALF", "TypeError: 'HALF' is not a function"),
        ("json:loads", "ImportError: 'json' is an installed module"),
    ],
)
def test_a_function_that_cannot_be_loaded(mine: Path, reward: str, said: str) -> None:
    (mine / "broken.py").write_text("raise ValueError('on import')")
    with (
        GraderPool(reward=reward) as pool,
        pytest.raises(GraderError, match=f"the reward {reward} cannot be loaded .*{said}"),
    ):
        pool.grade([item("gold")])
