"""How long the report of a large suite takes to open in headless Chromium.

`zoo`: 16 methods, 3 seeds, 1,517 questions, 100 steps, two models, figures drawn. `many`: 1,008
runs in 42 blocks of model and data set, with stand-ins for the figures (images either way).
Prints the size of the page, the time to build it, and, over five openings, the seconds until the
first text is painted, until everything can be used (scripts have run), and until the load event.

    python -m benchmarks.report_opening                   both made-up suites
    python -m benchmarks.report_opening --only many       one of them
    python -m benchmarks.report_opening --page PAGE       any report
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.parts import Numbers, write_part
from bridge.analysis.figures.drawing import build_figures
from bridge.analysis.report.building import build_tables
from bridge.analysis.report.page import build_report
from tests.browser.chromium import CHROMIUM, DRIVER, chromium
from tests.fixtures.answers import make_answers
from tests.fixtures.suite_report import write_report
from tests.fixtures.tidy import METHODS, ZOO, make_tidy, write_tidy

OPENINGS = 5
MODELS = 14
GOAL_S = 2.0
"""Until everything on the page of 1,008 runs can be used."""
NO_BROWSER = (
    "Chromium or its driver is not installed, so no report was opened; Debian's packages "
    "chromium and chromium-driver and Python's selenium are needed."
)
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


def many(folder: Path, n_models: int = MODELS) -> Path:
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


def has_browser() -> bool:
    """Whether :func:`tests.browser.chromium.chromium` can start one."""
    return find_spec("selenium") is not None and all(map(shutil.which, (CHROMIUM, DRIVER)))


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", choices=("zoo", "many"))
    parser.add_argument("--models", type=int, default=MODELS, help="of `many`, 72 runs each")
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    if not has_browser():
        write_part(arguments.write, {}, {}, [NO_BROWSER])
        return
    made: dict[str, Callable[[Path], Path]] = {
        "zoo": zoo,
        "many": lambda folder: many(folder, arguments.models),
    }
    if arguments.page is not None:
        made = {"page": lambda folder: arguments.page.resolve()}
    elif arguments.only is not None:
        made = {arguments.only: made[arguments.only]}
    numbers: Numbers = {}
    with tempfile.TemporaryDirectory() as name:
        for key, make in made.items():
            folder = Path(name, key)
            folder.mkdir()
            numbers[key] = opened(make(folder), folder / "profile")
    ratios = {"many": GOAL_S / numbers["many"]["usable_s"]} if "many" in numbers else {}
    write_part(arguments.write, numbers, ratios)


if __name__ == "__main__":
    main()
