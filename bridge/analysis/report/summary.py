"""The first screen of a report in words: who leads each block, and the verdicts on claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bridge.analysis.numbers.cells import Block
from bridge.analysis.numbers.palette import label
from bridge.analysis.numbers.uncertainty import LEAST_SEEDS
from bridge.analysis.tables.differences import Contrast, signed
from bridge.analysis.tables.leading import Lead, block_lead

VERDICTS = {
    "supported": "supported",
    "contradicted": "contradicted",
    "equivalent": "equivalent",
    "undecided": "undecided",
    "not run": "notrun",
}
"""Each word and the class of the style that colours it, in the order of the page."""

Part = dict[str, Any]


def leads(blocks: Sequence[Block]) -> list[Part]:
    """One sentence per block: where, the verdict, and the numbers behind it."""
    found = []
    for block in blocks:
        lead = block_lead(block)
        where = f"{block.model} · {block.dataset}"
        if lead is None:
            found.append({"where": where, "verdict": "No run has a number", "text": "."})
            continue
        text = _decided(lead) if lead.decided else _undecided(lead)
        names = (label(method) for method in lead.absent)
        absent = f" Without a number: {'; '.join(names)}." if lead.absent else ""
        verdict = f"{label(lead.method)} leads" if lead.decided else "Undecided"
        found.append({"where": where, "verdict": verdict, "text": text + absent})
    return found


def _decided(lead: Lead) -> str:
    assert lead.nearest is not None
    name = label(lead.nearest.first.name)
    return f": {100 * lead.mean:.1f} points, {_above(lead.nearest)} above the next row, {name}."


def _undecided(lead: Lead) -> str:
    said = f": {label(lead.method)} has the highest mean, {100 * lead.mean:.1f} points"
    near = lead.nearest
    if near is None:
        return f"{said}, and there is no row to compare it with."
    name = label(near.first.name)
    if near.difference is None:
        return f"{said}; no difference to {name}: {near.refused}."
    said += f", {_above(near)} above {name}"
    if not near.can_decide:
        return f"{said}; fewer than {LEAST_SEEDS} seeds a side decide nothing."
    if near.margin is not None:
        said += f" (equivalent within {100 * near.margin:.0f} points)"
    n = len(lead.open)
    return f"{said}; {n} row{'s are' if n > 1 else ' is'} not told apart from it."


def _above(item: Contrast) -> str:
    """How far the leader is above a row, with the interval."""
    assert item.difference is not None
    found = item.mirrored().difference
    assert found is not None
    mean, low, high = (f"{100 * value + 0.0:.1f}" for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def verdicts(tables_dir: Path) -> Part:
    """Counts and one entry per claim from `claims.csv`, decided ones first; empty without it."""
    path = tables_dir / "claims.csv"
    if not path.is_file():
        return {"tally": [], "n": 0, "claims": []}
    rows = pd.read_csv(path, keep_default_na=False)
    overall = rows.drop_duplicates("id").set_index("id")["overall"].astype(str)
    order = [*VERDICTS]
    return {
        "n": len(overall),
        "tally": [
            {"n": int((overall == word).sum()), "word": word, "class": name}
            for word, name in VERDICTS.items()
        ],
        "claims": [
            _claim(rows[rows["id"] == name], str(overall[name]))
            for name in sorted(overall.index, key=lambda n: order.index(str(overall[n])))
        ],
    }


def _claim(rows: pd.DataFrame, overall: str) -> Part:
    first = rows.iloc[0]
    tested = "; ".join(word for word in rows["tested"].astype(str).unique() if word)
    said = [str(first["why"]), f"tested on {tested}" if tested else ""]
    # What was not run has a published effect too, but nothing to hold it against.
    said += [f"published: {first['published']}"] if tested else []
    return {
        "verdict": overall,
        "class": VERDICTS[overall],
        "sentence": first["claim"],
        "lines": [_line(row) for row in rows.to_dict("records") if row["unit"]],
        "notes": [f"{text[0].upper()}{text[1:]}." for text in said if text],
    }


def _line(row: dict[Any, Any]) -> Part:
    """What was measured in one block."""
    numbers = [float(row[name]) for name in ("effect", "low", "high")]
    small = str(row["unit"]).startswith("nats")
    effect, low, high = (f"{number:+.3f}" if small else signed(number) for number in numbers)
    return {
        "where": f"{row['model']} · {row['dataset']}",
        "effect": f"{effect} {row['unit']}",
        "interval": f"[{low}, {high}]",
        "verdict": row["verdict"],
        "class": VERDICTS[str(row["verdict"])],
        "measured": row["measured"],
    }
