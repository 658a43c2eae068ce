"""A real headless Chromium, and what it complained about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = "chromium", "chromedriver"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
)


@contextmanager
def chromium(profile: Path, *, width: int = 1400, script: bool = True) -> Iterator[Any]:
    """A driver with a fresh profile; the test is skipped where Chromium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which(CHROMIUM), shutil.which(DRIVER)
    if not (browser and driver):
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (*OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},1000"):
        options.add_argument(option)
    if not script:
        options.add_experimental_option(
            "prefs", {"profile.managed_default_content_settings.javascript": 2}
        )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.set_page_load_timeout(300)
    session.set_script_timeout(120)
    try:
        yield session
    finally:
        session.quit()


def console(session: Any) -> list[str]:
    """Messages of the page since the last call: errors, warnings, refused loads."""
    return [entry["message"] for entry in session.get_log("browser")]


def requests(session: Any) -> list[str]:
    """Addresses the page asked for since the last call; data addresses are no requests."""
    events = [json.loads(entry["message"])["message"] for entry in session.get_log("performance")]
    addresses = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [address for address in addresses if not address.startswith("data:")]
