"""Faults of grading workers, beside honest answers whose verdicts are known."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

from bridge.grading import GradeItem, GraderLimits, GraderPool, Verdict
from tests.drills.base import Found
from tests.drills.workshop import Workshop, check

N = 120
KILLS = 5


def _items() -> list[GradeItem]:
    """Answers that only workers can judge; every third one is wrong."""
    return [
        GradeItem(rf"\boxed{{\frac{{{n}}}{{{2 * n + (n % 3 == 0)}}}}}", "0.5")
        for n in range(1, N + 1)
    ]


EXPECTED: list[Verdict] = ["wrong" if n % 3 == 0 else "correct" for n in range(1, N + 1)]


def dies(shop: Workshop) -> Found:
    """SIGKILL a busy worker every so often while a batch is graded."""
    killed = _killed_now_and_then()
    shop.finish()
    return Found(f"all {N} verdicts, with {killed} kills", "the answer that the worker was judging")


def hangs(shop: Workshop) -> Found:
    """One worker is frozen; the batch goes on and its answer is a timeout, not a wrong one."""
    with GraderPool(GraderLimits(time_s=0.5)) as pool:
        pool.grade(_items()[:1])
        (pid,) = pool.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        verdicts = [graded.verdict for graded in pool.grade(_items()[1:])]
        late = [n for n, word in enumerate(verdicts, 1) if word != EXPECTED[n]]
        check(late == [1] and verdicts[0] == "timeout", f"other verdicts: {late}")
        check(not psutil.pid_exists(pid), "the frozen worker is still there")
    shop.finish()
    return Found(
        f"the other {N - 1} verdicts", "nothing: its answer is 'timeout', which is counted apart"
    )


def eats_memory(shop: Workshop) -> Found:
    """An answer that fills any memory, between honest ones."""
    greedy = GradeItem(r"\boxed{2^{10^{10}}}", "x+1")
    items = _items()
    with GraderPool(GraderLimits(time_s=60, memory_gib=0.2)) as pool:
        half = N // 2
        verdicts = [g.verdict for g in pool.grade([*items[:half], greedy, *items[half:]])]
        check(verdicts.pop(half) == "timeout", "the greedy answer got another verdict")
        check(verdicts == EXPECTED, "a neighbour's verdict changed")
        check(pool.counts["respawns"] == 1, f"{pool.counts['respawns']} workers were replaced")
    shop.finish()
    return Found(f"all {N} verdicts around it", "nothing: the answer is 'timeout'")


def _killed_now_and_then() -> int:
    """Grade all while workers are killed on their second answer; how many were."""
    count, done = 0, threading.Event()
    with GraderPool(GraderLimits(time_s=60)) as pool:

        def trouble() -> None:
            nonlocal count
            # An answer on which two workers die is given up with an error that says so. The first
            # one of a new worker may be one that was hit before.
            spared: set[str] = set()
            newest = 0
            while count < KILLS and not done.is_set():
                for worker in list(pool._dispatcher._workers):
                    job = worker.job
                    if job is None:
                        continue
                    if worker.pid != newest:
                        newest = worker.pid
                        spared.add(job[1])
                    elif job[1] not in spared:
                        os.kill(worker.pid, signal.SIGKILL)
                        count += 1
                time.sleep(0.0005)

        thread = threading.Thread(target=trouble)
        thread.start()
        try:
            verdicts = [graded.verdict for graded in pool.grade(_items())]
        finally:
            done.set()
            thread.join()
        check(verdicts == EXPECTED, "a verdict changed")
        check(count > 0, "no worker was killed")
    return count
