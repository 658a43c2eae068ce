"""The tables of a report: its own, with what sorting and filtering need, and ready-made ones."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from bridge.analysis.numbers.cells import Block
from bridge.analysis.numbers.frames import Tidy
from bridge.analysis.numbers.palette import benchmark_label, label
from bridge.analysis.report.runs import run_link
from bridge.analysis.tables.accuracy import main_sheets, points, sampled, sampled_sheets
from bridge.analysis.tables.costs import cost_rows, cost_sheets
from bridge.analysis.tables.differences import block_differences, p_text
from bridge.analysis.tables.published import load_published
from bridge.analysis.tables.render import Sheet
from bridge.store.columns import TABLE_FORMATS

# Built here from the tidy tables; any other table is taken in as it lies in the folder.
OWN = {"main": "main", "sampled": "sampled", "costs": "cost"}
TITLES = {
    "differences": "Differences to the baselines",
    "claims": "Claims of papers",
    "ranks": "Ranks",
    "rates": "Learning rates",
    "trials": "Tuning trials",
    "contamination": "Contamination",
}
PROSE = ("claims",)
# The lists that `render.html` writes under a table.
NOTES = re.compile(r"<ul>\n.*?</ul>\n?", re.DOTALL)
NOTE = re.compile(r"<li>(.*)</li>")
END_OF_TABLE = ("</table>", "</table>\n</div>")
VERDICTS = {
    "supported": "supported",
    "contradicted": "contradicted",
    "equivalent": "equivalent",
    "undecided": "undecided",
    "not run": "notrun",
}
DECIDED = ("supported", "contradicted", "equivalent")

Part = dict[str, Any]


def table_groups(
    tidy: Tidy, blocks: list[Block], classes: dict[str, str], tables_dir: Path, start: Path
) -> dict[str, Part]:
    """The report's own tables: sheets with the names behind their rows and columns."""
    metrics = sampled(tidy)
    repeated = [block for block in blocks for _ in metrics]
    groups = {
        "main": (main_sheets(tidy, blocks, load_published()), blocks),
        "sampled": (sampled_sheets(tidy, metrics), repeated),
        "costs": (cost_sheets(tidy, cost_rows(tidy, blocks)), blocks),
    }
    return {
        name: {
            "views": [
                _view(tidy, sheet, block, classes)
                for sheet, block in zip(sheets, owners, strict=True)
            ],
            "notes": list(dict.fromkeys(note for sheet in sheets for note in sheet.notes)),
            "links": links(tables_dir, OWN[name], start),
        }
        for name, (sheets, owners) in groups.items()
    }


def fragments(folder: Path, start: Path) -> list[Part]:
    """HTML tables in `folder` that the report does not build itself, differences and claims first.

    They come from `render.html`, which escapes everything.
    """
    names = {path.stem for path in folder.glob("*.html")} - {*OWN.values()}
    known = [name for name in TITLES if name in names]
    return [
        {
            "id": f"table-{name}",
            "title": TITLES.get(name, name.replace("_", " ").capitalize()),
            "prose": name in PROSE,
            "links": links(folder, name, start),
        }
        | _fragment((folder / f"{name}.html").read_text(encoding="utf-8"))
        for name in [*known, *sorted(names - {*known})]
    ]


def _fragment(html: str) -> Part:
    """Tables, each in a box that scrolls, and their notes once for all."""
    notes = dict.fromkeys(note for part in NOTES.findall(html) for note in NOTE.findall(part))
    tables = NOTES.sub("", html)
    for edge, box in (("<table>", '<div class="scroll" tabindex="0">\n<table>'), END_OF_TABLE):
        tables = tables.replace(edge, box)
    return {"html": Markup(tables), "notes": [Markup(note) for note in notes]}


def links(folder: Path, name: str, start: Path) -> list[tuple[str, str]]:
    """(format, relative address) of the files of a table that exist."""
    paths = [
        (extension, folder / f"{name}.{extension}")
        for extension in TABLE_FORMATS
        if extension != "html"
    ]
    return [
        (extension, Path(os.path.relpath(path, start)).as_posix())
        for extension, path in paths
        if path.is_file()
    ]


