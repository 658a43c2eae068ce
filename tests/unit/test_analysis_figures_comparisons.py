"""Figures that compare methods: differences, questions, difficulty, cost."""

import numpy as np
import pytest

from bridge.analysis.figures.canvas import look
from bridge.analysis.figures.forest import paired_differences
from bridge.analysis.figures.questions import difficulty, question_changes
from bridge.analysis.figures.tradeoffs import (
    Point,
    accuracy_cost,
    block_points,
    pareto_front,
    stage_costs,
    stage_seconds,
)
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.palette import style
from bridge.analysis.numbers.statistics import Interval
from bridge.analysis.tables.differences import block_differences
from tests.fixtures.tidy import make_tidy, write_tidy

BLOCK = ("tiny-qwen", "chains")
SMALL = {"models": ("tiny-qwen",), "sizes": (30, 20), "n_steps": 10}
COMPARED = ("base", "rl_zero", "cold_start", "bridge")


def _tidy(folder, **settings):
    return load_tidy(write_tidy(folder, make_tidy(**(SMALL | {"methods": COMPARED} | settings))))


def _texts(figure):
    with look():
        figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


def _point(name, cost, accuracy):
    return Point(name, cost, Interval(accuracy, accuracy, accuracy, 0.0, 1, 1, "questions"))


def test_a_difference_is_the_mean_over_benchmarks_in_points(tmp_path):
    tidy = _tidy(tmp_path)
    scores = tidy.scores.groupby(["method", "benchmark"])["greedy_correct"].mean()
    expected = 100 * (scores["bridge"] - scores["rl_zero"]).mean()
    with look():
        axes = paired_differences(tidy).axes[0]
    (dot,) = [
        line
        for line in axes.get_lines()
        if line.get_color() == style("bridge").color and line.get_marker() == style("bridge").marker
    ]
    assert dot.get_xdata()[0] == pytest.approx(expected)


def test_dots_are_filled_only_where_the_corrected_difference_is_clear(tmp_path):
    tidy = _tidy(tmp_path, sizes=(60, 40))
    with look():
        lines = [line for axes in paired_differences(tidy).axes for line in axes.get_lines()]
    open_dots = sum(line.get_markerfacecolor() == "white" for line in lines)
    (block,) = build_blocks(tidy)
    found = [item for item in block_differences(block) if item.column == block.overall]
    clear = [item.p_adjusted < 0.05 for item in found]
    assert open_dots == clear.count(False)
    assert 0 < open_dots < len(clear)


def test_too_few_shared_questions_are_a_sentence_not_a_dot(tmp_path):
    tidy = _tidy(tmp_path, sizes=(19,))
    with look():
        figure = paired_differences(tidy)
    assert any("only 19 shared questions" in text for text in _texts(figure))


def test_partial_answers_are_not_compared(tmp_path):
    tables = make_tidy(**SMALL, methods=COMPARED)
    scores = tables["scores"]
    cut = (scores["method"] == "bridge") & (scores["question_id"] == "rung1-0003")
    tables["scores"] = scores[~cut]
    tidy = load_tidy(write_tidy(tmp_path, tables))
    with look():
        texts = _texts(question_changes(tidy))
    assert "rung2" in texts
    assert "rung1" not in texts
    assert "bridge: partial 3/3" in _texts(paired_differences(tidy))


def test_gained_and_lost_questions_are_counted_per_question(tmp_path):
    tidy = _tidy(tmp_path)
    scores = tidy.scores[tidy.scores["benchmark"] == "rung1"]
    means = scores.groupby(["method", "question_id"])["greedy_correct"].mean()
    gap = means["bridge"] - means["cold_start"]
    with look():
        texts = _texts(question_changes(tidy))
    assert "tiny-qwen · chains: BRIDGE minus Cold-start" in texts
    assert f"{100 * (gap > 1e-9).mean():.0f} % gained" in texts
    assert f"{100 * (gap < -1e-9).mean():.0f} % lost" in texts


