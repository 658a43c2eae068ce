"""Rank probabilities, improvement and profiles against closed forms and scipy."""

import numpy as np
import pytest
from scipy import stats

from bridge.analysis.figures.canvas import look
from bridge.analysis.figures.ranks import rank_probabilities as rank_probabilities_figure
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.palette import label
from bridge.analysis.numbers.pooled import seed_spread
from bridge.analysis.numbers.ranks import (
    performance_profile,
    probability_of_improvement,
    rank_probabilities,
)
from bridge.analysis.tables.ranks import block_ranks, rank_sheet
from tests.fixtures.tidy import make_tidy, write_tidy


def _runs(means, n_questions=20):
    """Answers that no question changes: seeds are all that varies."""
    return [[np.repeat(np.asarray(row)[:, None], n_questions, axis=1)] for row in means]


def test_two_methods_swap_with_the_probability_of_a_t_distribution():
    """The difference over its standard error, on the pooled degrees of freedom."""
    scores = np.array([[0.60, 0.64, 0.62], [0.61, 0.60, 0.60]])
    spread = seed_spread(scores)
    gap, error = np.diff(scores.mean(1))[0], (spread.pair / 3) ** 0.5
    found = rank_probabilities(_runs(scores), spread, draws=50_000)
    assert found[0, 0] == pytest.approx(stats.t.sf(gap / error, spread.pair_df), abs=0.01)
    assert found.sum(0) == pytest.approx([1, 1]) and found.sum(1) == pytest.approx([1, 1])


def test_questions_alone_swap_two_methods_as_a_normal_says():
    """Two methods that every seed repeats exactly: only new questions can turn them round."""
    random = np.random.default_rng(0)
    arms = [[np.tile((random.random(80) < p).astype(float), (3, 1))] for p in (0.5, 0.55)]
    gap = arms[1][0][0] - arms[0][0][0]
    expected = stats.norm.cdf(gap.mean() / (gap.std(ddof=1) / 80**0.5))
    noise = seed_spread(np.array([[0.5, 0.5 + 1e-9, 0.5], [0.5, 0.5, 0.5 + 1e-9]]))
    found = rank_probabilities(arms, noise, draws=50_000)
    assert found[1, 0] == pytest.approx(expected, abs=0.01)


def test_equal_methods_share_every_rank():
    spread = seed_spread(np.array([[0.5, 0.6, 0.7], [0.6, 0.5, 0.7], [0.5, 0.5, 0.9]]))
    found = rank_probabilities([[np.ones((3, 30))]] * 3, spread)
    assert found == pytest.approx(np.full((3, 3), 1 / 3), abs=0.02)


def test_questions_that_all_methods_find_hard_swap_none():
    """The covariance over questions counts, not each method's own variance."""
    hard = (np.arange(200) % 2).astype(float)
    better = hard.copy()
    better[::20] = 1
    arms = [[np.tile(row, (3, 1))] for row in (hard, better)]
    still = seed_spread(np.array([[0.5, 0.5 + 1e-9, 0.5], [0.5, 0.5, 0.5 + 1e-9]]))
    assert rank_probabilities(arms, still)[1, 0] > 0.99


def test_improvement_is_the_mann_whitney_statistic():
    first, second = [0.6, 0.7, 0.7, 0.9], [0.5, 0.7, 0.8]
    expected = stats.mannwhitneyu(first, second).statistic / 12
    assert probability_of_improvement(first, second) == pytest.approx(expected)


def test_a_profile_is_one_minus_the_empirical_distribution_just_below():
    assert performance_profile([0.2, 0.5, 0.5, 0.9], [0.0, 0.5, 0.51, 1.0]) == pytest.approx(
        [1, 0.75, 0.25, 0]
    )


def test_the_table_leaves_out_the_untrained_row_and_copies(tmp_path):
    tables = make_tidy(models=("tiny-qwen",), methods=("base", "sft", "bridge"), sizes=(60, 40))
    (block,) = build_blocks(load_tidy(write_tidy(tmp_path / "all", tables)))
    found = block_ranks(block)
    assert [row.method for row in found] == ["sft", "bridge"]
    assert sum(row.expected for row in found) == pytest.approx(3)
    assert found[1].probabilities[0] > 0.9 and found[1].improvement == 1
    alone = make_tidy(models=("tiny-qwen",), methods=("base", "sft"), sizes=(60, 40))
    (block,) = build_blocks(load_tidy(write_tidy(tmp_path / "one", alone)))
    assert rank_sheet(block).notes[0].startswith("No order")


def test_the_figure_writes_each_chance_in_its_row_and_rank(tmp_path):
    tables = make_tidy(models=("tiny-qwen",), methods=("base", "sft", "rl_zero", "bridge"))
    tidy = load_tidy(write_tidy(tmp_path, tables))
    (block,) = build_blocks(tidy)
    with look():
        (axes,) = rank_probabilities_figure(tidy).axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in axes.texts}
    for row in block_ranks(block):
        for rank, chance in enumerate(row.probabilities, start=1):
            place = names.index(label(row.method)), rank
            text = written[place].get_text() if place in written else None
            assert text == (f"{100 * chance:.0f}" if chance >= 0.05 else None)
    expected = {label(row.method): row.expected for row in block_ranks(block)}
    assert names == sorted(names, key=expected.get) and set(names) == set(expected)
