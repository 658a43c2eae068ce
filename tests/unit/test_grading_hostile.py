"""Answers made to hang or fill the grader cost their limit, and their neighbours nothing.

Limits are tested in processor seconds: they hold beside any other work on the machine.
"""

import resource

import psutil
import pytest

from bridge.grading import GradeItem, GraderLimits, GraderPool
from bridge.grading.verdicts import Verdict
from tests.fixtures.workers import peak_resident_bytes

# What workers may use beyond the time limit, in processor seconds: up to two starts (a replacement
# and a stand-by, each about a half) and judging the neighbours.
SLACK_S = 3.0
MEMORY_BYTES = 1.5e9

HOSTILE = {
    "power tower": r"9^{9^{9^9}}",
    "power in one C call": r"9^{9^9}",
    "list of 20,000": ",".join(map(str, range(20_000))),
    "3,000 nested brackets": "(" * 3_000 + "1" + ")" * 3_000,
    "3,000 nested fractions": r"\frac{1}{" * 3_000 + "1" + "}" * 3_000,
    "expansion": "(x+1)^{100000}",
    "large binomial": r"\binom{10^8}{5\cdot 10^7}",
    "huge modulus": r"7^{10^{10}} \mod 13",
}

# Before and after the hostile answer, and none of them an integer: each needs the worker.
BEFORE: list[tuple[str, str, Verdict]] = [("0.5", r"\frac{1}{2}", "correct"), ("x", "y", "wrong")]
AFTER: list[tuple[str, str, Verdict]] = [("x+y", "y+x", "correct"), ("0.5", "0.6", "wrong")]


def _item(gold: str, answer: str) -> GradeItem:
    return GradeItem(rf"so \boxed{{{answer}}}.", gold)


def _workers_cpu_s(pool: GraderPool) -> float:
    """Processor seconds of the living workers and of all that were reaped."""
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = [psutil.Process(pid).cpu_times() for pid in pool.worker_pids()]
    return reaped.ru_utime + reaped.ru_stime + sum(t.user + t.system for t in living)


def _grade_among_neighbours(pool: GraderPool, answer: str) -> None:
    """The hostile answer costs its limit, the batch and the next one are right."""
    pool.grade([_item("a", "b")])  # the start of the first worker is not the answer's cost
    items = [_item(gold, near) for gold, near, _ in BEFORE]
    items += [_item("x+1", answer)] + [_item(gold, near) for gold, near, _ in AFTER]
    before_s = _workers_cpu_s(pool)
    graded = pool.grade(items)
    used_s = _workers_cpu_s(pool) - before_s
    expected = [*(word for *_, word in BEFORE), "timeout", *(word for *_, word in AFTER)]
    assert [result.verdict for result in graded] == expected
    assert used_s < pool.limits.time_s + SLACK_S
    assert pool.grade([_item("0.25", r"\frac{1}{4}")])[0].verdict == "correct"
    assert pool.counts["respawns"] == pool.counts["timeout"] == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_cost_their_time_limit(name: str) -> None:
    with GraderPool(GraderLimits(time_s=0.5, answer_chars=200_000)) as pool:
        peak = peak_resident_bytes(pool, lambda: _grade_among_neighbours(pool, HOSTILE[name]))
        assert 0 < peak < MEMORY_BYTES


def test_the_default_limits_hold_for_a_huge_factorial() -> None:
    with GraderPool() as pool:
        assert pool.limits.time_s <= 5.0
        peak = peak_resident_bytes(pool, lambda: _grade_among_neighbours(pool, r"(10^8)!"))
        assert 0 < peak < MEMORY_BYTES


def test_the_default_length_cap_refuses_long_answers_unread() -> None:
    with GraderPool() as pool:
        names = ["list of 20,000", "3,000 nested brackets", "3,000 nested fractions"]
        graded = pool.grade([_item("7", HOSTILE[name]) for name in names])
        assert [result.verdict for result in graded] == ["unparsed"] * 3
        assert pool.worker_pids() == []


def test_the_kernel_enforces_the_memory_limit() -> None:
    with GraderPool() as pool:
        pool.grade([_item("x", "y")])
        (pid,) = pool.worker_pids()
        worker = psutil.Process(pid)
        limit = int(pool.limits.memory_gib * 2**30)
        assert worker.rlimit(psutil.RLIMIT_AS) == (limit, limit)
        assert limit < MEMORY_BYTES
        assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_an_answer_that_exhausts_the_memory_is_a_timeout() -> None:
    # Sympy swallows the failed allocation: without a look at the peak this would be "wrong".
    with GraderPool(GraderLimits(time_s=60, memory_gib=0.15)) as pool:
        peak = peak_resident_bytes(pool, lambda: _grade_among_neighbours(pool, r"2^{10^{10}}"))
        assert 0 < peak < 0.15 * 2**30


def test_several_workers_keep_hostile_answers_apart() -> None:
    with GraderPool(GraderLimits(time_s=0.5, workers=2)) as pool:
        items = [_item("x+1", HOSTILE["power tower"]), _item("x+1", HOSTILE["expansion"])]
        items += [_item("0.5", rf"\frac{{{n}}}{{{2 * n}}}") for n in range(1, 21)]
        graded = pool.grade(items)
        assert [result.verdict for result in graded] == ["timeout"] * 2 + ["correct"] * 20
        assert len(pool.worker_pids()) <= 2
