"""One self-contained HTML page per suite: what came out, every table, figure, curve, answer, run.

Nothing is loaded from a network: the page carries a policy that forbids it and lets only its own
scripts run, named by their hashes. All text from data passes through jinja2's autoescape or is
embedded as JSON that scripts show as text; figures are images, so that nothing in them can run.
Without JavaScript the tables and figures are all there.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bridge.analysis.figures.captions import CAPTIONS
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import TidyError, cautions, load_tidy
from bridge.analysis.numbers.palette import ordered_methods, style
from bridge.analysis.report.data import answer_data, curve_data, embed, load_answers
from bridge.analysis.report.runs import counts, facts, provenance, run_groups, without_result
from bridge.analysis.report.summary import leads, verdicts
from bridge.analysis.report.tables import fragments, table_groups
from bridge.analysis.tables.accuracy import distinct
from bridge.analysis.tables.render import printable
from bridge.store.records import write_text

HERE = Path(__file__).parent
STYLES = ("vendor/uPlot.min.css", "report.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "report.js")
COLUMN_PT = 72 * 4.0
FIRST = "leading_row"
"""The figure of the first screen."""
SECTIONS = {
    "summary": "Summary",
    "verdicts": "Verdicts",
    "figures": "Figures",
    "curves": "Curves",
    "main": "Accuracy",
    "sampled": "Sampled",
    "costs": "Cost",
    "answers": "Answers",
    "reading": "Reading",
    "runs": "Runs",
}
"""Sections and their short names: what came out, plots, tables, answers, provenance. Tables that
are taken in stand after the main one."""


def build_report(
    tidy_dir: Path, tables_dir: Path, figures_dir: Path, out_file: Path, title: str = ""
) -> None:
    """Write the report of a suite to `out_file`, under the suite's title if one is given.

    Figures are embedded; table files in `tables_dir` are linked by relative path, and HTML tables
    that the report does not build itself (differences, claims, ...) are taken in from there.
    `answers.parquet` beside the tidy tables is optional. Raises `frames.TidyError` if the tables
    cannot be shown or a figure has not been built. Same input, same bytes.
    """
    tidy = load_tidy(tidy_dir)
    blocks = build_blocks(tidy)
    methods = ordered_methods(distinct(tidy.runs["method"]))
    classes = {method: f"m{index}" for index, method in enumerate(methods)}
    answers = load_answers(tidy_dir)
    curves = curve_data(tidy, classes)
    browser = {} if answers is None else answer_data(tidy, answers, classes)
    parts = {
        "leads": leads(blocks),
        "verdicts": verdicts(tables_dir),
        "tables": table_groups(tidy, blocks, classes, tables_dir, out_file.parent),
        "fragments": fragments(tables_dir, out_file.parent),
        "figures": _figures(figures_dir),
        "curve_data": Markup(embed(curves)) if curves["blocks"] else "",
        "answer_data": Markup(embed(browser)) if browser.get("blocks") else "",
    }
    page = _template().render(
        suite=tidy.suite,
        title=title or tidy.suite,
        counts=counts(tidy),
        facts=facts(tidy),
        cautions=cautions(tidy),
        failures=without_result(tidy, classes),
        runs=run_groups(tidy, classes),
        n_runs=len(tidy.runs),
        provenance=provenance(tidy),
        sections=_sections(parts),
        **parts,
        **_assets(classes),
    )
    write_text(out_file, page)


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    return environment.get_template("report.html.j2")


def _assets(classes: dict[str, str]) -> dict[str, Any]:
    """Style, scripts, and the policy that allows these and nothing else."""
    colors = [f".{name}{{--m:{style(method).color}}}" for method, name in classes.items()]
    sheet = "\n".join([*(_asset(name) for name in STYLES), *colors])
    scripts = [_asset(name) for name in SCRIPTS]
    allowed = {
        "default-src": "'none'",
        "script-src": " ".join(_source(script) for script in scripts),
        "style-src": _source(sheet),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return {
        "style": Markup(sheet),
        "scripts": [Markup(script) for script in scripts],
        "policy": "; ".join(f"{name} {value}" for name, value in allowed.items()),
    }


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").strip()


def _source(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _sections(parts: dict[str, Any]) -> list[tuple[str, str]]:
    """(id, short name) of the sections that the page has, in order."""
    present = {
        "verdicts": parts["verdicts"]["claims"],
        "curves": parts["curve_data"],
        "answers": parts["answer_data"],
        "sampled": parts["tables"]["sampled"]["views"],
    }
    found = [(name, title) for name, title in SECTIONS.items() if present.get(name, True)]
    extra = [(part["id"], part["short"]) for part in parts["fragments"]]
    place = found.index(("main", SECTIONS["main"])) + 1
    return found[:place] + extra + found[place:]


def _figures(folder: Path) -> list[dict[str, Any]]:
    figures = []
    for name, (title, caption) in CAPTIONS.items():
        path = folder / f"{name}.svg"
        if not path.is_file():
            raise TidyError(f"{path} is missing; build the figures before the report")
        data = path.read_bytes()
        width = re.search(rb'<svg[^>]*\swidth="([\d.]+)pt"', data[:2000])
        figures.append(
            {
                "first": name == FIRST,
                "title": title,
                "caption": caption,
                "image": base64.b64encode(data).decode("ascii"),
                "narrow": width is not None and float(width[1]) < COLUMN_PT,
            }
        )
    return figures


def _clean(value: Any) -> Any:
    """Plain text without control characters; markup that the template marked safe passes."""
    return printable(value) if type(value) is str else value
