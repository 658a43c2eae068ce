"""Run all fault drills and print their table.

make drill
python -m tests.drills [--only WORD] [--write]
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
from pathlib import Path

from benchmarks.pages import replace_part
from tests.drills.catalogue import DRILLS, Row, Undisturbed, run

PAGE = Path("docs/robustness.md")
CSV = Path("results/published/robustness/drills.csv")
HEAD = ("fault", "final tables", "survived", "made again", "what the user is told", "seconds")


def cells(row: Row) -> list[str]:
    """A row of the table."""
    found = row.found
    return [row.fault, row.verdict, found.survived, found.redone, found.said, f"{row.seconds:.0f}"]


def markdown(table: list[list[str]]) -> str:
    """The table for the page."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * (len(HEAD) - 1) + "---:|"]
    lines += ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in table]
    return "\n".join(lines)


def written(table: list[list[str]]) -> list[list[str]]:
    """The committed table with these rows instead of its own ones of the same name."""
    rows = {}
    if CSV.is_file():
        with CSV.open(encoding="utf-8", newline="") as stream:
            rows = {line[0]: line for line in list(csv.reader(stream))[1:]}
    rows |= {line[0]: line for line in table}
    whole = [rows[drill.fault] for drill in DRILLS if drill.fault in rows]
    CSV.parent.mkdir(parents=True, exist_ok=True)
    with CSV.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([HEAD, *whole])
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="drills with such a name")
    parser.add_argument("--write", action="store_true", help=f"their rows into {CSV} and {PAGE}")
    args = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory(prefix="drill") as folder:
        undisturbed = Undisturbed.make(Path(folder) / "undisturbed")
        print(f"undisturbed: {undisturbed.seconds:.0f} s", file=sys.stderr, flush=True)
        for number, drill in enumerate(d for d in DRILLS if re.search(args.only, d.fault)):
            table.append(cells(run(drill, undisturbed, Path(folder) / str(number))))
            print(*table[-1], sep=" | ", file=sys.stderr, flush=True)
            if args.write:
                replace_part(PAGE, "drills", markdown(written(table)))
    print(markdown(table))
    if any(line[1].startswith("FAILED") for line in table):
        sys.exit("drill: a fault was not survived, see the table")


if __name__ == "__main__":
    main()
