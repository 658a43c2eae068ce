"""``bridge plan``: its options, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from bridge.jobs import arguments as check


def plan(args: argparse.Namespace) -> None:
    """Print a suite as a calendar."""
    from bridge.analysis.claims.stating import load_claims
    from bridge.analysis.report.building import CLAIMS
    from bridge.jobs.calendar.text import calendar_text
    from bridge.jobs.needs.devices import device
    from bridge.jobs.run_jobs import load

    claims = {claim.id: claim.methods for claim in load_claims(CLAIMS).claims}
    chosen, first = device(args.device), tuple(args.first)
    rate = args.interruptions_per_day
    print(calendar_text(load(args), chosen, args.count, claims, first, rate))


def add_plan(add: Callable[..., Any]) -> None:
    """Add the command to the parser.

    Args:
        add: makes a command that knows ``--suite`` and ``--overrides``.
    """
    sub = add("plan", plan, "print a suite as a calendar: what runs when, and is known then")
    sub.add_argument(
        "--device", type=check.name, required=True, metavar="NAME", help="a GPU like a100-80gb"
    )
    sub.add_argument("--count", type=check.count, default=1, help="cards of one machine")
    sub.add_argument(
        "--first",
        type=check.name,
        nargs=2,
        default=("bridge", "cold_start"),
        metavar=("A", "B"),
        help="methods or rows that are compared first (default: bridge cold_start)",
    )
    sub.add_argument(
        "--interruptions-per-day",
        type=check.rate,
        default=0.2,
        metavar="X",
        help="of one card, preemptions and failures, for the simulation (default: 0.2, a guess)",
    )
