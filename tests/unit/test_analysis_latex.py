"""LaTeX tables: balanced, booktabs, escaped, and compiled where a LaTeX is installed."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from bridge.analysis.report.building import build_tables
from bridge.analysis.tables.render import Sheet, Value, latex
from tests.fixtures.tidy import make_tidy, sealed, write_tidy
from tests.unit.test_analysis_rates import write_grid

DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""
SPECIAL = "\\ & % $ # _ { } ~ ^ < > µ φ β λ × – — · é"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Every table there is, with awkward names and a failed method."""
    folder = tmp_path_factory.mktemp("latex")
    models, methods = ("Qwen_2.5 & 50%", "tiny-qwen"), ("rl_zero", "bridge", "a_#1{}~^")
    statuses = {("tiny-qwen", "chains", "bridge", seed): "collapsed" for seed in range(3)}
    made = make_tidy(
        sizes=(30, 25), n_steps=20, n_samples=4, statuses=statuses, models=models, methods=methods
    )
    write_tidy(folder / "tidy", made)
    overlap = {
        "suite": "fixture",
        "dataset": "chains",
        "training_set": "prompts",
        "benchmark": "rung1",
        "n_training": 9,
        "n_questions": 8,
        "n_exact": 1,
        "n_renamed": 2,
        "n_overlapping": 3,
        "overlap": 0.5,
    }
    pd.DataFrame([overlap]).to_parquet(folder / "tidy" / "contamination.parquet")
    sealed(folder / "tidy")
    build_tables(folder / "tidy", folder / "tables", tuned_dir=write_grid(folder / "tune"))
    found = {path.stem: path.read_text() for path in (folder / "tables").glob("*.tex")}
    special = Sheet("odd & ends", [Value("a"), Value("b")], [[Value(SPECIAL), Value("1", SPECIAL)]])
    return found | {"special": latex([special])}


NAMES = (
    "main",
    "differences",
    "ranks",
    "cost",
    "claims",
    "sampled",
    "contamination",
    "rates",
    "special",
)


def test_every_table_is_here(tables):
    assert set(tables) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_braces_and_environments_balance_and_rules_are_booktabs(tables, name):
    text = tables[name]
    bare = re.sub(r"\\[\\{}%&#_$]", "", text)
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    begun, ended = (re.findall(rf"\\{word}{{([a-z*]+)}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    count = text.count(r"\begin{tabular}")
    assert count and all(
        text.count(rule) == count for rule in (r"\toprule", r"\midrule", r"\bottomrule")
    )
    assert r"\hline" not in text


@pytest.mark.parametrize("name", NAMES)
def test_each_row_has_as_many_cells_as_the_table_has_columns(tables, name):
    for head, body in re.findall(
        r"\\begin{tabular}{([^\n]*)}\n(.*?)\\bottomrule", tables[name], re.DOTALL
    ):
        columns = len(re.sub(r"{[^{}]*}", "", head))
        for line in body.splitlines():
            if not line.endswith(r"\\"):
                continue
            spans = [int(n) - 1 for n in re.findall(r"\\multicolumn{(\d+)}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans)
            assert cells == columns, line


def test_no_special_character_is_bare(tables):
    text = tables["special"]
    assert r"\textbackslash{} \& \% \$ \# \_ \{ \} \textasciitilde{}" in text
    assert r"odd \& ends" in text
    assert "β" not in text and r"$\beta$ $\lambda$" in text


@pytest.mark.parametrize("name", NAMES)
def test_latex_compiles(tables, name, tmp_path):
    program = shutil.which("pdflatex") or shutil.which("tectonic")
    if program is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    (tmp_path / "table.tex").write_text(DOCUMENT % tables[name], encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in program else []
    done = subprocess.run(
        [program, *options, "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").is_file()
