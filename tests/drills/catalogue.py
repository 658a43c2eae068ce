"""All drills, in the order of the table, and how one is run."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tests.drills import disks, graders, trainer, workflow
from tests.drills.base import Drill, Found
from tests.drills.workshop import DrillError, Workshop

DRILLS = (
    Drill("kill -9 of the trainer at 30 random moments", trainer.kills),
    Drill("kill -9 of snakemake, trainer orphaned", workflow.orphan),
    Drill("two snakemakes on one folder", workflow.two),
    Drill("disk full in training", disks.during_training, fast=True, mounts=True),
    Drill("disk full at the answers", disks.during_answers, mounts=True),
    Drill("disk full at the tables", disks.during_tables, mounts=True),
    Drill("folder read-only", disks.read_only, fast=True, mounts=True),
    Drill("checkpoint with one flipped bit", trainer.flipped_byte, fast=True),
    Drill("checkpoint truncated", trainer.truncated),
    Drill("checkpoint without its manifest", trainer.manifest_lost),
    Drill("resume on another base model", trainer.other_base),
    Drill("resume with edited training code", trainer.other_code),
    Drill("NaN in the loss", trainer.not_finite, fast=True),
    Drill("clock that jumps by a day", trainer.jumping_clock, fast=True),
    Drill("grading worker dies", graders.dies),
    Drill("grading worker hangs", graders.hangs),
    Drill("grading worker eats memory", graders.eats_memory),
)


QUICK = (
    Drill("kill -9 of the trainer at 4 random moments", trainer.few_kills),
    *(drill for drill in DRILLS if drill.fast),
)
"""What runs with the other tests."""


@dataclass(frozen=True)
class Undisturbed:
    """A suite that ran in peace, and what it came to."""

    shop: Workshop
    outcome: dict[str, bytes]
    seconds: float

    @classmethod
    def make(cls, path: Path) -> Undisturbed:
        """Run the suite."""
        begin = time.monotonic()
        shop = Workshop(path)
        shop.succeed("prepare")
        shop.finish()
        return cls(shop, shop.outcome(), time.monotonic() - begin)


@dataclass(frozen=True)
class Row:
    """What a drill came to."""

    fault: str
    verdict: str
    """``equal``: the final tables, dynamics, weights and answers are the undisturbed ones."""
    found: Found
    seconds: float


def run(drill: Drill, undisturbed: Undisturbed, path: Path) -> Row:
    """Bring a fault about in a folder of its own and compare what comes of it."""
    if drill.mounts and not disks.can_mount(path / "probe"):
        words = "not run: this process may not mount file systems"
        return Row(drill.fault, words, Found("", ""), 0.0)
    shop = Workshop(path)
    # The SFT run is there already, whole: the fault has to leave it alone.
    shutil.copytree(undisturbed.shop.base, shop.base)
    shutil.copytree(undisturbed.shop.run("sft").path, shop.run("sft").path)
    begin = time.monotonic()
    try:
        found = drill.bring(shop)
        outcome = shop.outcome()
    except Exception as error:  # whatever it is, the drills after it go on
        words = str(error) if isinstance(error, DrillError) else repr(error)
        return Row(drill.fault, f"FAILED: {words}", Found("", ""), time.monotonic() - begin)
    seconds = time.monotonic() - begin
    differ = [name for name, data in undisturbed.outcome.items() if outcome[name] != data]
    verdict = f"FAILED: other {', '.join(differ)}" if differ else "equal"
    return Row(drill.fault, verdict, found, seconds)
