"""Pictures of a report as Chromium renders it, for docs/images/.

python -m benchmarks.report_pictures results/laptop/report.html docs/images
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.chromium import chromium

WIDE, NARROW = 1400, 400
# file -> (section or the top of the page, width, dark, height in CSS pixels)
PICTURES = {
    "report_summary": ("top", WIDE, False, 860),
    "report_accuracy_dark": ("main", WIDE, True, 860),
    "report_curves": ("curves", WIDE, False, 760),
    "report_answers": ("answers", WIDE, False, 640),
    "report_narrow": ("top", NARROW, False, 1000),
}
PLACE = (
    "if (arguments[0] === 'top') return 10;"
    "const r = document.getElementById(arguments[0])?.getBoundingClientRect();"
    "return r && r.top + scrollY"
)


def picture(browser: Any, page: Path, section: str, width: int, dark: bool, height: int) -> bytes:
    """PNG of the top of a section; empty where the report has no such section."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # A picture has no scroll bars; with them lines are shorter and sections lie lower.
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    browser.get("about:blank")
    browser.get(page.as_uri())
    top = browser.execute_script(PLACE, section)
    if top is None:
        return b""
    clip = {"x": 0, "y": top - 10, "width": width, "height": height, "scale": 0.75}
    wanted = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", wanted)
    return base64.b64decode(shot["data"])


def main() -> None:
    """Write the pictures and print their sizes."""
    page, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        for name, wanted in PICTURES.items():
            png = picture(browser, page, *wanted)
            if png:
                (folder / f"{name}.png").write_bytes(png)
            print(f"{name}: {len(png) / 1000:.0f} kB" if png else f"{name}: no such section")


if __name__ == "__main__":
    main()
