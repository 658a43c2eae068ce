"""Sends gold and answer to worker processes and sees that each gets a verdict in time.

The parent is the only authority on time: a late worker is killed and replaced, and the batch goes
on. Late is a worker that has had its limit of processor time, so that a verdict does not depend on
what else the machine does; one that sleeps instead is late after ``WALL_FACTOR`` limits by the
monotonic clock. An answer costs its own time limit and nothing of its neighbours'. While an answer
has used half its time and others wait, a stand-by worker starts, so that the start-up of the
replacement is not added to the cost.

What the death of a busy worker means depends on who ended it. A crash or an abort is the answer's
doing: ``timeout``. A signal only others can send is not: the answer is judged again, once, by a
fresh worker, and then ``GraderError`` says what is killing workers.
"""

import selectors
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.grading.verdicts import VERDICTS, GraderError, GraderLimits, Verdict
from bridge.grading.worker import Worker, WorkerLost

Job = tuple[str, str, str]
"""Gold answer, extracted answer and an empty text; for a reward function of the user's gold answer,
response and question."""
Judged = tuple[Verdict, float | None]
"""Verdict, and the score where a reward function gave one."""

WALL_FACTOR: Final = 4
"""Times the limit that an answer may take by the clock while it does not get the processor."""

_MIN_WAIT_S: Final = 0.02  # the kernel counts processor time in steps of this order
_MAX_LOSSES: Final = 2  # deaths from outside, of one start or on one answer, before giving up


@dataclass(slots=True)
class _Batch:
    waiting: deque[Job]
    verdicts: dict[Job, Judged] = field(default_factory=dict)
    losses: Counter[Job] = field(default_factory=Counter)


