"""The pool: verdicts, cache, counters, and what happens when processes die."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bridge.grading import (
    Graded,
    GradeItem,
    GraderError,
    GraderLimits,
    GraderPool,
    Verdict,
    program,
)
from bridge.grading import pool as pool_module
from bridge.grading.worker import Worker

HALF = GradeItem(r"\boxed{\frac{2}{4}}", "0.5")
THIRD = GradeItem(r"\boxed{\frac{1}{3}}", "0.5")
ENDLESS = GradeItem(r"\boxed{9^{9^{9}}}", "x+1")


def boxed(answer: str, gold: str) -> GradeItem:
    return GradeItem(rf"\boxed{{{answer}}}", gold)


def words(graded: list[Graded]) -> list[Verdict]:
    return [result.verdict for result in graded]


@pytest.fixture(scope="module")
def shared() -> Iterator[GraderPool]:
    with GraderPool() as pool:
        yield pool


@pytest.fixture
def fresh() -> Iterator[GraderPool]:
    # A minute: in these tests nothing may depend on the clock.
    with GraderPool(GraderLimits(time_s=60)) as pool:
        yield pool


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        # The order (gold, prediction) matters, except between an interval and an inequality.
        ("1<x<2", "(1,2)", "correct"),
        ("(1,2)", "1<x<2", "correct"),
        ("101", "a+2z=2z+a=101", "correct"),
        ("a+2z=2z+a=101", "101", "wrong"),
        # math-verify alone takes an ordered pair for a set.
        ("(1,2)", r"\{1,2\}", "wrong"),
        (r"\{1,2\}", "(2,1)", "wrong"),
        ("(1,2)", "(2,1)", "wrong"),
        # Decimals are compared at six places.
        ("1/3", "0.3333", "wrong"),
        ("1/3", "0.333333", "correct"),
        # Wrapped in dollar signs, a bare gold is read; its own dollar signs do no harm.
        (r"\frac{1}{2}", "1/2", "correct"),
        (r"$\frac{1}{2}$", "$0.5$", "correct"),
        (r"\text{Monday}", "Monday", "correct"),
        (r"\text{Monday}", "Tuesday", "wrong"),
        (r"x^2 + 2x + 1", r"(x + 1)^2", "correct"),
        # One candidate: a list in one box is one answer, whose parts are not tried one by one.
        (r"\{3,4\}", "3$ and $4", "correct"),
        ("3", "3$ or $4", "wrong"),
        ("4", "9$ hence $4", "wrong"),
        ("4", r"9 - x = \boxed{4}", "correct"),
        ("4", r"9, \boxed{4}", "wrong"),
        ("5", r"x^2 + \foo??? 5", "unparsed"),
        ("1/2", "1/\n2", "correct"),
        ("x", "\ud800", "unparsed"),
        ("x", "1\x002", "unparsed"),
    ],
)
def test_what_math_verify_says(
    shared: GraderPool, gold: str, answer: str, verdict: Verdict
) -> None:
    assert shared.grade([boxed(answer, gold)]) == [Graded(verdict, answer.strip())]


def test_the_last_box_after_the_thinking_counts(shared: GraderPool) -> None:
    two = r"<think>\boxed{9}</think> \boxed{\frac{3}{1}} no, \boxed{\frac{4}{1}}"
    assert words(shared.grade([GradeItem(two, gold) for gold in ("3", "4", "9")])) == [
        "wrong",
        "correct",
        "wrong",
    ]


def test_texts_without_an_answer(shared: GraderPool) -> None:
    items = [
        GradeItem("no box", "7"),
        GradeItem(r"\boxed{7", "7"),
        GradeItem("cut before a box", "7", truncated=True),
        GradeItem(r"<think>\boxed{7} and", "7", truncated=True),
        GradeItem(r"\boxed{7} cut after the box", "7", truncated=True),
        GradeItem(r"\boxed{8} cut after the box", "7", truncated=True),
    ]
    assert shared.grade(items) == [
        Graded("unparsed", None),
        Graded("unparsed", None),
        Graded("truncated", None),
        Graded("truncated", None),
        Graded("correct", "7"),
        Graded("wrong", "8"),
    ]


def test_an_answer_over_the_cap_is_not_read() -> None:
    with GraderPool(GraderLimits(answer_chars=5)) as pool:
        assert pool.grade([boxed("00007", "7"), boxed("000007", "7")]) == [
            Graded("correct", "00007"),
            Graded("unparsed", None),
        ]


def test_workers_start_only_when_mathematics_is_needed(fresh: GraderPool) -> None:
    fresh.grade([boxed("7", "7"), boxed("8", "7"), GradeItem("none", "7")])
    assert fresh.worker_pids() == []
    assert words(fresh.grade([HALF])) == ["correct"]
    assert len(fresh.worker_pids()) == 1


def test_a_worker_holds_only_math_verify() -> None:
    program = (
        "import sys; from bridge.grading import program; program._comparison();"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""  # math-verify's logger would print here, answers included
    loaded = set(done.stdout.split())
    assert "math_verify" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pandas", "pydantic"}


def test_the_program_has_no_effect_when_imported() -> None:
    assert "serve" in runpy.run_path(program.__file__)


def test_counts(fresh: GraderPool) -> None:
    fresh.grade([HALF, HALF, THIRD, boxed("7", "7"), GradeItem("", "7"), GradeItem("", "7", True)])
    fresh.grade([HALF])
    assert fresh.counts == {
        "correct": 4,
        "wrong": 1,
        "unparsed": 1,
        "truncated": 1,
        "timeout": 0,
        "respawns": 0,
    }


def test_each_pair_is_judged_once(fresh: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []
    judge = fresh._dispatcher.judge
    monkeypatch.setattr(
        fresh._dispatcher, "judge", lambda pairs: asked.extend(pairs) or judge(pairs)
    )
    first = fresh.grade([HALF, THIRD, HALF])
    assert fresh.grade([THIRD, HALF]) == [first[1], first[0]]
    assert asked == [("0.5", r"\frac{2}{4}", ""), ("0.5", r"\frac{1}{3}", "")]
    # The same answer to another question is another pair.
    fresh.grade([boxed(r"\frac{2}{4}", "x")])
    assert asked[2:] == [("x", r"\frac{2}{4}", "")]
    # Another grader's verdicts are not ours.
    monkeypatch.setattr(pool_module, "GRADER_VERSION", "another")
    fresh.grade([HALF])
    assert asked[3:] == [("0.5", r"\frac{2}{4}", "")]


def test_the_cache_forgets_the_least_recently_used() -> None:
    with GraderPool(GraderLimits(cache_entries=2)) as pool:
        pool.grade([HALF, THIRD])
        pool.grade([HALF])
        pool.grade([boxed("x", "x")])
        kept = {pool_module._key(pair) for pair in [("0.5", r"\frac{2}{4}", ""), ("x", "x", "")]}
        assert set(pool._cache) == kept


def _once_busy(pool: GraderPool, then: Callable[[], None]) -> threading.Thread:
    """Call ``then`` from a thread as soon as a worker of the pool has an answer to judge."""

    def wait() -> None:
        while not any(worker.job for worker in list(pool._dispatcher._workers)):
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _with_stopped_worker(pool: GraderPool, then: Callable[[int], None]) -> threading.Thread:
    """Freeze the idle worker, so that it is surely still busy when ``then(pid)`` is called."""
    pool.grade([boxed("a", "b")])
    (pid,) = pool.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    return _once_busy(pool, lambda: then(pid))


def test_a_worker_killed_from_outside_costs_nobody_a_verdict(fresh: GraderPool) -> None:
    thread = _with_stopped_worker(fresh, lambda pid: os.kill(pid, signal.SIGKILL))
    assert words(fresh.grade([HALF, THIRD, boxed("x", "x")])) == ["correct", "wrong", "correct"]
    thread.join()
    assert fresh.counts["respawns"] == 1 and fresh.counts["timeout"] == 0


def test_a_worker_killed_while_idle_is_replaced(fresh: GraderPool) -> None:
    fresh.grade([HALF])
    (pid,) = fresh.worker_pids()
    os.kill(pid, signal.SIGKILL)
    assert words(fresh.grade([THIRD, boxed("x", "x")])) == ["wrong", "correct"]
    assert pid not in fresh.worker_pids()


def test_a_crash_is_the_answers_doing(fresh: GraderPool) -> None:
    def crash(pid: int) -> None:
        os.kill(pid, signal.SIGABRT)  # what GMP and glibc do when they cannot go on
        os.kill(pid, signal.SIGCONT)

    thread = _with_stopped_worker(fresh, crash)
    assert words(fresh.grade([HALF, THIRD])) == ["timeout", "wrong"]
    thread.join()


def test_a_frozen_worker_is_given_up_at_the_deadline() -> None:
    with GraderPool(GraderLimits(time_s=0.5)) as pool:
        thread = _with_stopped_worker(pool, lambda pid: None)
        assert words(pool.grade([HALF, THIRD])) == ["timeout", "wrong"]
        thread.join()


def test_an_answer_that_gets_no_processor_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    # Frozen for twice its limit by the clock, as on a machine with too much else to do.
    with GraderPool(GraderLimits(time_s=1.0)) as pool:
        looked: list[float] = []
        job_cpu_s = Worker.job_cpu_s

        def wake(worker: Worker) -> float:
            looked.append(job_cpu_s(worker))
            if len(looked) == 2:
                os.kill(worker.pid, signal.SIGCONT)
            return looked[-1]

        monkeypatch.setattr(Worker, "job_cpu_s", wake)
        thread = _with_stopped_worker(pool, lambda pid: None)
        assert words(pool.grade([HALF, THIRD])) == ["correct", "wrong"]
        thread.join()
        assert len(looked) >= 2 and pool.counts["respawns"] == 0


def test_workers_killed_again_and_again_are_an_error_not_a_verdict(fresh: GraderPool) -> None:
    done = threading.Event()

    def kill_busy_workers() -> None:
        while not done.wait(0.02):
            for worker in list(fresh._dispatcher._workers):
                if worker.job is not None:
                    with contextlib.suppress(ProcessLookupError):  # reaped since we looked
                        os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_busy_workers)
    killer.start()
    try:
        with pytest.raises(GraderError, match=r"killed from outside .*memory_gib"):
            fresh.grade([ENDLESS])
    finally:
        done.set()
        killer.join()
    assert sum(fresh.counts.values()) == fresh.counts["respawns"] == 2
    assert words(fresh.grade([HALF])) == ["correct"]


@pytest.mark.parametrize(
    ("source", "startup_s", "message"),
    [
        ("raise ImportError('no such thing')", 60, r"ImportError: no such thing.*install"),
        ("import os; os._exit(3)", 60, "die while they start"),
        ("import time; time.sleep(60)", 0.7, "did not start within 0.7 s"),
    ],
)
def test_a_worker_that_cannot_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, startup_s: float, message: str
) -> None:
    (tmp_path / "math_verify.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with GraderPool(GraderLimits(startup_s=startup_s)) as pool:
        with pytest.raises(GraderError, match=message):
            pool.grade([boxed("7", "7"), HALF])
        assert pool.worker_pids() == []
        assert not any(count for word, count in pool.counts.items() if word != "respawns")


def test_a_gold_that_cannot_be_read_names_itself(fresh: GraderPool) -> None:
    with pytest.raises(ValueError, match=r"'\$\$'.*repair it"):
        fresh.grade([HALF, boxed("7", "$$")])
    assert words(fresh.grade([HALF])) == ["correct"]


def test_an_interrupted_batch_leaves_no_reply_for_the_next(fresh: GraderPool) -> None:
    fresh.grade([THIRD])

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    thread = _once_busy(fresh, lambda: os.kill(os.getpid(), signal.SIGALRM))
    try:
        with pytest.raises(KeyboardInterrupt):
            fresh.grade([ENDLESS])
    finally:
        signal.signal(signal.SIGALRM, previous)
        thread.join()
    assert fresh.worker_pids() == []
    assert words(fresh.grade([HALF, boxed("x", "y")])) == ["correct", "wrong"]


def test_the_callers_alarm_keeps_running(fresh: GraderPool) -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        fresh.grade([HALF])
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_for_the_caller_not_for_the_workers(
    fresh: GraderPool, number: signal.Signals
) -> None:
    fresh.grade([HALF])
    (pid,) = fresh.worker_pids()
    os.kill(pid, number)
    assert words(fresh.grade([THIRD])) == ["wrong"]
    assert fresh.worker_pids() == [pid]


def test_a_closed_pool_says_so(fresh: GraderPool) -> None:
    fresh.close()
    fresh.close()
    with pytest.raises(GraderError, match="closed; make a new one"):
        fresh.grade([])


def test_a_forked_copy_refuses_and_leaves_the_workers_alone(fresh: GraderPool) -> None:
    fresh.grade([HALF])
    child = os.fork()
    if child == 0:
        try:
            fresh.grade([THIRD])
        except GraderError:
            fresh.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert words(fresh.grade([THIRD])) == ["wrong"]
    assert fresh.counts["respawns"] == 0


def test_nothing_is_left_behind() -> None:
    me = psutil.Process()
    descriptors, children = me.num_fds(), me.children()
    for _ in range(3):
        with GraderPool(GraderLimits(time_s=0.2, workers=2)) as pool:
            assert words(pool.grade([HALF, ENDLESS, THIRD])) == ["correct", "timeout", "wrong"]
    assert me.num_fds() == descriptors
    assert me.children() == children  # zombies are children too


_PARENT = r"""
import threading, time
from bridge.grading import GradeItem, GraderLimits, GraderPool
pool = GraderPool(GraderLimits(time_s=300))
def tell():
    while not any(worker.job for worker in pool._dispatcher._workers):
        time.sleep(0.05)
    print(*pool.worker_pids(), flush=True)
threading.Thread(target=tell, daemon=True).start()
pool.grade([GradeItem(r"\boxed{9^{9^{9}}}", "x+1")])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a busy worker outlives its parent elsewhere")
def test_a_busy_worker_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
    for _ in range(200):
        if not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    worker.kill()
    pytest.fail("the worker outlived its parent by ten seconds")
