"""The worker program: judges one answer against one gold answer at a time.

Runs in a process of its own and imports nothing but the standard library, math-verify and its
neighbours here, so that a worker starts in about half a second and holds about 60 MB. ``worker``
speaks with it: one JSON object a line, requests on stdin, replies on stdout.

Left out: math-verify's own time limits. They are alarms: the interpreter notices one only between
bytecodes, so a long factorial runs on; they cancel any alarm of the host program; and when one does
fire, the answer is reported as unequal. The parent's clock decides instead, and kills.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from bridge.grading.own_reward import OwnReward

_PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h


def confine(memory_bytes: int, parent_pid: int) -> None:
    """Limit this process's memory and tie its life to the parent. Irreversible."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C reaches the whole process group, and a cluster's SIGTERM every process of a job; the
    # parent decides what they mean for a worker.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        # End of stdin ends an idle worker; only the kernel can end one that is stuck in C code.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent_pid:  # the parent died before the request above
            os._exit(1)


def peak_address_space_bytes() -> int:
    """Largest address space this process has had; 0 where it cannot be told (not Linux)."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(line for line in status if line.startswith("VmPeak:"))
    return int(peak.split()[1]) * 1024


def serve(memory_bytes: int, parent_pid: int, reward: str | None = None) -> int:
    """Answer requests until stdin ends. Returns the exit status."""
    confine(memory_bytes, parent_pid)
    # Only replies may reach the pipe: libraries print warnings and parse errors.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        judge = _comparison() if reward is None else OwnReward(reward).judge
    except (Exception, SystemExit) as error:  # whatever it is, the parent must be told in words
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=replies)
        return 1
    print(json.dumps({"ready": True}), file=replies)
    start = peak_address_space_bytes()
    room = memory_bytes - start
    for line in sys.stdin.buffer:
        reply = judge(*json.loads(line))
        peak = peak_address_space_bytes()
        # Sympy catches most failed allocations itself and goes on, so that a comparison which ran
        # out of memory would come back as unequal. The peak betrays it.
        suspect = reward is None and reply.get("verdict") in ("wrong", "unparsed")
        if suspect and peak > start + room // 2:
            reply = {"verdict": "timeout"}
        # Results stay in sympy's caches. A worker that has used a quarter of its room is replaced,
        # so that no answer runs out of memory because of the one before it.
        reply["retire"] = "exhausted" in reply or peak > start + room // 4
        print(json.dumps(reply), file=replies)
    return 0


def _comparison() -> Callable[[str, str, str], dict[str, Any]]:
    # Here and not above: a reward function of the user's need not wait for math-verify.
    from bridge.grading.mathematics import Comparison

    comparison = Comparison()
    return lambda gold, answer, _: dict(comparison.judge(gold, answer))


if __name__ == "__main__":
    raise SystemExit(serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
