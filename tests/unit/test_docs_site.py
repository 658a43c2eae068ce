"""Pages that are made or that quote: configuration, troubleshooting, the list of the site."""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def reference() -> str:
    return str(runpy.run_path(str(DOCS / "configuration.py"))["page"]())


def test_the_configuration_page_is_what_the_schemas_say(reference: str) -> None:
    assert (DOCS / "configuration.md").read_text() == reference, "python docs/configuration.py"


def test_every_key_of_a_suite_is_explained(reference: str) -> None:
    own = reference.split("## Options of methods")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \| (\S+) \|$", own, re.MULTILINE)
    assert len(rows) > 90
    assert [row[0] for row in rows if not row[3]] == []
    marks = {row[0]: row[4] for row in rows}
    assert (marks["lr_rl"], marks["cpu_offload"], marks["tracking"]) == ("run", "-", "-")


def said() -> str:
    """All texts of the package, with what formatting leaves open cut out."""
    found = []
    for path in (ROOT / "bridge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_troubleshooting_quotes_what_is_said() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    quotes = re.findall(r"\*\*`([^`]+)`\*\*(?! \(Snakemake's\)|.*\bcolumn\b)", page)
    assert len(quotes) > 20
    text = said()
    parts = [part.strip() for quote in quotes for part in quote.split("...")]
    assert [part for part in parts if part not in text] == []


def test_the_site_lists_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text().split("nav:")[1]
    listed = set(re.findall(r"(?:- |: )([\w/-]+\.(?:md|ipynb))$", text, re.MULTILINE))
    pages = {p.relative_to(DOCS).as_posix() for p in [*DOCS.rglob("*.md"), *NOTEBOOKS]}
    # The two README files have other names on the site: docs/hooks.py.
    assert listed == (pages - {"README.md"}) | {"index.md", "contents.md"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_without_output(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(c["outputs"] == [] and c["execution_count"] is None for c in code)