def test_changes_fill_the_sorted_differences(tmp_path):
    tidy = _tidy(tmp_path, seeds=(0,))
    with look():
        axes = question_changes(tidy).axes[0]
    (block,) = build_blocks(tidy)
    bridge, other = (block.answers[m, "rung1"][0] for m in ("bridge", "cold_start"))
    gap = (bridge - other).to_numpy()[0]
    gained, lost = (patch.get_data() for patch in axes.patches)
    area = sum(gained.values * np.diff(gained.edges)), sum(lost.values * np.diff(lost.edges))
    assert area == pytest.approx((gap.clip(min=0).mean(), gap.clip(max=0).mean()))


def test_without_a_pair_the_figure_says_so(tmp_path):
    tidy = _tidy(tmp_path, methods=("base", "sft"))
    with look():
        assert "no two of BRIDGE, Cold-start and RL-zero to compare" in _texts(
            question_changes(tidy)
        )
        assert "no baseline to compare with" in _texts(paired_differences(tidy))


def test_difficulty_pools_benchmarks_and_keeps_the_order_of_numbers(tmp_path):
    tables = make_tidy(**SMALL, methods=("bridge",))
    tables["scores"]["difficulty"] = np.where(tables["scores"].index % 2, 10, 9)
    tidy = load_tidy(write_tidy(tmp_path, tables))
    with look():
        axes = difficulty(tidy).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["9", "10"]
    expected = 100 * tables["scores"].groupby("difficulty")["greedy_correct"].mean()
    (line,) = axes.get_lines()
    assert line.get_ydata() == pytest.approx(expected.to_numpy())


def test_missing_difficulty_is_said(tmp_path):
    tables = make_tidy(**SMALL, methods=("bridge",))
    tables["scores"] = tables["scores"].drop(columns="difficulty")
    tidy = load_tidy(write_tidy(tmp_path, tables))
    with look():
        assert "no difficulty noted" in _texts(difficulty(tidy))


def test_pareto_front_by_hand():
    points = [
        _point("cheap", 1.0, 0.3),
        _point("worse", 2.0, 0.2),
        _point("equal", 2.0, 0.3),
        _point("good", 3.0, 0.5),
        _point("twin", 3.0, 0.4),
        _point("best", 9.0, 0.6),
    ]
    assert [point.method for point in pareto_front(points)] == ["cheap", "good", "best"]
    assert pareto_front([]) == []


def test_cost_and_accuracy_are_means_over_finished_runs(tmp_path):
    statuses = {(*BLOCK, "bridge", 2): "diverged"}
    tidy = _tidy(tmp_path, statuses=statuses)
    (block,) = build_blocks(tidy)
    point = next(p for p in block_points(tidy, block, "seconds_train") if p.method == "bridge")
    assert point.cost == pytest.approx(60 * 1.01)
    scores = tidy.scores[tidy.scores["method"] == "bridge"]
    assert point.accuracy.mean == pytest.approx(
        scores.groupby("benchmark")["greedy_correct"].mean().mean()
    )
    texts = _texts(accuracy_cost(tidy))
    assert "training time (s)" in texts
    assert "training compute (10¹² FLOPs)" in texts


def test_wide_ranges_of_cost_are_logarithmic(tmp_path):
    tables = make_tidy(**SMALL, methods=("rl_zero", "bridge"))
    costs = tables["costs"]
    costs.loc[costs["method"] == "bridge", "seconds_train"] *= 100
    tidy = load_tidy(write_tidy(tmp_path, tables))
    with look():
        flops, time = accuracy_cost(tidy).axes[:2]
    assert (flops.get_xscale(), time.get_xscale()) == ("linear", "log")


def test_stages_add_up_to_the_training_time(tmp_path):
    tidy = _tidy(tmp_path)
    seconds = stage_seconds(tidy, *BLOCK)
    assert list(seconds.index) == ["rl_zero", "cold_start", "bridge"]
    probes = 60 * 0.03
    assert seconds.sum(axis=1).to_list() == pytest.approx([60 * 1.02 + probes] * 3)
    assert seconds.loc["bridge", "other"] == pytest.approx(60 * 0.02 + probes)
    texts = _texts(stage_costs(tidy))
    assert "rollout" in texts
    assert "sync" not in texts, "a stage that took no time is not in the legend"
