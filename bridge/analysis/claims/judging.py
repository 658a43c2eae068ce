"""Claims of papers, judged on a suite: supported, contradicted, equivalent, undecided, not run.

`claims.yaml` states each claim; `evidence` measures it in every (model, dataset) block. In a block
a claim is decided by a two-sided 5 % test, adjusted by Holm over the claims of the same paper and
kind. All of them count, whether they run or not, so a row more or less changes nobody's p. A
difference that is not found may be shown to be none: equivalent, by two one-sided tests. Over
blocks a verdict is what more than half of the blocks say and no decided block denies; blocks of
the same runs count once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bridge.analysis.claims.evidence import Evidence, NotRun, measure
from bridge.analysis.claims.stating import Claim, ClaimsFile, Paper
from bridge.analysis.numbers.cells import Block, build_blocks
from bridge.analysis.numbers.frames import DONE, Tidy, block_of
from bridge.analysis.numbers.paired import holm
from bridge.analysis.numbers.uncertainty import LEAST_SEEDS, MOST_SEEDS, SIGNIFICANT
from bridge.analysis.tables.differences import p_text

ClaimVerdict = Literal["supported", "contradicted", "equivalent", "undecided", "not run"]
SUPPORTED: ClaimVerdict = "supported"
CONTRADICTED: ClaimVerdict = "contradicted"
EQUIVALENT: ClaimVerdict = "equivalent"
UNDECIDED: ClaimVerdict = "undecided"
NOT_RUN: ClaimVerdict = "not run"
AFTER_RESULTS = "the claim was added after results had been seen"
COSTS = ("training_time", "peak_memory")
SMALL_PARAMETERS = 100_000_000
"""Costs of smaller models are mostly fixed overhead and get no verdict over all blocks."""


@dataclass(frozen=True)
class Finding:
    """A claim in one block: verdict, the measurements behind it, and a sentence that says why.

    `runs` are the spec hashes of the claim's runs, `tested` says on what they were made.
    """

    suite: str
    model: str
    dataset: str
    verdict: ClaimVerdict
    reason: str
    evidence: tuple[Evidence, ...] = ()
    runs: frozenset[str] = frozenset()
    tested: str = ""
    n_parameters: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """A claim over all blocks of a suite."""

    claim: Claim
    paper: Paper
    verdict: ClaimVerdict
    reason: str
    findings: tuple[Finding, ...]

    @property
    def tested(self) -> str:
        """On what the claim was tested: models, demonstrations, seeds."""
        return "; ".join(dict.fromkeys(f.tested for f in self.findings if f.verdict != NOT_RUN))


def judge_claims(
    tidy: Tidy, claims: ClaimsFile, blocks: list[Block] | None = None
) -> list[Judgement]:
    """Judge every claim on a suite; `blocks` saves building them again."""
    blocks = build_blocks(tidy) if blocks is None else blocks
    found = [_block_findings(tidy, block, claims) for block in blocks]
    return [
        _judgement(claim, claims, tuple(per_block[claim.id] for per_block in found))
        for claim in claims.claims
    ]


def judge_suites(suites: Sequence[Tidy], claims: ClaimsFile) -> list[Judgement]:
    """Judge every claim on several suites together; runs that suites share count once."""
    parts = [judge_claims(tidy, claims) for tidy in suites]
    return [
        _judgement(own[0].claim, claims, tuple(f for judgement in own for f in judgement.findings))
        for own in zip(*parts, strict=True)
    ]


def _judgement(claim: Claim, claims: ClaimsFile, findings: tuple[Finding, ...]) -> Judgement:
    verdict, reason = _overall(claim, findings)
    return Judgement(claim, claims.papers[claim.paper], verdict, reason, findings)


def _block_findings(tidy: Tidy, block: Block, claims: ClaimsFile) -> dict[str, Finding]:
    measured: dict[str, list[Evidence] | NotRun] = {}
    for claim in claims.claims:
        try:
            measured[claim.id] = measure(tidy, block, claim)
        except NotRun as reason:
            measured[claim.id] = reason
    for family in {claim.family: None for claim in claims.claims}:
        members = [claim for claim in claims.claims if claim.family == family]
        items = [e for c in members if isinstance(found := measured[c.id], list) for e in found]
        done = iter(_adjusted(items, sum(claim.n_measurements for claim in members)))
        for claim in members:
            if isinstance(found := measured[claim.id], list):
                measured[claim.id] = [next(done) for _ in found]
    return {c.id: _finding(tidy, block, c, measured[c.id]) for c in claims.claims}


def _adjusted(items: Sequence[Evidence], size: int) -> list[Evidence]:
    """Holm's p for measurements of a family of `size` tests; those that did not run count as 1."""

    def corrected(p_of: Callable[[Evidence], float]) -> list[float]:
        p_values = [p_of(item) if item.can_decide else 1.0 for item in items]
        return [float(p) for p in holm([*p_values, *[1.0] * (size - len(items))])]

    different = corrected(lambda item: item.p_value)
    beyond = corrected(lambda item: item.beyond_p)

    def inside(place: int) -> list[float]:
        def p_of(item: Evidence) -> float:
            return item.equal_p(item.margins[place]) if place < len(item.margins) else 1.0

        return corrected(p_of)

    # The margins of an item from the narrowest on; items of other units have fewer or none.
    equal = [inside(n) for n in range(max((len(item.margins) for item in items), default=0))]
    return [
        replace(
            item,
            p_adjusted=different[i] if item.can_decide else None,
            beyond_p_adjusted=beyond[i],
            equal_p_adjusted={m: equal[n][i] for n, m in enumerate(item.margins)},
            level=SIGNIFICANT / size,
        )
        for i, item in enumerate(items)
    ]


