"""Grades batches of untrusted texts in killable worker processes.

Most answers never reach a worker: texts without a box, plain integers, choices, lists of roles and
pairs seen before are decided here. The rest go, each pair once, to workers that start when first
needed (``dispatch``). At most ``time_s`` of a processor (plus a worker's start, where no other
answer was waiting) and ``memory_gib`` are spent on an answer, whatever it is.

With a reward function of the user's every text goes to the workers, which call the function under
the same limits instead of comparing (``own_reward``).

Not covered: a machine so short of processors that a worker gets less than a quarter of one, where a
slow honest answer may time out, and macOS, which does not honour the memory limit. Left out:
partial results. A batch is graded whole or raises.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from json import dumps
from types import TracebackType
from typing import NamedTuple, Self

from bridge.grading.dispatch import Dispatcher, Job, Judged
from bridge.grading.extraction import last_boxed
from bridge.grading.logic import choice_verdict, roles_verdict
from bridge.grading.verdicts import (
    GRADER_VERSION,
    VERDICTS,
    Graded,
    GradeItem,
    GraderError,
    GraderLimits,
    Verdict,
    integer_verdict,
)


class _Read(NamedTuple):
    """An item on its way to a verdict."""

    extracted: str | None
    job: Job
    judged: Judged | None


class GraderPool:
    """A grader with a cache, counters and worker processes of its own.

    One pool per process; calls from several threads take turns. Close it, or use it in ``with``;
    its workers also die with the process that made it, and with the thread that started them.
    """

    def __init__(self, limits: GraderLimits | None = None, reward: str | None = None) -> None:
        self.limits = GraderLimits() if limits is None else limits
        self._reward = reward
        self.counts: dict[str, int] = dict.fromkeys((*sorted(VERDICTS), "respawns"), 0)
        """Verdicts given, by word, and ``respawns``: workers killed, lost or worn out."""
        self._dispatcher = Dispatcher(self.limits, reward)
        self._cache: OrderedDict[bytes, Judged] = OrderedDict()
        self._owner_pid = os.getpid()
        self._turn = threading.Lock()
        self._closed = False

    def grade(self, items: Sequence[GradeItem]) -> list[Graded]:
        """Judge each item; results are in the order of ``items``.

        Raises ``GraderError`` when the machinery fails and ``ValueError`` when math-verify can
        make nothing of a gold answer. Neither leaves a worker behind that is still busy.
        """
        with self._turn:
            self._check_usable()
            found = [self._read(item) for item in items]
            # A dictionary: each job once, in the order of the batch.
            judged = self._judge(list(dict.fromkeys(r.job for r in found if r.judged is None)))
            graded = [
                self._graded(item, read.extracted, read.judged or judged[read.job])
                for item, read in zip(items, found, strict=True)
            ]
            for result in graded:
                self.counts[result.verdict] += 1
            return graded

    def worker_pids(self) -> list[int]:
        """Process ids of the living workers, for monitoring."""
        return self._dispatcher.pids

    def close(self) -> None:
        """Kill all workers. The pool cannot be used afterwards; closing twice is harmless."""
        self._closed = True
        if os.getpid() == self._owner_pid:  # a forked copy must not kill its parent's workers
            self._dispatcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise GraderError("this GraderPool is closed; make a new one to grade more")
        if os.getpid() != self._owner_pid:
            raise GraderError(
                f"this GraderPool belongs to process {self._owner_pid}; "
                "make one in each process that grades"
            )

    def _read(self, item: GradeItem) -> _Read:
        """The answer in the text, and what is said of it where no worker is needed for that."""
        answer = last_boxed(item.text, thinking=item.thinking)
        if self._reward is not None:
            return self._remembered(answer, (item.gold, item.text, item.question))
        job = (item.gold, answer or "", "")
        verdict: Verdict | None = None
        if answer is None:
            verdict = "truncated" if item.truncated else "unparsed"
        elif len(answer) > self.limits.answer_chars:
            answer, verdict = None, "unparsed"
        else:
            verdict = (
                integer_verdict(item.gold, answer)
                or choice_verdict(item.gold, answer)
                or roles_verdict(item.gold, answer)
            )
        if verdict is not None:
            return _Read(answer, job, (verdict, None))
        return self._remembered(answer, job)

    def _graded(self, item: GradeItem, extracted: str | None, judged: Judged) -> Graded:
        verdict, score = judged
        cut = self._reward is not None and item.truncated and verdict == "unparsed"
        return Graded("truncated" if cut else verdict, extracted, score)

    def _remembered(self, answer: str | None, job: Job) -> _Read:
        if (judged := self._cache.get(key := _key(job))) is not None:
            self._cache.move_to_end(key)
        return _Read(answer, job, judged)

    def _judge(self, jobs: Sequence[Job]) -> dict[Job, Judged]:
        """Verdicts of the workers, remembered for later batches.

        A ``timeout`` is remembered like the rest: the same answer must not cost its limit again.
        """
        try:
            judged = self._dispatcher.judge(jobs)
        finally:
            self.counts["respawns"] = self._dispatcher.respawns
        for job, found in judged.items():
            self._cache[_key(job)] = found
        while len(self._cache) > self.limits.cache_entries:
            self._cache.popitem(last=False)
        return judged


def _key(job: Job) -> bytes:
    # JSON keeps the parts apart and carries lone surrogates, which UTF-8 cannot.
    return sha256(dumps([*job, GRADER_VERSION]).encode("ascii")).digest()
