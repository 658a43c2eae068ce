"""All tables of a suite, each as CSV, Markdown, LaTeX and HTML.

`main`, `differences`, `ranks`, `cost` and `claims` always; `sampled` where answers were sampled,
`clusters` and `contamination` where texts were collected, `trials` of a suite that tries settings,
`tuned` of one that uses what was tried, else `rates` where there is a grid of learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bridge.analysis.claims.judging import judge_claims
from bridge.analysis.claims.stating import load_claims
from bridge.analysis.claims.table import CLAIMS_HEAD, claims_rows, claims_sheets
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import Tidy, load_tidy
from bridge.analysis.tables import clusters, overlaps, rates, trials, tuned
from bridge.analysis.tables.accuracy import (
    MAIN_HEAD,
    accuracy_rows,
    main_sheets,
    sampled,
    sampled_sheets,
)
from bridge.analysis.tables.costs import COST_HEAD, cost_rows, cost_sheets
from bridge.analysis.tables.differences import (
    HEAD,
    block_differences,
    difference_rows,
    difference_sheets,
)
from bridge.analysis.tables.published import load_published
from bridge.analysis.tables.ranks import HEAD as RANKS_HEAD
from bridge.analysis.tables.ranks import rank_rows, rank_sheet
from bridge.analysis.tables.render import Sheet, Value, write_table
from bridge.store.records import SHIPPED

CLAIMS = SHIPPED / "claims.yaml"


def build_tables(
    tidy_dir: Path,
    out_dir: Path,
    published_dir: Path | None = None,
    claims_file: Path = CLAIMS,
    tuned_dir: Path = rates.TUNED,
    expected: Sequence[str] = (),
) -> None:
    """Write every table of a suite to `out_dir`.

    A table that is `expected` and for which no run has a number is written too, with the reason in
    place of rows.

    Published numbers, claims and the grid of learning rates come from the repository's own files
    unless others are named. Raises `frames.TidyError` if the tidy tables cannot be shown and
    `bridge.store.schema.ConfigError` for a mistake in the claims. Same input, same bytes.
    """
    tidy = load_tidy(tidy_dir)
    blocks = build_blocks(tidy)
    published = load_published(published_dir)
    sheets = main_sheets(tidy, blocks, published)
    rows = accuracy_rows(tidy, blocks, "greedy", published)
    write_table(out_dir, "main", sheets, MAIN_HEAD, rows)
    contrasts = [(block, block_differences(block)) for block in blocks]
    write_table(
        out_dir,
        "differences",
        [sheet for block, found in contrasts for sheet in difference_sheets(block, found)],
        HEAD,
        [row for block, found in contrasts for row in difference_rows(tidy.suite, block, found)],
    )
    ranks = [row for block in blocks for row in rank_rows(tidy.suite, block)]
    write_table(out_dir, "ranks", [rank_sheet(block) for block in blocks], RANKS_HEAD, ranks)
    costs = cost_rows(tidy, blocks)
    write_table(out_dir, "cost", cost_sheets(tidy, costs), COST_HEAD, costs)
    judgements = judge_claims(tidy, load_claims(claims_file), blocks)
    write_table(
        out_dir,
        "claims",
        claims_sheets(tidy, judgements),
        CLAIMS_HEAD,
        claims_rows(tidy, judgements),
    )
    metrics = sampled(tidy)
    if metrics:
        rows = [row for name, part in metrics.items() for row in accuracy_rows(tidy, part, name)]
        write_table(out_dir, "sampled", sampled_sheets(tidy, metrics), MAIN_HEAD, rows)
    patterns = clusters.load_patterns(tidy_dir)
    if patterns is not None:
        sheets = [clusters.cluster_sheet(block, patterns) for block in blocks]
        rows = [r for block in blocks for r in clusters.cluster_rows(tidy.suite, block, patterns)]
        write_table(out_dir, "clusters", sheets, clusters.HEAD, rows)
    shared = overlaps.load_overlaps(tidy_dir)
    if shared is not None:
        found = shared[list(overlaps.HEAD)].to_dict("records")
        listed = [{str(name): value for name, value in row.items()} for row in found]
        sheets = overlaps.overlap_sheets(shared)
        write_table(out_dir, "contamination", sheets, overlaps.HEAD, listed)
    if trials.has_trials(tidy):
        sheets = trials.trial_sheets(tidy)
        write_table(out_dir, "trials", sheets, trials.HEAD, trials.trial_rows(tidy))
    elif (choice := tuned.load_choice(tidy_dir)) is not None:
        sheets = tuned.tuned_sheets(tidy, choice)
        write_table(out_dir, "tuned", sheets, tuned.HEAD, tuned.tuned_rows(tidy, choice))
    elif (grid := rates.load_grid(tidy, tuned_dir)) is not None:
        sheets = rates.rate_sheets(tidy, grid)
        write_table(out_dir, "rates", sheets, rates.HEAD, rates.rate_rows(grid))
    for name in expected:
        if not (out_dir / f"{name}.csv").is_file():
            write_table(out_dir, name, [_without_rows(tidy, name)], ("suite", "reason"), [])


def _without_rows(tidy: Tidy, name: str) -> Sheet:
    """A table that says why it has no numbers."""
    counts = tidy.runs["status"].astype(str).value_counts()
    ended = ", ".join(f"{n} {word}" for word, n in counts.items())
    reason = f"No run of this suite has a number for this table: {ended}."
    return Sheet(f"{tidy.suite}: {name}", [Value("method")], [], [reason])