def _finding(tidy: Tidy, block: Block, claim: Claim, found: list[Evidence] | NotRun) -> Finding:
    if isinstance(found, NotRun):
        return Finding(tidy.suite, block.model, block.dataset, NOT_RUN, str(found))
    signs = [sign(item) for item in found]
    if CONTRADICTED in signs:
        verdict = CONTRADICTED
    else:
        verdict = signs[0] if len(set(signs)) == 1 else UNDECIDED
    runs = block_of(tidy.runs, block.model, block.dataset)
    runs = runs[runs["method"].isin(claim.methods) & (runs["status"] == DONE)]
    sizes = runs["n_parameters"].dropna()
    n_parameters = float(sizes.max()) if len(sizes) else 0.0
    return Finding(
        suite=tidy.suite,
        model=block.model,
        dataset=block.dataset,
        verdict=verdict,
        reason="; ".join(map(sentence, found)),
        evidence=tuple(found),
        runs=frozenset(runs["spec_hash"].astype(str)),
        tested=_tested(tidy, block, n_parameters, min(e.estimate.n_seeds for e in found)),
        n_parameters=n_parameters,
    )


def _tested(tidy: Tidy, block: Block, n_parameters: float, n_seeds: int) -> str:
    """Size of the model, demonstrations and seeds, in words."""
    millions = n_parameters / 1e6
    said = [f"{millions:.2f} M parameters" if millions < 10 else f"{millions:,.0f} M parameters"]
    demonstrations = tidy.n_demonstrations.get(block.dataset)
    said += [f"{demonstrations} demonstrations"] if demonstrations else []
    return ", ".join([*said, f"{n_seeds} seeds"])


def sign(item: Evidence) -> ClaimVerdict:
    """What one measurement says about the claim."""
    if not item.can_decide or item.p_adjusted is None or item.beyond_p_adjusted is None:
        return UNDECIDED
    effect = item.estimate.mean
    if item.with_failures is not None and item.with_failures * effect <= 0 < abs(effect):
        return UNDECIDED
    if item.margin is not None:
        if item.inside is not None:
            return SUPPORTED
        return CONTRADICTED if item.beyond_p_adjusted < SIGNIFICANT else UNDECIDED
    if item.p_adjusted < SIGNIFICANT:
        return SUPPORTED if effect * item.direction > 0 else CONTRADICTED
    return UNDECIDED if item.inside is None else EQUIVALENT


