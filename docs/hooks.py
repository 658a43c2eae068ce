"""What mkdocs does besides rendering: the home page, links into the code, equations.

The home page is the repository's README.md, and docs/README.md is the page of all pages; both are
written once, for GitHub. Links that leave docs/ lead to the repository. Equations stand in blocks
that GitHub renders, and become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
INDEX = "contents.md"
_LINK = re.compile(r"(\]\()([^)\s:]+)(\))")
_EQUATION = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Put the two README files in the places that the site has for them."""
    index = files.get_file_from_path("README.md")
    assert index is not None
    files.remove(index)
    for target, source in (("index.md", ROOT / "README.md"), (INDEX, ROOT / "docs/README.md")):
        text = source.read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Lead links to where their targets are on the site, or in the repository."""
    source = "README.md" if page.file.src_uri == "index.md" else f"docs/{page.file.src_uri}"
    folder = posixpath.dirname(source)

    def moved(match: re.Match[str]) -> str:
        path, mark, anchor = match[2].partition("#")
        if not path:
            return match[0]
        goal = posixpath.normpath(posixpath.join(folder, path))
        return (
            match[1] + _place(goal, page.file.src_uri, config.repo_url) + mark + anchor + match[3]
        )

    parts, end = [], 0
    for block in _CODE.finditer(markdown):
        parts += [_LINK.sub(moved, markdown[end : block.start()]), block[0]]
        end = block.end()
    text = "".join([*parts, _LINK.sub(moved, markdown[end:])])
    return _EQUATION.sub(lambda found: convert(found[1].strip(), display="block"), text)


def _place(goal: str, page: str, repository: str) -> str:
    """Where a path of the repository is, as seen from a page."""
    inside = {"README.md": "index.md", "docs/README.md": INDEX}.get(goal)
    if inside is None and goal.startswith("docs/") and not goal.endswith(".py"):
        inside = goal.removeprefix("docs/")
    if inside is None:
        kind = "tree" if (ROOT / goal).is_dir() else "blob"
        return f"{repository}/{kind}/main/{goal}"
    return posixpath.relpath(inside, posixpath.dirname(page) or ".")
