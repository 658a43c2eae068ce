"""What the processor multiplies fast."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16"}
"""Instructions for products in bfloat16; the last one is Arm's name."""


def has_bfloat16() -> bool:
    """Whether there are instructions for bfloat16 products, which else are several times slower
    than those in float32."""
    return bool(flags() & _BFLOAT16)


@cache
def flags() -> frozenset[str]:
    """Instruction sets of the processor; empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    named = (value for key, _, value in lines if key.strip() in ("flags", "Features"))
    return frozenset(next(named, "").split())
