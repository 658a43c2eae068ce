"""How long the report of a suite the size of the zoo takes to open in headless Chromium.

16 methods, 3 seeds, 1,517 questions, 100 steps; two models. Prints the size of the page, the time
to build it, and for five openings the seconds until the load event and until all is interactive.

    python -m benchmarks.report_opening            a made-up suite
    python -m benchmarks.report_opening PAGE       any report
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bridge.analysis.building import build_tables
from bridge.analysis.figures import build_figures
from bridge.analysis.report import build_report
from tests.browser.chromium import chromium
from tests.fixtures.answers import make_answers
from tests.fixtures.tidy import ZOO, make_tidy, write_tidy

OPENINGS = 5


def zoo(folder: Path) -> Path:
    """A whole report with drawn figures; answers without the hostile ones."""
    tables = make_tidy(methods=ZOO, n_steps=100)
    answers = make_answers(tables["runs"])
    tables["answers"] = answers[answers["benchmark"] == "rung1"].convert_dtypes()
    write_tidy(folder / "tidy", tables)
    build_tables(folder / "tidy", folder / "tables")
    build_figures(folder / "tidy", folder / "figures")
    start = time.perf_counter()
    build_report(folder / "tidy", folder / "tables", folder / "figures", folder / "report.html")
    print(f"built in {time.perf_counter() - start:.1f} s")
    return folder / "report.html"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else zoo(folder)
        print(f"{page.stat().st_size / 1e6:.2f} MB, load average {os.getloadavg()[0]:.1f}")
        seconds = []
        with chromium(folder / "profile") as browser:
            for _ in range(OPENINGS):
                browser.get("about:blank")
                browser.get(page.as_uri())
                seconds.append(
                    browser.execute_script(
                        "return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
                    )
                )
        print("opened in", ", ".join(f"{value:.2f}" for value in seconds), "s")
        print(f"median {median(seconds):.2f} s, slowest {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
