"""The report in a real browser: it renders, sorts, filters, draws, shows hostile text as text."""

from __future__ import annotations

import pytest

from tests.browser.chromium import chromium, console, requests
from tests.fixtures.answers import HOSTILE
from tests.fixtures.suite_report import write_report
from tests.fixtures.tidy import ZOO, make_tidy

METHODS = ("base", "sft", "rl_zero", "cold_start", "bridge")
MODELS = ("tiny-qwen", "m</script><script>alert(1)</script>")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A small suite with a failed method and a model whose name is markup."""
    statuses = {(MODELS[0], "chains", "sft", seed): "diverged" for seed in range(3)}
    tables = make_tidy(
        models=MODELS, methods=METHODS, sizes=(60, 40, 30), n_steps=30, statuses=statuses
    )
    return write_report(tmp_path_factory.mktemp("suite"), tables)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.fixture
def shown(browser, page):
    """The page just opened; whatever the test does must leave console and network silent."""
    # From a blank page, because going to the address one is at may count as staying there.
    browser.get("about:blank")
    console(browser), requests(browser)
    browser.get(page.as_uri())
    assert run(browser, READY) == "yes"
    yield browser
    assert browser.title == "fixture · results"
    assert console(browser) == []
    assert requests(browser) == [page.as_uri()]


def run(browser, expression):
    """The value of a JavaScript expression."""
    return browser.execute_script(f"return {expression}")


def texts(browser, selector):
    """Texts of the visible elements that match."""
    return run(
        browser,
        f"[...document.querySelectorAll({selector!r})].filter((e) => e.checkVisibility())"
        ".map((e) => e.textContent.trim())",
    )


def click(browser, selector):
    run(browser, f"document.querySelector({selector!r}).click()")


def choose(browser, selector, index):
    browser.execute_script(
        "const s = document.querySelector(arguments[0]); s.selectedIndex = arguments[1];"
        "s.dispatchEvent(new Event('change'))",
        selector,
        index,
    )


READY = "document.documentElement.dataset.ready"
FIRST = "#main .sheet:first-of-type"


def order(browser):
    return [text.split("\n")[0] for text in texts(browser, f"{FIRST} tbody th")]


def test_everything_is_on_the_page(shown):
    assert texts(shown, "h1") == ["fixture"]
    sections = texts(shown, "section > h2")
    for title in ("Summary", "Accuracy", "Training curves", "Figures", "Answers", "Cost"):
        assert title in sections
    loaded = "[...document.images].every((i) => i.complete && i.naturalWidth > 0)"
    assert run(shown, loaded)


def test_the_main_table_sorts_and_keeps_words_and_the_gap_below(shown):
    start = order(shown)
    assert start == ["Base", "SFT", "RL-zero", "Cold-start", "BRIDGE", "detectable gap"]
    head = f"{FIRST} thead tr:last-child th:nth-child(3) button"
    column = f"{FIRST} tbody tr:not(.extra) td:nth-child(3)"
    for direction in (-1, 1):
        click(shown, head)
        values = texts(shown, column)
        assert "diverged" in values[-1]
        numbers = [float(text.split("[")[0]) for text in values[:-1]]
        assert numbers == sorted(numbers, reverse=direction == -1)
        assert order(shown)[-1] == "detectable gap"
    click(shown, f"{FIRST} thead tr:last-child th:first-child button")
    assert order(shown)[:-1] == sorted(start[:-1], key=str.lower, reverse=True)


def test_the_main_table_filters_by_model_method_and_benchmark(shown):
    assert len(texts(shown, "#main .sheet")) == 2
    choose(shown, "#filters [name=model]", 2)
    (left,) = texts(shown, "#main .sheet figcaption")
    assert left.startswith(MODELS[1])
    choose(shown, "#filters [name=model]", 1)
    click(shown, "#filters input[value=bridge]")
    assert "BRIDGE" not in order(shown)
    click(shown, "#filters input[value=bridge]")
    assert "BRIDGE" in order(shown)
    click(shown, "#filters input[value=rung2]")
    heads = texts(shown, f"{FIRST} thead tr:last-child th")
    assert any(head.startswith("rung1") for head in heads)
    assert not any(head.startswith("rung2") for head in heads)
    cells = texts(shown, f"{FIRST} tbody tr:first-child > *")
    assert len(cells) == len(heads)


def test_a_number_leads_to_its_runs(shown):
    click(shown, f"{FIRST} tbody tr[data-method=bridge] td a")
    rows = texts(shown, "tbody:target tr")
    assert len(rows) == 3
    assert all("bridge/seed" in row and "0123456789ab" in row for row in rows)


def test_curves_follow_the_choice_of_method_quantity_and_axis(shown):
    legend = "#chart .u-legend .u-series:not(.bound) .u-label"
    assert texts(shown, legend) == ["training progress", "RL-zero", "Cold-start", "BRIDGE"]
    inked = (
        "(() => { const c = document.querySelector('#chart canvas');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        ".reduce((n, v, i) => n + (i % 4 === 3 && v > 0), 0) })()"
    )
    before = run(shown, inked)
    assert before > 1000
    click(shown, "#curves input[value=bridge]")
    assert texts(shown, legend) == ["training progress", "RL-zero", "Cold-start"]
    assert run(shown, inked) < before
    metrics = run(
        shown, "[...document.querySelector('#curves [name=metric]')].map((o) => o.textContent)"
    )
    choose(shown, "#curves [name=metric]", metrics.index("training reward"))
    choose(shown, "#curves [name=axis]", 2)
    assert texts(shown, legend) == ["RL step", "RL-zero", "Cold-start"]
    choose(shown, "#curves [name=block]", 1)
    # SFT finished there, but has no RL steps.
    assert texts(shown, legend) == ["RL step", "RL-zero", "Cold-start", "BRIDGE"]
    choose(shown, "#curves [name=axis]", 1)
    choose(shown, "#curves [name=metric]", 0)
    assert texts(shown, legend) == ["step", "SFT", "RL-zero", "Cold-start", "BRIDGE"]


def test_hovering_shows_values(shown):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    area = shown.find_element(By.CSS_SELECTOR, "#chart .u-over")
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
    ActionChains(shown).move_to_element(area).perform()
    values = texts(shown, "#chart .u-legend .u-series:not(.bound) .u-value")
    share, *points = map(float, values)
    assert 0 <= share <= 1
    assert all(1 < value <= 100 for value in points), values


def test_hostile_answers_are_shown_as_text(shown):
    rung2 = "[...document.querySelector('#answers [name=benchmark]')].length"
    assert run(shown, rung2) == 3
    choose(shown, "#answers [name=benchmark]", 2)
    seen = set()
    for index in range(run(shown, "document.querySelector('#answers [name=question]').length")):
        choose(shown, "#answers [name=question]", index)
        seen |= set(texts(shown, "#answer-view pre"))
        assert texts(shown, "#answer-view .question p")[0].endswith("+ <b>0</b>?")
    for name in ("script", "closing", "link", "image", "comment"):
        assert HOSTILE[name] in seen
    assert "before \ufffd after \ufffd" in seen
    inside = "#answer-view :is(script, img, a, b:not(h4 > b), style)"
    assert run(shown, f"document.querySelectorAll({inside!r}).length") == 0


def test_a_long_answer_says_that_it_was_cut(shown):
    choose(shown, "#answers [name=benchmark]", 2)
    notes = []
    for index in range(run(shown, "document.querySelector('#answers [name=question]').length")):
        choose(shown, "#answers [name=question]", index)
        notes += texts(shown, "#answer-view .cut")
    assert set(notes) == {"Cut: the first 4,000 of 1,000,000 characters."}


def test_questions_can_be_narrowed_and_walked_through(shown):
    count = "document.querySelector('#answers [name=question]').length"
    everything = run(shown, count)
    parts = []
    for index in (1, 2, 3):
        choose(shown, "#answers [name=list]", index)
        parts.append(run(shown, count))
    assert sum(parts) == everything
    choose(shown, "#answers [name=list]", 0)
    first = texts(shown, "#answer-view .question small")[0]
    click(shown, "#answers button[aria-label='Next question']")
    assert texts(shown, "#answer-view .question small")[0] != first
    click(shown, "#answers button[aria-label='Previous question']")
    assert texts(shown, "#answer-view .question small")[0] == first
    cards = len(texts(shown, "#answer-view .answer"))
    click(shown, "#answers input[value=bridge]")
    assert len(texts(shown, "#answer-view .answer")) == cards - 1


@pytest.fixture
def wide(shown):
    """Sets the width of the window in CSS pixels, narrower than a window can be made."""

    def resize(width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        shown.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 100))")

    yield resize
    shown.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [400, 900, 1440])
def test_the_page_is_no_wider_than_the_window(shown, wide, width):
    wide(width)
    assert run(shown, "innerWidth") == width
    assert run(shown, "document.documentElement.scrollWidth - innerWidth") <= 0


# For each link: whether it can be hit where it stands, and, once followed, whether the heading of
# its section stands in the window, not covered by the links.
FOLLOW = """
const hit = (e) => {
  const r = e.getBoundingClientRect();
  return e.contains(document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2));
};
return [...document.querySelectorAll('nav a')].map((link) => {
  document.querySelector('#sections').scrollIntoView();
  const reached = hit(link);
  link.click();
  const heading = document.querySelector(`${link.hash} > h2:not(.quiet)`);
  return [link.hash, reached, hit(heading ?? document.querySelector('.leads'))];
});
"""


@pytest.mark.parametrize("width", [400, 900, 1440])
def test_every_section_is_reached_by_its_link(shown, wide, width):
    wide(width)
    found = shown.execute_script(FOLLOW)
    sections = run(shown, "[...document.querySelectorAll('section')].map((s) => `#${s.id}`)")
    assert [name for name, *_ in found] == sections
    assert [name for name, link, heading in found if not (link and heading)] == []


@pytest.mark.parametrize("width", [900, 1440])
def test_the_first_screen_has_the_verdict_and_the_picture(shown, wide, width):
    wide(width)
    bottom = "Math.max(...[...document.querySelectorAll('.leads, .first img, .tally')]"
    assert run(shown, f"{bottom}.map((e) => e.getBoundingClientRect().bottom))") < 900
    assert len(texts(shown, ".leads li")) == len(MODELS)
    assert len(texts(shown, ".tally li")) == 6


def test_without_javascript_tables_and_figures_are_there(page, tmp_path):
    with chromium(tmp_path, script=False) as session:
        session.get(page.as_uri())
        from selenium.webdriver.common.by import By

        def visible(selector):
            return [e for e in session.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()]

        assert len(visible("#main table")) == 2
        assert len(visible("#figures img")) > 5
        assert not visible("#filters, #curves, #answers .controls")
        assert "needs JavaScript" in visible("#answers")[0].text


def test_the_policy_stops_what_escaping_might_miss(page, browser, tmp_path):
    """Scripts, handlers, styles and loads put into the page by hand do nothing."""
    text = page.read_text(encoding="utf-8")
    evil = (
        "<script>document.title = 'broken'</script>"
        "<img src='https://example.org/x.png' onerror=\"document.title = 'broken'\">"
    )
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace('<h2 class="quiet">Summary</h2>', evil), encoding="utf-8")
    console(browser), requests(browser)
    browser.get(broken.as_uri())
    assert browser.title == "fixture · results"
    assert len(console(browser)) >= 2, "the browser reports what it refused"


@pytest.mark.slow
def test_a_suite_the_size_of_the_zoo_opens(browser, tmp_path):
    """16 methods, 3 seeds, 1,517 questions, 100 steps; how fast: benchmarks/report_opening.py."""
    tables = make_tidy(models=("tiny-qwen",), methods=ZOO, n_steps=100)
    page = write_report(tmp_path, tables)
    assert page.stat().st_size < 5_000_000
    console(browser)
    browser.get(page.as_uri())
    assert run(browser, READY) == "yes"
    assert len(texts(browser, "#main tbody tr[data-method]")) == len(ZOO)
    assert console(browser) == []
