"""What a number was measured on: the kind of processor, and what of it decides speed."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Flags of /proc/cpuinfo that decide how fast matrices are multiplied; the last three are ARM's."""
CPUINFO = Path("/proc/cpuinfo")


def processor() -> dict[str, Any]:
    """Model, features, cores and memory of this machine, and the Python that runs.

    What a system does not tell is left empty: a processor without known features is a kind too.
    """
    facts: dict[str, str] = {}
    if CPUINFO.is_file():
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = (line.partition(":") for line in lines)
        facts = {key.strip(): value.strip() for key, _, value in pairs}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "architecture": platform.machine(),
        "model": facts.get("model name") or platform.processor() or "unknown",
        "family": [facts.get("cpu family"), facts.get("model")],
        "features": [name for name in FEATURES if name in flags],
        "cores": n_cores(),
        "memory_gib": round(memory, 1),
        "python": sys.version.split()[0],
    }


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kind_of(facts: dict[str, Any]) -> str:
    """The name that machines share whose numbers may be compared."""
    return "-".join([facts["architecture"], *facts["features"], str(facts["cores"])])