class Dispatcher:
    """The workers of one pool. Not thread-safe; one batch at a time."""

    def __init__(self, limits: GraderLimits, reward: str | None = None) -> None:
        self._limits = limits
        self._reward = reward
        self._workers: list[Worker] = []
        self._failed_starts = 0
        self.respawns = 0
        """Workers killed at a deadline, lost, or replaced because their memory had filled."""

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """Kill all workers."""
        while self._workers:
            self._workers.pop().kill()

    def judge(self, jobs: Sequence[Job]) -> dict[Job, Judged]:
        """Verdict of math-verify, or of the reward function, on each job; no two may be equal.

        Raises ``GraderError`` for a failure that no answer caused, and ``ValueError`` for a gold
        answer of which math-verify makes nothing at all.
        """
        batch = _Batch(waiting=deque(jobs))
        try:
            while len(batch.verdicts) < len(jobs):
                self._staff(len(batch.waiting))
                for worker in self._workers:
                    if worker.idle and batch.waiting:
                        worker.assign(batch.waiting.popleft(), self._limits.time_s)
                for worker in self._wait(bool(batch.waiting)):
                    self._receive(worker, batch)
                self._expire(batch)
        except BaseException:  # Ctrl-C too: a busy worker would answer into the next batch
            for worker in [w for w in self._workers if not w.idle]:
                self._discard(worker)
            raise
        for worker in self._workers[self._limits.workers :]:
            # A stand-by that was not needed after all.
            self._workers.remove(worker)
            worker.kill()
        return batch.verdicts

    def _staff(self, waiting: int) -> None:
        """Start workers for the answers that wait, beside those that will soon be killed."""
        now_s = time.monotonic()
        sound = [w for w in self._workers if not (w.job and now_s >= self._doubt_s(w))]
        busy = sum(worker.job is not None for worker in sound)
        for _ in range(min(self._limits.workers, busy + waiting) - len(sound)):
            deadline_s = time.monotonic() + self._limits.startup_s
            self._workers.append(Worker(self._limits.memory_gib, deadline_s, self._reward))

    def _doubt_s(self, worker: Worker) -> float:
        return worker.assigned_s + self._limits.time_s / 2

    def _wait(self, others_wait: bool) -> list[Worker]:
        """Sleep until a worker replies, takes more of its request, or a clock runs out.

        Returns the workers with something to read.
        """
        clocks_s = [w.deadline_s for w in self._workers if not w.idle]
        if others_wait:
            now_s = time.monotonic()
            doubts_s = [self._doubt_s(w) for w in self._workers if w.job]
            clocks_s += [doubt_s for doubt_s in doubts_s if doubt_s > now_s]
        # Poll, not select: a training process has more descriptors than select can name.
        with selectors.PollSelector() as selector:
            for worker in self._workers:
                selector.register(worker.reads_from, selectors.EVENT_READ, worker)
                if worker.writes_to is not None:
                    selector.register(worker.writes_to, selectors.EVENT_WRITE, worker)
            events = selector.select(max(0.0, min(clocks_s) - time.monotonic()))
        for key, _ in events:
            if key.fd == key.data.writes_to:
                key.data.write()
        return [key.data for key, _ in events if key.fd == key.data.reads_from]

    def _receive(self, worker: Worker, batch: _Batch) -> None:
        try:
            reply = worker.read()
        except WorkerLost as loss:
            self._discard(worker)
            self._explain(worker, loss, batch)
            return
        if reply is None:
            return
        if "failed" in reply and self._reward is not None:
            raise GraderError(
                f"the reward {self._reward} cannot be loaded in a grading worker "
                f"({reply['failed']}); repair it, or raise GraderLimits.memory_gib"
            )
        if "failed" in reply:
            raise GraderError(
                f"a grading worker could not load math-verify ({reply['failed']}); "
                "install math-verify in this environment, or raise GraderLimits.memory_gib"
            )
        if worker.job is None:
            worker.ready, self._failed_starts = True, 0
            return
        batch.verdicts[worker.job] = self._judged(reply, worker.job)
        worker.job = None
        if reply["retire"]:
            self._discard(worker)

    def _explain(self, worker: Worker, loss: WorkerLost, batch: _Batch) -> None:
        """What the end of a process means for the batch."""
        if worker.job is None:
            self._failed_starts += not worker.ready
            if self._failed_starts >= _MAX_LOSSES:
                raise GraderError(
                    f"grading workers die while they start ({loss}); check the memory left to "
                    "this job and that its Python can import math_verify"
                )
        elif not loss.from_outside:
            batch.verdicts[worker.job] = ("timeout", None)
        else:
            batch.losses[worker.job] += 1
            if batch.losses[worker.job] >= _MAX_LOSSES:
                raise GraderError(
                    f"grading workers are being killed from outside ({loss}); if the machine is "
                    "out of memory, lower GraderLimits.memory_gib or GraderLimits.workers"
                )
            batch.waiting.appendleft(worker.job)

    def _expire(self, batch: _Batch) -> None:
        now_s = time.monotonic()
        for worker in [w for w in self._workers if not w.idle and now_s >= w.deadline_s]:
            left_s = self._left_s(worker, now_s)
            if left_s > 0:
                worker.deadline_s = now_s + max(left_s, _MIN_WAIT_S)
                continue
            self._discard(worker)
            if worker.job is None:
                raise GraderError(
                    f"a grading worker did not start within {self._limits.startup_s:g} s; "
                    "raise GraderLimits.startup_s if the file system is slow"
                )
            batch.verdicts[worker.job] = ("timeout", None)

    def _left_s(self, worker: Worker, now_s: float) -> float:
        """What a worker at its deadline may still use: it need not have had the processor."""
        if worker.job is None:
            return 0.0
        by_clock_s = worker.assigned_s + WALL_FACTOR * self._limits.time_s - now_s
        return min(self._limits.time_s - worker.job_cpu_s(), by_clock_s)

    def _discard(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()
        self.respawns += 1

    def _judged(self, reply: dict[str, Any], job: Job) -> Judged:
        if "gold_unreadable" in reply:
            raise ValueError(
                f"math-verify cannot parse the gold answer {job[0][:80]!r}: "
                "repair it in the data set, or drop the question"
            )
        if "fault" in reply:
            raise GraderError(
                f"the reward {self._reward} {reply['fault']}, for the response {job[1][:80]!r} to "
                f"{job[2][:80]!r}; repair it (None says that a response cannot be read)"
            )
        verdict: Verdict = reply["verdict"]
        if verdict not in VERDICTS:
            raise GraderError(f"a grading worker replied {verdict!r}, which is not a verdict")
        return verdict, reply.get("score")
