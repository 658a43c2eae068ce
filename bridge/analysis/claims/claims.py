"""Claims of papers, judged on a suite: supported, contradicted, undecided or not run.

`claims.yaml` states each claim; `evidence` measures it in every (model, dataset) block. A verdict
needs a two-sided 5 % test, adjusted by Holm over all claims of the same kind and all blocks: an
effect in the claimed direction supports, one in the other direction contradicts, everything else
is undecided and says which effect could have been seen. Over several blocks a claim is supported
if every block that ran supports it, contradicted if some block contradicts and none supports it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bridge.analysis.claims.evidence import Claim, Evidence, NotRun, measure
from bridge.analysis.numbers.cells import Block, build_blocks
from bridge.analysis.numbers.frames import Tidy, cautions
from bridge.analysis.numbers.paired import SIGNIFICANT, holm
from bridge.analysis.tables.differences import p_text
from bridge.analysis.tables.render import Sheet, Value
from bridge.store.schema import Closed, Name, read_yaml, validate

ClaimVerdict = Literal["supported", "contradicted", "undecided", "not run"]
SUPPORTED: ClaimVerdict = "supported"
CONTRADICTED: ClaimVerdict = "contradicted"
UNDECIDED: ClaimVerdict = "undecided"
NOT_RUN: ClaimVerdict = "not run"
CLAIMS_HEAD = (
    "suite",
    "id",
    "paper",
    "claim",
    "published",
    "read_in",
    "overall",
    "model",
    "dataset",
    "verdict",
    "measured",
    "direction",
    "effect",
    "low",
    "high",
    "unit",
    "p_value",
    "p_adjusted",
    "minimum_detectable_effect",
    "reason",
)
NOTES = (
    "Supported or contradicted: two-sided p below 0.05 after Holm over all claims of the same kind "
    "(accuracy; cost; course of training) and all blocks. Undecided: the run could not tell.",
    "Detectable: smallest effect found with 80 % power at two-sided 5 %, without the adjustment.",
    "Published effects come from other models, data and budgets, mostly one run; they are shown "
    "for orientation and are not tested against.",
)
SECOND_HAND = (
    "Read in a summary or a note: known only through somebody else's text about the paper, not "
    "checked in the paper itself."
)


class Paper(Closed):
    """A source of claims."""

    title: str
    address: str


class ClaimsFile(Closed):
    """`claims.yaml`."""

    papers: dict[Name, Paper]
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_and_papers(self) -> ClaimsFile:
        for claim in self.claims:
            if claim.paper not in self.papers:
                raise ValueError(f"claim '{claim.id}' names the unknown paper '{claim.paper}'")
        repeated = [name for name, n in Counter(claim.id for claim in self.claims).items() if n > 1]
        if repeated:
            raise ValueError(f"two claims have the id '{repeated[0]}'")
        return self


@dataclass(frozen=True)
class Finding:
    """A claim in one block: verdict, the measurements behind it, and a sentence that says why."""

    model: str
    dataset: str
    verdict: ClaimVerdict
    reason: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """A claim over all blocks of a suite."""

    claim: Claim
    paper: Paper
    verdict: ClaimVerdict
    reason: str
    findings: tuple[Finding, ...]


def load_claims(path: Path) -> ClaimsFile:
    """Read and check `claims.yaml`; raises a one-line `bridge.store.schema.ConfigError`."""
    return validate(ClaimsFile, read_yaml(path), path)


def judge_claims(
    tidy: Tidy, claims: ClaimsFile, blocks: list[Block] | None = None
) -> list[Judgement]:
    """Judge every claim on a suite; `blocks` saves building them again."""
    blocks = build_blocks(tidy) if blocks is None else blocks
    measured = [
        (claim, block, _measured(tidy, block, claim)) for claim in claims.claims for block in blocks
    ]
    families: dict[str, list[Evidence]] = {}
    for claim, _, found in measured:
        if not isinstance(found, NotRun):
            families.setdefault(claim.family, []).extend(e for e in found if e.can_decide)
    adjusted = {
        id(item): float(p)
        for family in families.values()
        for item, p in zip(family, holm([item.p_value for item in family]), strict=True)
    }
    judgements = []
    for claim in claims.claims:
        findings = tuple(
            _finding(block, found, adjusted) for other, block, found in measured if other is claim
        )
        verdict, reason = _overall(findings)
        judgements.append(Judgement(claim, claims.papers[claim.paper], verdict, reason, findings))
    return judgements


def claims_sheets(tidy: Tidy, judgements: Sequence[Judgement]) -> list[Sheet]:
    """One sheet over all claims, then one per block with what was measured there."""
    cautioned = [f"Caution: {text}." for text in cautions(tidy)]
    head = [Value(name) for name in ("claim", "published", "verdict", "why")]
    rows = [
        [Value(j.claim.sentence), Value(j.claim.published_text), Value(j.verdict), Value(j.reason)]
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
        head = [Value(name) for name in ("claim", "verdict", "measured", "p", "detectable")]
        rows = []
        for judgement in judgements:
            finding = judgement.findings[index]
            if finding.verdict == NOT_RUN:
                continue
            for item in finding.evidence:
                rows.append(
                    [
                        Value(judgement.claim.id),
                        Value(finding.verdict),
                        Value(item.effect_text, item.what),
                        Value(p_text(item.p_adjusted)),
                        Value(item.detectable_text),
                    ]
                )
        if rows:
            sheets.append(Sheet(f"{model} trained on {dataset}: claims", head, rows))
    return sheets


def _measured(tidy: Tidy, block: Block, claim: Claim) -> list[Evidence] | NotRun:
    try:
        return measure(tidy, block, claim)
    except NotRun as reason:
        return reason


def _finding(block: Block, found: list[Evidence] | NotRun, adjusted: dict[int, float]) -> Finding:
    if isinstance(found, NotRun):
        return Finding(block.model, block.dataset, NOT_RUN, str(found))
    items = tuple(replace(item, p_adjusted=adjusted.get(id(item))) for item in found)
    signs = [_sign(item) for item in items]
    if CONTRADICTED in signs:
        verdict = CONTRADICTED
    else:
        verdict = SUPPORTED if set(signs) == {SUPPORTED} else UNDECIDED
    return Finding(block.model, block.dataset, verdict, "; ".join(map(_sentence, items)), items)


def _sign(item: Evidence) -> ClaimVerdict:
    """What one measurement says about the claim."""
    if item.p_adjusted is None:
        return UNDECIDED
    differs = item.p_adjusted < SIGNIFICANT
    if item.margin is not None:
        if -item.margin < item.low and item.high < item.margin:
            return SUPPORTED
        outside = item.low > item.margin or item.high < -item.margin
        return CONTRADICTED if differs and outside else UNDECIDED
    if not differs:
        return UNDECIDED
    return SUPPORTED if item.effect * item.direction > 0 else CONTRADICTED


def _sentence(item: Evidence) -> str:
    text = f"{item.what}: {item.effect_text}"
    if item.p_adjusted is not None:
        text += f", {p_text(item.p_adjusted)}"
        if _sign(item) == UNDECIDED:
            if item.p_value < SIGNIFICANT:
                text += f" ({p_text(item.p_value)} before the adjustment)"
            text += f", {item.detectable_text} could have been seen"
    return text + (f" ({item.remark})" if item.remark else "")


def _overall(findings: Sequence[Finding]) -> tuple[ClaimVerdict, str]:
    ran = [finding for finding in findings if finding.verdict != NOT_RUN]
    if not ran:
        return NOT_RUN, "; ".join(dict.fromkeys(finding.reason for finding in findings))
    counts = Counter(finding.verdict for finding in ran)
    if counts[SUPPORTED] == len(ran):
        verdict = SUPPORTED
    elif counts[CONTRADICTED] and not counts[SUPPORTED]:
        verdict = CONTRADICTED
    else:
        verdict = UNDECIDED
    many = "blocks" if len(ran) > 1 else "block"
    told = ", ".join(f"{word} in {count}" for word, count in counts.items())
    reason = f"{told} of {len(ran)} {many}"
    if len(ran) < len(findings):
        reason += f", not run in {len(findings) - len(ran)}"
    if verdict == UNDECIDED:
        open_ones = [item for f in ran if f.verdict == UNDECIDED for item in f.evidence]
        seen = dict.fromkeys(item.detectable_text for item in open_ones)
        reason += f"; could have seen {' or '.join(seen)}" if seen else ""
    remarks = dict.fromkeys(item.remark for f in ran for item in f.evidence if item.remark)
    return verdict, "; ".join([reason, *remarks])


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
                "model": finding.model,
                "dataset": finding.dataset,
                "verdict": finding.verdict,
                "reason": finding.reason,
            }
            rows += [row | item.numbers for item in finding.evidence] or [row]
    return rows
