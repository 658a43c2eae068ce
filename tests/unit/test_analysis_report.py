"""The report: everything from data is escaped, nothing comes from a network, words stay words."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bridge.analysis.figures.captions import CAPTIONS
from bridge.analysis.numbers.frames import TidyError
from bridge.analysis.report import page as report
from bridge.analysis.report.building import build_tables
from bridge.analysis.report.page import build_report
from bridge.analysis.tables.accuracy import main_table_text
from tests.fixtures.tidy import make_tidy, write_tidy

VENDOR = Path(report.__file__).parent / "vendor"
EVIL = '</style><script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A suite whose model, method, question and reason are markup; drawn figures are stand-ins."""
    folder = tmp_path_factory.mktemp("report")
    model = "m" + EVIL
    statuses = {(model, "chains", "sft", 1): "diverged"}
    tables = make_tidy(
        models=(model,), methods=("base", "sft", "x" + EVIL), sizes=(30, 20), statuses=statuses
    )
    tables["runs"].loc[tables["runs"]["status"] == "diverged", "reason"] = EVIL
    tables["runs"].loc[0, "device"] = "cpu\x00\x1b[0m" + EVIL
    write_tidy(folder / "tidy", tables)
    (folder / "figures").mkdir()
    for name in CAPTIONS:
        (folder / "figures" / f"{name}.svg").write_text(f"<svg>{name}</svg>")
    build_tables(folder / "tidy", folder / "out" / "tables")
    _build(folder)
    return folder


def _build(folder):
    parts = (folder / "tidy", folder / "out" / "tables", folder / "figures")
    build_report(*parts, folder / "out" / "report.html")


def _page(folder) -> str:
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def _tags(page):
    parser = _Tags()
    parser.feed(page)
    return parser.tags


def test_markup_in_data_is_shown_as_text(evil):
    page = _page(evil)
    tags = _tags(page)
    scripts = [attrs for tag, attrs in tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "curve-data"}, {}, {}]
    assert not [attrs for _, attrs in tags if any(name.startswith("on") for name in attrs)]
    assert page.count("&lt;script&gt;") >= 4
    assert "\x00" not in page
    assert "\x1b" not in page


def test_nothing_is_loaded_from_elsewhere(evil):
    for tag, attrs in _tags(_page(evil)):
        for name in ("src", "href", "action", "data"):
            address = attrs.get(name) or ""
            assert not re.match(r"(?i)[a-z]+:|//", address) or address.startswith("data:image/svg")
        assert tag not in ("link", "iframe", "object", "embed")
    assert "url(" not in _page(evil)