def sentence(item: Evidence) -> str:
    """Effect, p and, where they leave the claim undecided, what would decide it."""
    text = f"{item.what}: {item.effect_text}"
    if item.p_adjusted is not None:
        text += f", {p_text(item.p_adjusted)}"
        if sign(item) == UNDECIDED and item.p_value < SIGNIFICANT <= item.p_adjusted:
            text += f" ({p_text(item.p_value)} before the adjustment)"
    if item.inside is not None:
        text += f", equivalent within {item.text(item.inside).lstrip('+')} {item.unit}"
    if item.missing:
        text += f", without runs ({item.missing})"
    if item.with_failures is not None:
        text += f", {item.text(item.with_failures)} with failures counted as the untrained model"
    if sign(item) == UNDECIDED:
        text += f", {wanted(item)}"
    return text + (f" ({item.remark})" if item.remark else "")


def wanted(*items: Evidence) -> str:
    """What would decide undecided measurements."""
    said = []
    if any(not item.can_decide for item in items):
        said.append(f"fewer than {LEAST_SEEDS} seeds a side decide nothing")
    enough = [item for item in items if item.can_decide]
    numbers = sorted({item.more_seeds for item in enough if item.more_seeds is not None})
    never = sum(item.more_seeds is None for item in enough)
    if numbers:
        between = " to ".join(dict.fromkeys((str(numbers[0]), str(numbers[-1]))))
        which = f"{len(enough) - never} of {len(enough)}" if never else "it"
        said.append(f"about {between} more seeds a side would decide {which}")
    if never:
        which = "the others, they take" if numbers else "it, it takes"
        said.append(f"{MOST_SEEDS:,} seeds would not decide {which} more questions")
    return ", ".join(said)


def _overall(claim: Claim, findings: Sequence[Finding]) -> tuple[ClaimVerdict, str]:
    everywhere = [finding for finding in findings if finding.verdict != NOT_RUN]
    if not everywhere:
        return NOT_RUN, "; ".join(dict.fromkeys(finding.reason for finding in findings))
    ran = list({finding.runs: finding for finding in reversed(everywhere)}.values())[::-1]
    counts = Counter(finding.verdict for finding in ran)
    many = "blocks" if len(ran) > 1 else "block"
    told = ", ".join(f"{word} in {count}" for word, count in counts.items())
    said = [f"{told} of {len(ran)} {many}"]
    if len(findings) > len(everywhere):
        said[0] += f", not run in {len(findings) - len(everywhere)}"
    if len(ran) < len(everywhere):
        said[0] += f"; {len(everywhere) - len(ran)} with the same runs not counted again"
    verdict = _agreed(counts, len(ran))
    if claim.metric in COSTS and all(f.n_parameters < SMALL_PARAMETERS for f in ran):
        verdict = NOT_RUN
        said.insert(0, "no verdict on costs of models below 100 M parameters")
    items = [(finding, item) for finding in ran for item in finding.evidence]
    if verdict == UNDECIDED:
        undecided = [item for f, item in items if f.verdict == sign(item) == UNDECIDED]
        said += [wanted(*undecided)] if undecided else []
    said += [f"without runs ({item.missing})" for _, item in items if item.missing]
    said += [f"premise not met: {premise}" for premise in claim.premises_not_met]
    said += [AFTER_RESULTS] if claim.after_results else []
    said += [claim.remark] if claim.remark else []
    return verdict, "; ".join(dict.fromkeys(said))


def _agreed(counts: Counter[ClaimVerdict], n_blocks: int) -> ClaimVerdict:
    """The verdict of more than half of the blocks, if no other block decides otherwise."""
    decided = [word for word in (SUPPORTED, CONTRADICTED, EQUIVALENT) if counts[word]]
    if len(decided) == 1 and 2 * counts[decided[0]] > n_blocks:
        return decided[0]
    return UNDECIDED