def summary(tables_dir: Path, blocks: Sequence[Block]) -> Part:
    """What came out, in words: highest means, and the verdicts of `claims.csv` if there is one."""
    found: Part = {"sentences": [_highest(block) for block in blocks], "tally": [], "claims": []}
    path = tables_dir / "claims.csv"
    if not path.is_file():
        return found
    claims = pd.read_csv(path, keep_default_na=False)
    overall = claims.drop_duplicates("id").set_index("id")["overall"]
    counts = {word: int((overall == word).sum()) for word in VERDICTS}
    found["sentences"].append(
        f"Of {len(overall)} claims of papers this suite supports {counts['supported']}, "
        f"contradicts {counts['contradicted']}, finds {counts['equivalent']} equivalent, leaves "
        f"{counts['undecided']} undecided and did not run {counts['not run']}."
    )
    found["tally"] = [
        {"n": count, "word": word, "class": VERDICTS[word]} for word, count in counts.items()
    ]
    for name in sorted(overall.index, key=lambda n: [*VERDICTS].index(str(overall[n]))):
        rows, verdict = claims[claims["id"] == name], str(overall[name])
        found["claims"].append(
            {
                "verdict": verdict,
                "class": VERDICTS[verdict],
                "sentence": rows["claim"].iloc[0],
                "tested": "; ".join(word for word in rows["tested"].unique() if word),
                "lines": _findings(rows) if verdict in DECIDED else [],
            }
        )
    return found


def _findings(rows: pd.DataFrame) -> list[str]:
    """Why, once for all blocks that say the same."""
    where: dict[str, list[str]] = {}
    for row in rows.drop_duplicates(["model", "dataset", "reason"]).to_dict("records"):
        where.setdefault(str(row["reason"]), []).append(f"{row['model']} · {row['dataset']}")
    return [f"{', '.join(blocks)}: {reason}" for reason, blocks in where.items() if reason]


def _highest(block: Block) -> str:
    """The method with the highest mean of a block, and how it differs from the baselines."""
    where = f"{block.model} trained on {block.dataset}"
    cells = {method: block.cells.get((method, block.overall)) for method in block.methods}
    numbers = {m: cell.interval for m, cell in cells.items() if cell and cell.interval}
    if not numbers:
        return f"{where}: no run has a number."
    best = max(numbers, key=lambda method: numbers[method].mean)
    mean, low, high = points(numbers[best])
    said = (
        f"{where}: {label(best)} has the highest mean, {mean} points [{low}, {high}], "
        f"{numbers[best].n_seeds} seeds"
    )
    gaps = [
        f"{100 * item.difference.mean:+.1f} against {label(item.second.name)} "
        f"({p_text(item.p_adjusted)})"
        for item in block_differences(block)
        if item.first.name == best and item.column == block.overall and item.difference
    ]
    return f"{said}; {' and '.join(gaps)}." if gaps else f"{said}."


def _view(tidy: Tidy, sheet: Sheet, block: Block, classes: dict[str, str]) -> Part:
    """A sheet with the method of each row and the benchmark of each column, empty for neither."""
    # As shown: `rung1` of two data sets is one choice of the filter.
    names = [v.column and benchmark_label(v.column, block.dataset) for v in sheet.head]
    rows = []
    for index, cells in enumerate(sheet.rows):
        method = block.methods[index] if index < len(block.methods) else ""
        name = classes.get(method, "")
        link = run_link(tidy, block.model, block.dataset, name) if method else ""
        rows.append({"method": method, "class": name, "link": link, "cells": cells})
    return {
        "sheet": sheet,
        "model": block.model,
        "dataset": block.dataset,
        "columns": names,
        "groups": _groups(sheet, names),
        "rows": rows,
    }


def _groups(sheet: Sheet, names: list[str]) -> list[Part]:
    found, start = [], 0
    for name, size in sheet.groups:
        inside = [column for column in names[start : start + size] if column]
        found.append({"name": name, "size": size, "benchmarks": " | ".join(inside)})
        start += size
    return found