def test_the_policy_names_exactly_the_scripts_and_the_style_of_the_page(evil):
    page = _page(evil)
    (policy,) = [
        attrs["content"] for tag, attrs in _tags(page) if "http-equiv" in attrs and tag == "meta"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    hashes = {}
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes[tag] = [
            base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in inside
        ]
        assert rules[f"{tag}-src"] == " ".join(f"'sha256-{value}'" for value in hashes[tag])
    assert (len(hashes["script"]), len(hashes["style"])) == (2, 1)
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy


def test_vendored_files_are_those_of_their_package():
    readme = (VENDOR / "README.md").read_text()
    for path in VENDOR.iterdir():
        if path.name != "README.md":
            assert f"`{path.name}`" in readme
            assert hashlib.sha256(path.read_bytes()).hexdigest() in readme


def test_all_figures_are_inside(evil):
    images = [attrs["src"] for tag, attrs in _tags(_page(evil)) if tag == "img"]
    inside = {base64.b64decode(image.partition(",")[2]).decode() for image in images}
    assert inside == {f"<svg>{name}</svg>" for name in CAPTIONS}


def test_table_files_are_linked_by_relative_path(evil):
    links = [attrs.get("href") for tag, attrs in _tags(_page(evil)) if tag == "a"]
    assert "tables/main.csv" in links
    assert "tables/cost.tex" in links


def test_the_head_has_the_title_and_the_end_what_ran_from_the_data(evil, tmp_path):
    parts = (evil / "tidy", evil / "out" / "tables", evil / "figures")
    build_report(*parts, tmp_path / "report.html", title="A <b>title</b>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>A &lt;b&gt;title&lt;/b&gt;</h1>" in page and "<h1>fixture</h1>" in _page(evil)
    assert "1 model, 1 data set, 3 methods, 3 seeds; 8 of 9 runs finished." in page
    end = page[page.index('<section id="runs">') :]
    for said in ("8 of 9 finished, 1 diverged", "2026-11-21", "0123456789ab"):
        assert said in end


def test_plots_come_before_tables_and_provenance_last(evil):
    sections = re.findall(r'<section id="([\w-]+)"', _page(evil))
    assert sections[:5] == ["summary", "verdicts", "figures", "curves", "main"]
    assert sections[-2:] == ["reading", "runs"]
    page = _page(evil)
    assert page.index("<img") < page.index("<table")
    links = re.findall(r'<a href="#([\w-]+)">', page[page.index("<nav") : page.index("</nav>")])
    assert links == sections


def test_a_failed_run_is_listed_with_its_reason_and_has_no_number(evil):
    page = _page(evil)
    listed = page[page.index("Without a result") :]
    listed = listed[: listed.index("<summary>")]
    assert listed.count("diverged") == 1
    assert "&lt;img src=x" in listed


def test_run_list_follows_the_order_of_the_tables(tmp_path):
    tables = make_tidy(models=("z-model", "a-model"), methods=("bridge", "sft"), sizes=(20,))
    (tmp_path / "figures").mkdir()
    for name in CAPTIONS:
        (tmp_path / "figures" / f"{name}.svg").write_text("<svg/>")
    write_tidy(tmp_path / "tidy", tables)
    _build(tmp_path)
    folders = re.findall(r'href="\./runs/(\S+?)/"', _page(tmp_path))
    models = [f"{model}/chains" for model in ("z-model", "a-model")]
    expected = [
        f"{m}/{method}/seed{k}" for m in models for method in ("sft", "bridge") for k in range(3)
    ]
    assert folders == expected


def test_same_tables_same_page(evil):
    before = _page(evil)
    _build(evil)
    assert _page(evil) == before


def test_a_missing_figure_is_named(evil, tmp_path):
    with pytest.raises(TidyError, match=r"leading_row\.svg is missing"):
        build_report(evil / "tidy", evil / "out" / "tables", tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


NOTED = "<ul>\n<li>Once.</li>\n</ul>\n"
CLAIMS = """\
suite,id,claim,published,overall,why,model,dataset,verdict,tested,measured,effect,low,high,unit
fixture,a,BRIDGE wins.,+3.8 points,undecided,about 4 more seeds,m,chains,undecided,0.34 M,\
BRIDGE minus SFT,1.04,-2,4,points
fixture,b,<b>Faster</b>.,no number,supported,supported in 1,m,chains,supported,0.34 M,\
<i>time</i>,-40,-50,-30,%
fixture,c,It dips.,no number,not run,needs the row <u>x</u>,m,chains,not run,,,,,,
""".replace("\\\n", "")


def test_claims_become_verdict_lines(evil, tmp_path):
    (tmp_path / "claims.csv").write_text(CLAIMS)
    (tmp_path / "claims.html").write_text("<table><caption>All claims</caption></table>")
    (tmp_path / "overlap.html").write_text(
        "<table><caption>Overlap</caption></table>\n" + NOTED * 2
    )
    build_report(evil / "tidy", tmp_path, evil / "figures", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    counts = re.findall(r'<li><b class="(\w+)">(\d+)</b><span>([\w ]+)</span>', page)
    assert [(n, word) for _, n, word in counts] == [
        ("1", "supported"), ("0", "contradicted"), ("0", "equivalent"), ("1", "undecided"),
        ("1", "not run"),
    ]  # fmt: skip
    assert page.index("&lt;b&gt;Faster&lt;/b&gt;") < page.index("BRIDGE wins."), "clear ones first"
    line = page[page.index("BRIDGE wins.") :]
    line = " ".join(re.sub("<[^>]+>", " ", line[: line.index("</small>")]).split())
    assert line == (
        "BRIDGE wins. m · chains +1.0 points [-2.0, +4.0] undecided About 4 more seeds. "
        "Tested on 0.34 M. Published: +3.8 points."
    )
    assert "Needs the row &lt;u&gt;x&lt;/u&gt;." in page
    assert page.index("<caption>All claims") < page.index("<caption>Overlap")
    assert page.count("<li>Once.</li>") == 1, "a note that stands under each table is said once"
    assert '<a href="#table-claims">Claims</a>' in page


EFFECTS = {"paper": 5.17, "summary": 7.31, "note": 9.43}


def _read_in(*places):
    """A file of claims with one published effect for each place that it was read in."""
    claims = [
        {
            "id": f"of-a-{place}", "paper": "p", "sentence": "SFT helps.", "where": "table 1",
            "read_in": place, "metric": "accuracy", "methods": ["sft", "base"],
            "direction": "higher",
            "published": {"effect": EFFECTS[place], "unit": "points", "model": "big"},
        }
        for place in places
    ]  # fmt: skip
    papers = {"p": {"title": "A paper", "address": "https://example.org"}}
    return yaml.safe_dump({"papers": papers, "claims": claims})


def _outputs(evil, folder, claims):
    """Text of all that is made for readers, by file name."""
    (folder / "claims.yaml").write_text(claims)
    build_tables(evil / "tidy", folder / "tables", claims_file=folder / "claims.yaml")
    parts = (evil / "tidy", folder / "tables", evil / "figures")
    build_report(*parts, folder / "report.html")
    files = [*(folder / "tables").iterdir(), folder / "report.html"]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    return texts | {"bridge summary": main_table_text(evil / "tidy")}


def test_a_published_effect_not_read_in_the_paper_says_so_wherever_it_is_shown(evil, tmp_path):
    texts = _outputs(evil, tmp_path, _read_in("paper", "summary", "note"))
    shown = {name for name, text in texts.items() if "+7.31 points" in text}
    assert shown == {*(f"claims.{kind}" for kind in ("csv", "md", "tex", "html")), "report.html"}
    for name in shown:
        for place, effect in EFFECTS.items():
            lines = [line for line in texts[name].splitlines() if f"+{effect} points" in line]
            assert lines, (name, place)
            for line in lines:
                found = re.findall(r"\+([\d.]+) points \(big\), read in a (\w+)", line)
                assert found == ([] if place == "paper" else [(str(effect), place)]), name
    rows = pd.read_csv(tmp_path / "tables" / "claims.csv").set_index("id")
    assert rows["read_in"].to_dict() == {f"of-a-{place}": place for place in EFFECTS}


def test_a_paper_read_itself_gets_no_word_about_how_it_was_read(evil, tmp_path):
    texts = _outputs(evil, tmp_path, _read_in("paper"))
    assert not [name for name, text in texts.items() if re.search("read in a", text, re.I)]


def test_every_number_of_the_main_table_leads_to_its_runs(evil):
    page = _page(evil)
    table = page[page.index('<section id="main">') : page.index('<section id="table-')]
    targets = set(re.findall(r'<td[^>]*><a href="#([^"]+)">', table))
    assert targets == {"runs-0-m0", "runs-0-m1", "runs-0-m2"}
    for target in targets:
        start = page.index(f'<tbody id="{target}">')
        rows = page[start : page.index("</tbody>", start)]
        for said in ("./runs/", "0123456789ab", "torch 2.13.0, Python 3.11.2, grader 1"):
            assert said in rows
        assert len(re.findall("<code>[0-9a-f]{16}</code>", rows)) == 3, "a spec hash per run"
