"""Accuracies and differences to mixing in the pages of the studies, from the committed tables.

    python benchmarks/study_tables.py

Writes what stands between the comments `accuracy: start` and `accuracy: end` of each page.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks.pages import replace_part
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.palette import label
from bridge.analysis.tables.differences import differences_to, p_text, signed
from bridge.store.records import ROOT

REFERENCE = "mixing"
COSTS = {
    "zoo": {"tokens_trained": ("trained tokens (k)", 1e3), "flops_total": ("FLOPs (10^9)", 1e9)}
}
"""Costs that a page shows beside the accuracies: heading and unit per column."""


def table(suite: str) -> str:
    """The table of a suite of one block, rows in the order that they have everywhere."""
    tidy = load_tidy(ROOT / "results" / "cached" / suite)
    (block,) = build_blocks(tidy)
    found = {item.first.name: item for item in differences_to(block, REFERENCE)}
    costs = COSTS.get(suite, {})
    means = tidy.costs.groupby("method")[list(costs)].mean() if costs else None
    head = ["row", "average", "minus mixing", "p", *(name for name, _ in costs.values())]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for method in block.methods:
        cell = block.cells[method, block.overall].interval
        row = [label(method), "", "", ""]
        if cell is not None:
            low, high = 100 * cell.low, 100 * cell.high
            row[1] = f"{100 * cell.mean:.1f} [{low:.1f}, {high:.1f}]"
        if method in found and (gap := found[method].difference) is not None:
            limits = f"[{signed(100 * gap.low)}, {signed(100 * gap.high)}]"
            row[2] = f"{signed(100 * gap.mean)} {limits}"
            row[3] = p_text(found[method].p_adjusted).removeprefix("p ").removeprefix("= ")
        if means is not None:
            row += [f"{means.loc[method, c] / unit:,.0f}" for c, (_, unit) in costs.items()]
        lines.append("| " + " | ".join(row) + " |")
    effects = [item.detectable for item in found.values() if item.detectable]
    lines += [
        "",
        f"Detectable difference, median over the rows: {100 * median(effects):.1f} points.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the tables into their pages."""
    for suite in ("zoo", "bridge_ablation"):
        page = ROOT / "docs" / "studies" / f"{suite}.md"
        replace_part(Path(page), "accuracy", table(suite))


if __name__ == "__main__":
    main()
