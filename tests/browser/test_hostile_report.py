"""Every text of the hostile corpus in a real browser: shown as text; nothing runs or loads."""

from __future__ import annotations

from unittest.mock import patch

import pandas as pd
import pytest

from bridge.analysis.report import data as report_data
from bridge.analysis.report.data import readable
from tests.browser.chromium import chromium, console, requests
from tests.fixtures.hostile_texts import corpus
from tests.fixtures.suite_report import write_report
from tests.fixtures.tidy import make_tidy

METHODS = ("base", "sft", "rl_zero", "cold_start", "bridge")
TEXTS = [hostile.text[:3_000] for hostile in corpus()]
QUESTIONS = -(-len(TEXTS) // len(METHODS))
WALK = r"""
const seen = [], question = document.querySelector('#answers [name=question]');
const view = document.querySelector('#answer-view');
const names = new Set(), attributes = new Set();
for (let i = 0; i < question.length; i++) {
  question.selectedIndex = i;
  question.dispatchEvent(new Event('change'));
  for (const pre of view.querySelectorAll('pre')) seen.push(pre.textContent);
  for (const e of view.querySelectorAll('*')) {
    names.add(e.localName);
    for (const a of e.attributes) attributes.add(a.name);
  }
}
return {seen, names: [...names], attributes: [...attributes]};
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report whose answers are the corpus."""
    tables = make_tidy(models=("tiny-qwen",), methods=METHODS, sizes=(20,), n_steps=10)
    rows = []
    for number, text in enumerate(TEXTS):
        rows.append(
            {
                "suite": "fixture",
                "model": "tiny-qwen",
                "dataset": "chains",
                "method": METHODS[number % len(METHODS)],
                "seed": 0,
                "benchmark": "rung1",
                "question_id": f"rung1-{number // len(METHODS):04d}",
                "question": text,
                "gold": "1",
                "difficulty": 3,
                "sample": -1,
                "text": text,
                "length": len(text),
                "extracted": text[:300],
                "verdict": "wrong",
            }
        )
    answers = pd.DataFrame(rows, dtype=object).astype({"seed": int, "sample": int})
    with patch.object(report_data, "QUESTIONS_PER_BENCHMARK", QUESTIONS):
        return write_report(tmp_path_factory.mktemp("hostile"), tables, answers)


def test_nothing_of_the_corpus_runs_in_a_browser(page, tmp_path):
    with chromium(tmp_path) as browser:
        browser.get("about:blank")  # Chromium's own start page is not ours
        console(browser), requests(browser)
        browser.get(page.as_uri())
        found = browser.execute_script(WALK)
        # An alert would be an error of the driver here; a message or a request stands in its logs.
        assert browser.title == "fixture · results"
        assert console(browser) == []
        assert requests(browser) == [page.as_uri()]
    assert {readable(text) for text in TEXTS} <= set(found["seen"])
    assert not {"script", "style", "img", "a", "iframe", "svg", "form", "object"} & {
        *found["names"]
    }
    assert not [name for name in found["attributes"] if name.startswith("on")]
