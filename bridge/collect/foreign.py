"""Tidy tables that the workflow did not make: of other runs than its plan's, or of some of them.

Snakemake makes an output anew when its recorded parameters change. Of tables that were collected by
hand, or copied, it has no record, so it would take them for finished and never make the runs that
they lack.
"""

from __future__ import annotations

import os
from pathlib import Path

from bridge.collect.run_rows import run_name
from bridge.plan.grid import Plan
from bridge.store.records import RESULTS, RecordError, read_json

_LONG_AGO_S = 1.0
"""A time of change, in seconds since 1970."""


def outdate_foreign(plan: Plan, tidy: Path) -> bool:
    """Let tidy tables count as older than any record unless they are of exactly the plan's runs.

    Only the time of change of their manifest is set, so Snakemake collects again and first makes
    what is missing. A later plan that they do belong to sets it back.

    Returns:
        Whether they were of other runs.
    """
    manifest = tidy / "manifest.json"
    if not manifest.is_file():
        return False
    expected = {run_name(spec): spec.spec_hash for spec in plan.runs}
    try:
        runs = read_json(manifest)["runs"]
        made = {name: run["spec_hash"] for name, run in runs.items() if run["status"] in RESULTS}
    except (RecordError, KeyError, TypeError, AttributeError):
        made = {}  # not ours, or cut off
    foreign, table = made != expected, tidy / "runs.parquet"
    if foreign:
        os.utime(manifest, (_LONG_AGO_S, _LONG_AGO_S))
    elif manifest.stat().st_mtime == _LONG_AGO_S and table.is_file():
        made_s = table.stat().st_mtime
        os.utime(manifest, (made_s, made_s))
    return foreign
