"""The tables of claims: one over all, one per block with what was measured there."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bridge.analysis.claims.evidence import Evidence
from bridge.analysis.claims.judging import (
    NOT_RUN,
    UNDECIDED,
    ClaimVerdict,
    Judgement,
    judge_suites,
    sign,
)
from bridge.analysis.claims.stating import load_claims
from bridge.analysis.numbers.frames import Tidy, cautions, load_tidy
from bridge.analysis.tables.differences import p_text
from bridge.analysis.tables.render import Sheet, Value, printable

CLAIMS_HEAD = (
    "suite",
    "id",
    "paper",
    "claim",
    "published",
    "read_in",
    "overall",
    "why",
    "model",
    "dataset",
    "verdict",
    "tested",
    "measured",
    "direction",
    "effect",
    "low",
    "high",
    "unit",
    "p_value",
    "p_adjusted",
    "equivalence_margin",
    "minimum_detectable_effect",
    "more_seeds",
    "n_seeds",
    "with_failures",
    "reason",
)
NOTES = (
    "Supported or contradicted: two-sided p below 0.05 after Holm over the claims of the same "
    "paper and kind (accuracy; cost; course) in the block, those that did not run included. "
    "Equivalent: two one-sided tests at 5 % place the difference within 1 or 2 points. Undecided: "
    "neither; fewer than 3 seeds a side decide nothing. Over blocks: the verdict of more than half "
    "of them that no other decided block denies.",
    "More seeds: how many more a side would decide an undecided claim with 80 % power, were the "
    "effect what was measured; many: more than 1,000, because the questions are too few.",
    "Published effects come from other models, data and budgets, mostly one run; they are shown "
    "for orientation and are not tested against.",
)
SECOND_HAND = (
    "Read in a summary or a note: known only through somebody else's text about the paper, not "
    "checked in the paper itself."
)


def claims_sheets(tidy: Tidy, judgements: Sequence[Judgement]) -> list[Sheet]:
    """One sheet over all claims, then one per block with what was measured there."""
    cautioned = [f"Caution: {text}." for text in cautions(tidy)]
    head = [Value(name) for name in ("claim", "published", "verdict", "why")]
    rows = [
        [
            Value(j.claim.sentence),
            Value(j.claim.published_text),
            Value(j.verdict, f"({j.tested})" if j.tested else ""),
            Value(j.reason),
        ]
        for j in judgements
    ]
    sources = [
        f"{paper.title}: {paper.address}."
        for paper in {j.claim.paper: j.paper for j in judgements}.values()
    ]
    second_hand = [SECOND_HAND] if any(j.claim.read_in != "paper" for j in judgements) else []
    notes = [*NOTES, *second_hand, *cautioned, *sources]
    sheets = [Sheet("Claims of the papers", head, rows, notes, prose=True)]
    for index, (model, dataset) in enumerate(tidy.blocks):
        head = [Value(name) for name in ("claim", "verdict", "measured", "p", "more seeds")]
        rows = []
        for judgement in judgements:
            finding = judgement.findings[index]
            if finding.verdict == NOT_RUN:
                continue
            for item in finding.evidence:
                rows.append(
                    [
                        Value(judgement.claim.id),
                        Value(finding.verdict, f"({finding.tested})"),
                        Value(item.effect_text, item.what),
                        Value(p_text(item.p_adjusted)),
                        Value(_more(item)),
                    ]
                )
        if rows:
            sheets.append(Sheet(f"{model} trained on {dataset}: claims", head, rows))
    return sheets


def verdicts_text(folders: Sequence[Path], claims_file: Path, width: int = 100) -> str:
    """Verdicts over the suites whose tidy tables lie in `folders`, for a terminal.

    Runs that suites share count once. Raises `frames.TidyError` and `schema.ConfigError`.
    """
    suites = [load_tidy(folder) for folder in folders]
    judgements = judge_suites(suites, load_claims(claims_file))
    counts = Counter(judgement.verdict for judgement in judgements)
    told = ", ".join(f"{counts[word]} {word}" for word in get_args(ClaimVerdict))
    lines = [f"{' and '.join(tidy.suite for tidy in suites)}: {told}."]
    for j in judgements:
        on = f" (tested on {j.tested})" if j.tested else ""
        text = f"{j.verdict}: {j.claim.sentence} [{j.claim.id}]{on} {j.reason}."
        lines += ["", *_wrapped(printable(text), width)]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines; names such as bridge-above-mixing stay whole, so that they can be searched for."""
    return textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False)


def _more(item: Evidence) -> str:
    """Seeds that would decide an undecided measurement."""
    if sign(item) != UNDECIDED or item.estimate.n_seeds < 2:
        return ""
    return "many" if item.more_seeds is None else str(item.more_seeds)


def claims_rows(tidy: Tidy, judgements: Sequence[Judgement]) -> list[dict[str, object]]:
    """One row per claim, block and measurement."""
    rows = []
    for judgement in judgements:
        for finding in judgement.findings:
            row: dict[str, object] = {
                "suite": tidy.suite,
                "id": judgement.claim.id,
                "paper": judgement.paper.address,
                "claim": judgement.claim.sentence,
                "published": judgement.claim.published_text,
                "read_in": judgement.claim.read_in,
                "overall": judgement.verdict,
                "why": judgement.reason,
                "model": finding.model,
                "dataset": finding.dataset,
                "verdict": finding.verdict,
                "tested": finding.tested,
                "reason": finding.reason,
            }
            rows += [row | item.numbers for item in finding.evidence] or [row]
    return rows
