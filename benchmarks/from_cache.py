"""How long does it take to build tables, figures and report from committed results?

    python -m benchmarks.from_cache

`snakemake figures --config source=cached` in a copy of the checkout, on all cores; seconds by the
clock are what a person waits for.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.parts import Numbers, write_part
from benchmarks.planning import measure
from bridge.store.records import ROOT
from tests.fixtures.workflow import Workspace

GOAL_S = 20.0


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", default="laptop")
    parser.add_argument("--quick", action="store_true", help="plan it only, as a smoke test")
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    words = ["-m", "snakemake", "--cores", "all", "figures"]
    words += ["-n"] if arguments.quick else []
    words += ["--config", f"suite={arguments.suite}", "source=cached"]
    cached = Path("results", "cached", arguments.suite)
    with tempfile.TemporaryDirectory() as name:
        copy = Workspace.make(Path(name, "checkout"), stand_ins=False).path
        shutil.copytree(ROOT / cached, copy / cached)
        numbers: Numbers = {arguments.suite: measure(words, copy, copy)}
    wall_s = numbers[arguments.suite]["wall_s"]
    write_part(arguments.write, numbers, {} if arguments.quick else {"wall": GOAL_S / wall_s})


if __name__ == "__main__":
    main()
