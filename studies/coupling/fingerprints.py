"""Code behind the study's jobs, as :mod:`bridge.plan.fingerprint` gives it for the workflow's."""

from __future__ import annotations

from pathlib import Path

from bridge.plan.fingerprint import GRADER, fingerprint
from bridge.store.records import ROOT

ENTRIES = {
    "observe": ("studies.coupling.observing", GRADER),
    "compare": ("studies.coupling.tables",),
    "draw": ("studies.coupling.figures",),
}


def study_fingerprint(job: str, root: Path = ROOT) -> str:
    """Hash of the code behind ``observe``, ``compare`` or ``draw``."""
    return fingerprint(ENTRIES[job], root=root)
