"""Grades batches of untrusted texts in killable worker processes.

Most answers never reach a worker: texts without a box, plain integers, choices, lists of roles and
pairs seen before are decided here. The rest go, each pair once, to workers that start when first
needed (``dispatch``). At most ``time_s`` of a processor (plus a worker's start, where no other
answer was waiting) and ``memory_gib`` are spent on an answer, whatever it is.

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
from typing import Self

from bridge.grading.dispatch import Dispatcher, Pair
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


class GraderPool:
    """A grader with a cache, counters and worker processes of its own.

    One pool per process; calls from several threads take turns. Close it, or use it in ``with``;
    its workers also die with the process that made it, and with the thread that started them.
    """

    def __init__(self, limits: GraderLimits | None = None) -> None:
        self.limits = GraderLimits() if limits is None else limits
        self.counts: dict[str, int] = dict.fromkeys((*sorted(VERDICTS), "respawns"), 0)
        """Verdicts given, by word, and ``respawns``: workers killed, lost or worn out."""
        self._dispatcher = Dispatcher(self.limits)
        self._cache: OrderedDict[bytes, Verdict] = OrderedDict()
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
            answers = [self._read(item) for item in items]
            # A dictionary: each pair once, in the order of the batch.
            undecided: dict[Pair, Verdict | None] = {
                (item.gold, answer): None
                for item, (answer, verdict) in zip(items, answers, strict=True)
                if answer is not None and verdict is None
            }
            judged = self._judge(list(undecided))
            graded = [
                Graded(verdict or judged[item.gold, answer or ""], answer)
                for item, (answer, verdict) in zip(items, answers, strict=True)
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

    def _read(self, item: GradeItem) -> tuple[str | None, Verdict | None]:
        """The answer in the text, and the verdict where no worker is needed for it."""
        answer = last_boxed(item.text, thinking=item.thinking)
        if answer is None:
            return None, "truncated" if item.truncated else "unparsed"
        if len(answer) > self.limits.answer_chars:
            return None, "unparsed"
        verdict = (
            integer_verdict(item.gold, answer)
            or choice_verdict(item.gold, answer)
            or roles_verdict(item.gold, answer)
        )
        if verdict is None and (key := _key((item.gold, answer))) in self._cache:
            self._cache.move_to_end(key)
            verdict = self._cache[key]
        return answer, verdict

    def _judge(self, pairs: Sequence[Pair]) -> dict[Pair, Verdict]:
        """Verdicts of the workers, remembered for later batches.

        A ``timeout`` is remembered like the rest: the same answer must not cost its limit again.
        """
        try:
            verdicts = self._dispatcher.judge(pairs)
        finally:
            self.counts["respawns"] = self._dispatcher.respawns
        for pair, verdict in verdicts.items():
            self._cache[_key(pair)] = verdict
        while len(self._cache) > self.limits.cache_entries:
            self._cache.popitem(last=False)
        return verdicts


def _key(pair: Pair) -> bytes:
    # JSON keeps the three parts apart and carries lone surrogates, which UTF-8 cannot.
    return sha256(dumps([*pair, GRADER_VERSION]).encode("ascii")).digest()
