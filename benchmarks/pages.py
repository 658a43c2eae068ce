"""Tables inside pages: what a command measured stands between two comments, which stay."""

from __future__ import annotations

from pathlib import Path


def replace_part(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- NAME: start -->`` and ``<!-- NAME: end -->``.

    Raises:
        SystemExit: the page has no such part.
    """
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    content = page.read_text(encoding="utf-8")
    if content.count(start) != 1 or content.count(end) != 1:
        raise SystemExit(f"{page} must have the lines '{start}' and '{end}' once each.")
    before, _, rest = content.partition(start)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")
