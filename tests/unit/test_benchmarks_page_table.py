"""Tables on the pages of studies are what the command prints from the committed results."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("suite", "baseline"), [("zoo", "mixing")])
def test_the_page_has_the_table(
    suite: str,
    baseline: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["page_table.py", suite, baseline])
    runpy.run_path("benchmarks/page_table.py", run_name="__main__")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    page = (ROOT / "docs" / "studies" / f"{suite}.md").read_text(encoding="utf-8")
    assert len(printed) > 10 and "\n".join(printed) in page
