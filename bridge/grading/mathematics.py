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
from dataclasses import replace
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h
_UNESCAPED_DOLLAR: Final = re.compile(r"(?<!\\)\$")
_BOX_COMMAND: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_SCIENTIFIC: Final = re.compile(r"([-+]?[0-9]+(?:\.[0-9]*)?)[eE]([-+]?[0-9]{1,4})")
_STRAY_END: Final = re.compile(r"(?<=[^\\.,;])[.,;]$")
_NAMED_INDEX: Final = re.compile(r"_\{?\s*\\(max|min|odot)(?![A-Za-z])\s*\}?")
_EULER_INDEX: Final = re.compile(r"(?<![A-Za-z\\])E(?=_)")
_BASE: Final = re.compile(r"[0-9]\s*_\s*\{?\s*([0-9]+)")
_INEQUALITY: Final = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt|leqslant|geqslant)(?![A-Za-z])")
_OPEN_SIZE: Final = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|\s")

Reply = dict[str, str | bool]


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


def as_math(answer: str) -> str:
    """``answer`` as a single piece of inline mathematics, the only form math-verify reads fully.

    Dollar signs and box commands inside are dropped and white space joined: left in place they
    would make several candidates, which math-verify gathers into a set.
    """
    bare = " ".join(_BOX_COMMAND.sub("", _UNESCAPED_DOLLAR.sub("", answer)).split())
    # The full stop of a sentence: math-verify would read text instead of a number.
    bare = scientific(_STRAY_END.sub("", bare).rstrip())
    # Names that it cannot read: an operator as an index, and E with an index (not Euler's number).
    bare = _EULER_INDEX.sub(r"\\Xi", _NAMED_INDEX.sub(r"_{\1}", bare))
    return f"${bare}$"


def scientific(number: str) -> str:
    r"""``4.5e33`` as ``4.5 \times 10^{33}``: math-verify takes the e for Euler's number.

    Anything but such a number alone is returned as it is.
    """
    match = _SCIENTIFIC.fullmatch(number)
    return rf"{match[1]} \times 10^{{{int(match[2])}}}" if match else number


def base(answer: str) -> str:
    """The base that a number is written in, ``43_5`` or ``43_{5}``; nothing where none is."""
    match = _BASE.search(answer)
    return match[1] if match else ""


def brackets(answer: str) -> str:
    """``ordered`` for what stands in round or square brackets, ``set`` for braces, else nothing."""
    bare = _OPEN_SIZE.sub("", _UNESCAPED_DOLLAR.sub("", answer))
    if "," not in bare:
        return ""
    if bare.startswith(("(", "[")) and bare.endswith((")", "]")):
        return "ordered"
    return "set" if bare.startswith("\\{") and bare.endswith("\\}") else ""


class Comparison:
    """math-verify, loaded once and warmed up. Needs the main thread of a process of its own."""

    def __init__(self) -> None:
        from math_verify import LatexExtractionConfig, parse, verify

        # It logs the whole text of whatever it cannot read.
        logging.disable(logging.CRITICAL)
        self._parse: Callable[..., list[Any]] = parse
        self._verify: Callable[..., bool] = verify
        self._how = [LatexExtractionConfig()]
        # For golds that are letters, which the usual reading takes for units: a + b + c, sin^2 t.
        plain = replace(self._how[0].normalization_config, units=False, nits=False)
        self._letters = [LatexExtractionConfig(normalization_config=plain)]
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
            # An ordered pair is no set: math-verify reads (1, 2) as an interval or as a set.
            mixed = {brackets(gold), brackets(answer)} == {"ordered", "set"}
            # It drops the base of a number, too.
            mixed |= bool(base(gold) and base(answer) and base(gold) != base(answer))
            if not mixed and self._equal(gold, answer, reference, candidate):
                return {"verdict": "correct"}
        except MemoryError:
            return {"verdict": "timeout", "exhausted": True}
        if _only_text(candidate) and not _only_text(reference):
            return {"verdict": "unparsed"}
        return {"verdict": "wrong"}

    def _equal(self, gold: str, answer: str, reference: list[Any], candidate: list[Any]) -> bool:
        # Order matters: verify(gold, prediction) is not symmetric.
        if any(self._same(g, c) for g in reference for c in candidate):
            return True
        if _INEQUALITY.search(answer) and not _INEQUALITY.search(gold):
            # An inequality for an interval is understood the other way round only.
            return any(self._same(c, g) for g in reference for c in candidate)
        if _only_text(reference):
            pairs = [(g, c) for g in self._symbols(gold) for c in self._symbols(answer)]
            return any(self._same(g, c) for g, c in pairs)
        return False

    def _symbols(self, answer: str) -> list[Any]:
        read = self._read(answer, self._letters)
        return [entry for entry in read if not isinstance(entry, str)]

    def _read(self, answer: str, how: list[Any] | None = None) -> list[Any]:
        """An expression, where it can be made, and the normalised text; or an empty list."""
        try:
            return self._parse(
                as_math(answer),
                extraction_config=how or self._how,
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
