"""How many questions hold a formula that verifies as their own answer?

    python -m benchmarks.question_echo <data root>/math500/test.jsonl

Each formula between dollar signs or ``\\[ \\]`` of a question is boxed and graded against its gold.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from bridge.grading import GRADER_VERSION, GradeItem, GraderPool

_FORMULA = re.compile(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("questions", type=Path, help="JSON lines with id, problem and answer")
    lines = parser.parse_args().questions.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    pairs = [(row, formula) for row in rows for formula in formulas(row["problem"])]
    with GraderPool() as pool:
        graded = pool.grade([GradeItem(rf"\boxed{{{f}}}", row["answer"]) for row, f in pairs])
    found = {
        row["id"]: (row["answer"], formula)
        for (row, formula), result in zip(pairs, graded, strict=True)
        if result.verdict == "correct"
    }
    for name, (gold, formula) in found.items():
        print(f"{name}: {gold} | {formula}")
    print(f"{len(found)} of {len(rows)} questions, {len(pairs)} formulas, {GRADER_VERSION}")


def formulas(text: str) -> list[str]:
    """The distinct formulas of a question, in order."""
    groups = (next(filter(None, match.groups())).strip() for match in _FORMULA.finditer(text))
    return list(dict.fromkeys(groups))


if __name__ == "__main__":
    main()
