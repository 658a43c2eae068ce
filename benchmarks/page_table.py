"""Print the table of a study's page from tidy tables, as Markdown.

    python benchmarks/page_table.py zoo mixing
    python benchmarks/page_table.py bridge_ablation mixing --tidy results/bridge_ablation/tidy

Per block and row: average accuracy with its interval, the difference to one row with interval and
adjusted p, trained tokens and FLOPs. The numbers are those of ``bridge tables`` and the report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bridge.analysis.numbers.cells import Block, build_blocks
from bridge.analysis.numbers.frames import Tidy, block_of, load_tidy
from bridge.analysis.numbers.palette import label
from bridge.analysis.tables.differences import Contrast, differences_to, p_text, signed

_COSTS = {"tokens_trained": ("trained tokens (k)", 1e3), "flops_total": ("FLOPs (10^9)", 1e9)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite")
    parser.add_argument("baseline", help="the row that the others are compared with")
    parser.add_argument("--tidy", type=Path, help="default: results/cached/<suite>")
    args = parser.parse_args()
    tidy = load_tidy(args.tidy or Path("results/cached", args.suite))
    print("\n\n".join("\n".join(lines(tidy, block, args.baseline)) for block in build_blocks(tidy)))


def lines(tidy: Tidy, block: Block, baseline: str) -> list[str]:
    """The table of one block."""
    against = {found.first.name: found for found in differences_to(block, baseline)}
    heads = ["row", "average", f"minus {label(baseline)}", "adjusted p"]
    heads += [words for words, _ in _COSTS.values()]
    rows = [
        [
            label(name),
            _average(block, name),
            *_difference(against.get(name)),
            *_costs(tidy, block, name),
        ]
        for name in block.methods
    ]
    rule = "|---|" + "---:|" * (len(heads) - 1)
    return [
        f"{block.model} on {block.dataset}:",
        "",
        *(_row(r) for r in ([heads])),
        rule,
        *map(_row, rows),
    ]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _average(block: Block, name: str) -> str:
    cell = block.cells[name, block.overall]
    if cell.interval is None:
        return ", ".join(cell.words) or "–"
    found = cell.interval
    text = f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return ", ".join([text, *cell.words])


def _difference(found: Contrast | None) -> tuple[str, str]:
    if found is None or found.difference is None:
        return "", ""
    numbers = found.difference
    low, high = signed(100 * numbers.low), signed(100 * numbers.high)
    return f"{signed(100 * numbers.mean)} [{low}, {high}]", p_text(found.p_adjusted)


def _costs(tidy: Tidy, block: Block, name: str) -> list[str]:
    own = block_of(tidy.costs, block.model, block.dataset)
    own = own[own["method"] == name]
    return [f"{own[column].mean() / scale:,.0f}" for column, (_, scale) in _COSTS.items()]


if __name__ == "__main__":
    main()
