"""What the pages name exists: links, anchors, files, make targets, commands, suites."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.jobs.cli import parser
from studies.coupling.cli import parser as study_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "results/published/*.md")
    for path in ROOT.glob(pattern)
)
FOLDERS = ("benchmarks", "bridge", "docs", "envs", "examples", "profiles", "rules", "studies")
FOLDERS += ("suites", "tests")
FILES = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.*")] + [*ROOT.glob("*.*")]
NOT_HERE = re.compile(
    r"my_hpt\.|^half\.|tasks/sums\.py|suites/mine\.|^rewards\.py|^results/|^figures/|^tables/"
)
"""What a how-to page lets its reader write, and what runs make."""
PARENTS = ("", "bridge", "bridge/analysis", "studies/coupling")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)


def text(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def links(page: Path) -> Iterator[str]:
    """Targets of a page's relative links."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            yield target


def anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def commands(found: argparse.ArgumentParser) -> set[str]:
    (sub,) = [a for a in found._actions if isinstance(a, argparse._SubParsersAction)]
    return set(sub.choices)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_and_anchors_resolve(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        goal = (ROOT / page.parent / path).resolve() if path else ROOT / page
        assert goal.exists(), f"{page}: {target} is not there"
        if anchor:
            assert anchor in anchors(goal.relative_to(ROOT)), f"{page}: no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_named_files_exist(page: Path) -> None:
    if page.name in ("LOG.md", "CHANGELOG.md"):  # what they say was true when they said it
        return
    names = re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|yaml|md|smk|sh|rst))`", text(page))
    known = {path.name for path in FILES}
    for name in names:
        if NOT_HERE.search(name):
            continue
        parents = (*PARENTS, page.parent)
        found = any((ROOT / parent / name).exists() for parent in parents)
        assert found or ("/" not in name and name in known), f"{page}: no file {name}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_targets_commands_and_suites_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE))
    targets = {name for line in targets for name in line.split()}
    for target in re.findall(r"(?:^ {4,}|`)make ([a-z.][\w.-]*)", text(page), re.MULTILINE):
        assert target in targets, f"{page}: no make {target}"
    ours = commands(parser()) | commands(study_parser())
    for command in re.findall(r"(?:^ {4,}|`|-m )bridge ([a-z][a-z-]*)", text(page), re.MULTILINE):
        assert command in ours, f"{page}: no bridge {command}"
    suites = {path.stem for path in FILES if path.parent.name == "suites"}
    for suite in re.findall(r"(?:suite=|--suite )([\w.]+)", text(page)):
        if suite not in ("NAME", "...", "mine", "counted"):
            assert suite in suites, f"{page}: no suite {suite}"


def test_the_index_has_every_page() -> None:
    index = Path("docs/README.md")
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in links(index)}
    missing = [p for p in PAGES if p.parts[0] == "docs" and (ROOT / p).resolve() not in linked]
    assert missing == [index]


def test_pictures_are_shown_somewhere() -> None:
    shown = {Path(target).name for page in PAGES for target in links(page)}
    assert {path.name for path in (ROOT / "docs/images").glob("*.png")} <= shown
