"""The worker program: compares one answer with one gold answer by math-verify.

Runs as a script in a process of its own and imports nothing but the standard library and
math-verify, so that a worker starts in about half a second and holds about 60 MB. ``worker`` speaks
with it: one JSON object a line, requests on stdin, replies on stdout.

Left out: math-verify's own time limits. They are alarms: the interpreter notices one only between
bytecodes, so a long factorial runs on; they cancel any alarm of the host program; and when one does
fire, the answer is reported as unequal. The parent's clock decides instead, and kills. Left out
too: math-verify's search for bare numbers in prose, which reads ``5`` out of LaTeX it cannot parse.
"""

import ctypes
import json
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h
_UNESCAPED_DOLLAR: Final = re.compile(r"(?<!\\)\$")
_BOX_COMMAND: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")

Reply = dict[str, str | bool]


def confine(memory_bytes: int, parent_pid: int) -> None:
    """Limit this process's memory and tie its life to the parent. Irreversible."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C reaches the whole process group; the parent decides what it means for a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        # End of stdin ends an idle worker; only the kernel can end one that is stuck in C code.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent_pid:  # the parent died before the request above
            os._exit(1)


def as_math(answer: str) -> str:
    """``answer`` as a single piece of inline mathematics, the only form math-verify reads fully.

    Dollar signs and box commands inside are dropped and white space joined: left in place they
    would make several candidates, which math-verify gathers into a set.
    """
    bare = _BOX_COMMAND.sub("", _UNESCAPED_DOLLAR.sub("", answer))
    return f"${' '.join(bare.split())}$"


class Comparison:
    """math-verify, loaded once and warmed up. Needs the main thread of a process of its own."""

    def __init__(self) -> None:
        from math_verify import LatexExtractionConfig, parse, verify

        # It logs the whole text of whatever it cannot read.
        logging.disable(logging.CRITICAL)
        self._parse: Callable[..., list[Any]] = parse
        self._verify: Callable[..., bool] = verify
        self._how = [LatexExtractionConfig()]
        self.judge(r"\frac{1}{2}", "0.5")

    def judge(self, gold: str, answer: str) -> Reply:
        """Verdict on ``answer``: ``correct``, ``wrong``, ``unparsed``, ``timeout`` (memory).

        ``gold_unreadable`` is set instead where math-verify makes nothing at all of the gold.
        """
        try:
            reference = self._read(gold)
            if not reference:
                return {"gold_unreadable": True}
            candidate = self._read(answer)
            # Order matters: verify(gold, prediction) is not symmetric.
            if any(self._same(g, c) for g in reference for c in candidate):
                return {"verdict": "correct"}
        except MemoryError:
            return {"verdict": "timeout", "exhausted": True}
        if _only_text(candidate) and not _only_text(reference):
            return {"verdict": "unparsed"}
        return {"verdict": "wrong"}

    def _read(self, answer: str) -> list[Any]:
        """An expression, where it can be made, and the normalised text; or an empty list."""
        try:
            return self._parse(
                as_math(answer),
                extraction_config=self._how,
                parsing_timeout=None,
                raise_on_error=True,
            )
        except MemoryError:
            raise
        except Exception:  # sympy and antlr raise nearly every class there is on odd input
            return []

    def _same(self, gold: Any, answer: Any) -> bool:
        try:
            return self._verify(gold, answer, timeout_seconds=None, raise_on_error=True)
        except MemoryError:
            raise
        except Exception:  # what sympy cannot compare is not shown to be equal
            return False


def _only_text(parsed: list[Any]) -> bool:
    return all(isinstance(entry, str) for entry in parsed)


def peak_address_space_bytes() -> int:
    """Largest address space this process has had; 0 where it cannot be told (not Linux)."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(line for line in status if line.startswith("VmPeak:"))
    return int(peak.split()[1]) * 1024


def serve(memory_bytes: int, parent_pid: int) -> int:
    """Answer requests until stdin ends. Returns the exit status."""
    confine(memory_bytes, parent_pid)
    # Only replies may reach the pipe: libraries print warnings and parse errors.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        comparison = Comparison()
    except Exception as error:  # whatever it is, the parent must be told in words
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=replies)
        return 1
    print(json.dumps({"ready": True}), file=replies)
    start = peak_address_space_bytes()
    room = memory_bytes - start
    for line in sys.stdin.buffer:
        request = json.loads(line)
        reply = comparison.judge(request["gold"], request["answer"])
        peak = peak_address_space_bytes()
        # Sympy catches most failed allocations itself and goes on, so that a comparison which ran
        # out of memory would come back as unequal. The peak betrays it.
        if peak > start + room // 2 and reply.get("verdict") in ("wrong", "unparsed"):
            reply = {"verdict": "timeout"}
        # Results stay in sympy's caches. A worker that has used a quarter of its room is replaced,
        # so that no answer runs out of memory because of the one before it.
        reply["retire"] = "exhausted" in reply or peak > start + room // 4
        print(json.dumps(reply), file=replies)
    return 0


if __name__ == "__main__":
    raise SystemExit(serve(memory_bytes=int(sys.argv[1]), parent_pid=int(sys.argv[2])))
