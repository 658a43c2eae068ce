"""What a number was measured on: the kind of processor, and what of it decides speed."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Flags of /proc/cpuinfo that decide how fast matrices are multiplied."""


def processor() -> dict[str, Any]:
    """Model, features, cores and memory of this machine, and the Python that runs."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    flags = set(facts.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "model": facts.get("model name", platform.machine()),
        "family": [facts.get("cpu family"), facts.get("model")],
        "features": [name for name in FEATURES if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "python": sys.version.split()[0],
    }
