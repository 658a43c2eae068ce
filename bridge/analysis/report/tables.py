"""The tables of a report: its own, with what sorting and filtering need, and ready-made ones."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bridge.analysis.numbers.cells import Block
from bridge.analysis.numbers.frames import Tidy
from bridge.analysis.numbers.palette import benchmark_label
from bridge.analysis.report.runs import run_link
from bridge.analysis.tables.accuracy import main_sheets, sampled, sampled_sheets
from bridge.analysis.tables.costs import cost_rows, cost_sheets
from bridge.analysis.tables.published import load_published
from bridge.analysis.tables.render import Sheet
from bridge.store.columns import TABLE_FORMATS

# Built here from the tidy tables; any other table is taken in as it lies in the folder.
OWN = {"main": "main", "sampled": "sampled", "costs": "cost"}
TITLES = {
    "differences": ("Differences to the baselines", "Differences"),
    "claims": ("Claims of papers", "Claims"),
    "ranks": ("Ranks", "Ranks"),
    "clusters": ("Questions of one pattern", "Clusters"),
    "rates": ("Learning rates", "Rates"),
    "trials": ("Tuning trials", "Trials"),
    "tuned": ("Tuned settings", "Settings"),
    "contamination": ("Contamination", "Contamination"),
}
"""Of the tables that are taken in: the title, and the short one among the links."""
PROSE = ("claims",)
# The lists that `render.html` writes under a table.
NOTES = re.compile(r"<ul>\n.*?</ul>\n?", re.DOTALL)
NOTE = re.compile(r"<li>(.*)</li>")
END_OF_TABLE = ("</table>", "</table>\n</div>")

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
    titles = {name: (name.replace("_", " ").capitalize(),) * 2 for name in names} | TITLES
    return [
        {
            "id": f"table-{name}",
            "title": titles[name][0],
            "short": titles[name][1],
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
