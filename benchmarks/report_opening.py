"""How long the report of a large suite takes to open in headless Chromium.

`zoo`: 16 methods, 3 seeds, 1,517 questions, 100 steps, two models, figures drawn. `many`: 504 runs
in 21 blocks of model and data set, with stand-ins for the figures, which are images either way.
Prints the size of the page, the time to build it, and, over five openings, the seconds until the
first text is painted, until everything can be used (scripts have run), and until the load event.

    python -m benchmarks.report_opening            both made-up suites
    python -m benchmarks.report_opening PAGE       any report
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bridge.analysis.figures.drawing import build_figures
from bridge.analysis.report.building import build_tables
from bridge.analysis.report.page import build_report
from tests.browser.chromium import chromium
from tests.fixtures.answers import make_answers
from tests.fixtures.suite_report import write_report
from tests.fixtures.tidy import METHODS, ZOO, make_tidy, write_tidy

OPENINGS = 5
TIMES = """
const answer = arguments[0];
const wait = () => {
  const [page] = performance.getEntriesByType('navigation');
  const [paint] = performance.getEntriesByName('first-contentful-paint');
  if (!paint || !page.loadEventEnd) return setTimeout(wait, 10);
  answer([paint.startTime, page.domContentLoadedEventEnd, page.loadEventEnd].map((t) => t / 1000));
};
wait();
"""


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
    print(f"zoo: page built in {time.perf_counter() - start:.1f} s")
    return folder / "report.html"


def many(folder: Path, n_models: int = 7) -> Path:
    """72 runs a model: 3 data sets, 8 methods, 3 seeds; 100 questions, 40 steps."""
    tables = make_tidy(
        models=[f"model-{n}" for n in range(n_models)],
        datasets=("chains", "equations", "others"),
        methods=METHODS,
        sizes=(60, 40),
        n_steps=40,
    )
    start = time.perf_counter()
    page = write_report(folder, tables)
    print(f"many: tables and page built in {time.perf_counter() - start:.1f} s")
    return page


def opened(page: Path, profile: Path) -> dict[str, float]:
    """Open a page several times; print how long it took, and return the medians in seconds."""
    print(f"{page.stat().st_size / 1e6:.2f} MB, load average {os.getloadavg()[0]:.1f}")
    found = []
    with chromium(profile) as browser:
        for _ in range(OPENINGS):
            browser.get("about:blank")
            browser.get(page.as_uri())
            found.append(browser.execute_async_script(TIMES))
    moments = dict(
        zip(("first_paint_s", "usable_s", "loaded_s"), zip(*found, strict=True), strict=True)
    )
    for name, seconds in moments.items():
        print(f"{name:14} median {median(seconds):.2f}, slowest {max(seconds):.2f}")
    return {name: round(median(seconds), 3) for name, seconds in moments.items()}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(sys.argv) > 1:
            opened(Path(sys.argv[1]).resolve(), folder / "profile")
            return
        for make in (zoo, many):
            part = folder / make.__name__
            part.mkdir()
            opened(make(part), part / "profile")


if __name__ == "__main__":
    main()
