"""Who leads a block: only a row that every other one is shown to be below."""

import numpy as np
import pytest

from bridge.analysis.figures.canvas import look
from bridge.analysis.figures.dots import main_scores
from bridge.analysis.figures.forest import leading_row
from bridge.analysis.figures.tradeoffs import accuracy_cost
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.palette import label, style
from bridge.analysis.report.summary import leads
from bridge.analysis.tables.leading import block_lead
from tests.fixtures.tidy import make_tidy, write_tidy

METHODS = ("base", "sft", "rl_zero", "bridge")
SMALL = {"models": ("tiny-qwen",), "sizes": (200, 100), "n_steps": 10}
REACHED = {"base": 0.1, "sft": 0.4, "rl_zero": 0.5, "bridge": 0.7}


def _tables(reached=REACHED, **changes):
    """Every method answers the first questions of each benchmark, seeds a few more or less, and
    RL-zero the other way round."""
    tables = make_tidy(**SMALL | {"methods": tuple(reached)} | changes)
    scores = tables["scores"]
    number = scores["question_id"].str.extract(r"(\d+)$")[0].astype(int)
    share = number / scores.groupby("benchmark")["question_id"].transform("nunique")
    turned = scores["method"].map(lambda method: -1 if method == "rl_zero" else 1)
    wanted = scores["method"].map(reached) + 0.02 * turned * (scores["seed"] - 1)
    wanted[scores["method"] == "base"] = reached.get("base", 0.0)
    scores["greedy_correct"] = share < wanted - 1e-9
    return tables


def _tidy(folder, *args, **changes):
    return load_tidy(write_tidy(folder, _tables(*args, **changes)))


def _lead(tidy):
    (block,) = build_blocks(tidy)
    return block_lead(block)


def _said(tidy):
    (lead,) = leads(build_blocks(tidy))
    return f"{lead['verdict']}{lead['text']}"


def _texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_row_leads_when_all_others_are_below_it(tmp_path):
    tidy = _tidy(tmp_path)
    lead = _lead(tidy)
    assert (lead.method, lead.decided, lead.open) == ("bridge", True, ())
    assert [item.first.name for item in lead.rivals] == ["rl_zero", "sft", "base"]
    gap = lead.nearest.mirrored().difference
    assert _said(tidy) == (
        f"BRIDGE leads: 70.0 points, 20.0 [{100 * gap.low:.1f}, {100 * gap.high:.1f}] above the "
        "next row, RL-zero."
    )


def test_one_row_that_is_not_told_apart_leaves_it_undecided(tmp_path):
    tidy = _tidy(tmp_path, REACHED | {"rl_zero": 0.69})
    lead = _lead(tidy)
    assert [item.first.name for item in lead.open] == ["rl_zero"] and not lead.decided
    said = _said(tidy)
    assert said.startswith("Undecided: BRIDGE has the highest mean, 70.0 points, 1.0 [")
    assert "above RL-zero" in said and said.endswith("; 1 row is not told apart from it.")


def test_two_seeds_decide_nothing(tmp_path):
    tidy = _tidy(tmp_path, seeds=(0, 1))
    assert not _lead(tidy).decided
    assert _said(tidy).endswith("fewer than 3 seeds a side decide nothing.")


def test_a_copy_of_the_leader_is_no_rival(tmp_path):
    lead = _lead(_tidy(tmp_path, REACHED | {"mine": 0.7}))
    assert (lead.method, lead.copies, lead.decided) == ("bridge", ("mine",), True)
    assert lead.nearest.first.name == "rl_zero"


def test_what_cannot_be_compared_is_said(tmp_path):
    statuses = {("tiny-qwen", "chains", "sft", seed): "diverged" for seed in range(3)}
    tidy = _tidy(tmp_path / "diverged", statuses=statuses)
    assert _said(tidy).endswith("Without a number: SFT.")
    tidy = _tidy(tmp_path / "few", sizes=(19,))
    assert "no difference to RL-zero: only 19 shared questions" in _said(tidy)
    tidy = _tidy(tmp_path / "alone", {"bridge": 0.5})
    assert _said(tidy).endswith("and there is no row to compare it with.")
    statuses = {("tiny-qwen", "chains", m, s): "failed" for m in METHODS for s in range(3)}
    tables = make_tidy(**SMALL, methods=METHODS, statuses=statuses)
    tidy = load_tidy(write_tidy(tmp_path / "none", tables))
    assert _said(tidy) == "No run has a number."


def test_the_first_picture_has_the_leader_on_top_and_open_dots_for_what_is_undecided(tmp_path):
    tidy = _tidy(tmp_path, REACHED | {"rl_zero": 0.69})
    with look():
        (axes,) = leading_row(tidy).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["BRIDGE", "RL-zero", "SFT", "Base"]
    dots = {line.get_color(): line for line in axes.lines if line.get_marker() not in ("None", "")}
    assert dots[style("rl_zero").color].get_markerfacecolor() == "white"
    assert dots[style("sft").color].get_markerfacecolor() != "white"
    assert dots[style("sft").color].get_xdata()[0] == pytest.approx(-30)
    assert {"70.0", "-1.0", "-30.0"} <= set(_texts(axes))


def test_a_row_far_outside_is_an_arrow_with_its_number(tmp_path):
    reached = {"base": 0.02, "sft": 0.68, "rl_zero": 0.69, "mixing": 0.69, "bridge": 0.7}
    with look():
        (axes,) = leading_row(_tidy(tmp_path, reached)).axes
    assert "◂ -68.0" in _texts(axes)
    assert axes.get_xlim()[0] > -20
    assert style("base").color not in [line.get_color() for line in axes.lines]


def test_accuracies_are_one_panel_sorted_with_the_untrained_model_as_a_line(tmp_path):
    tidy = _tidy(tmp_path)
    with look():
        (axes,) = main_scores(build_blocks(tidy)).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["BRIDGE", "RL-zero", "SFT"]
    base = [line for line in axes.lines if line.get_color() == style("base").color]
    assert [line.get_xdata() for line in base] == [pytest.approx([10, 10])]
    assert [text.strip() for text in _texts(axes)] == ["70.0", "50.0", "40.0", "Base 10.0"]


def test_the_frontier_explains_its_lines_and_names_its_ends(tmp_path):
    tidy = _tidy(tmp_path)
    with look():
        figure = accuracy_cost(tidy)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["SFT", "RL-zero", "BRIDGE", "Pareto front", "Base, untrained"]
    for axes in figure.axes:
        assert set(_texts(axes)) <= {label(m) for m in METHODS} and "BRIDGE" in _texts(axes)
        assert np.nanmax(axes.get_ylim()) > 50, "points, not fractions"
