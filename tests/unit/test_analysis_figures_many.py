"""Figures of suites with many methods, and the figure of what goes on inside BRIDGE."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from bridge.analysis.figures.canvas import look
from bridge.analysis.figures.curves import (
    LINES_PER_PANEL,
    MOST_LINES,
    REFERENCES,
    accuracy_progress,
)
from bridge.analysis.figures.curves import shared_out as share
from bridge.analysis.figures.drawing import DRAWN
from bridge.analysis.figures.ends import spread
from bridge.analysis.figures.internals import QUANTITIES, bridge_internals
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.palette import label, style
from tests.fixtures.tidy import ABLATION, METHODS, ZOO, make_tidy, write_tidy

SMALL = {"models": ("tiny-qwen",), "sizes": (30, 20), "n_steps": 20}


def _tidy(folder, **changes):
    return load_tidy(write_tidy(folder, make_tidy(**SMALL | changes)))


def _drawn(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def test_few_methods_share_one_panel():
    assert share(METHODS) == [list(METHODS)]
    assert len(share(range(MOST_LINES))) == 1


@pytest.mark.parametrize("methods", [ZOO, ABLATION])
def test_many_methods_are_shared_out_beside_the_references(methods):
    panels = share(methods)
    references = [method for method in methods if method in REFERENCES]
    assert len(panels) > 1
    for panel in panels:
        assert panel[: len(references)] == references
        assert 1 < len(panel) - len(references) <= LINES_PER_PANEL
    others = [method for panel in panels for method in panel[len(references) :]]
    assert others == [method for method in methods if method not in REFERENCES]


def test_references_are_thin_and_without_a_band(tmp_path):
    tidy = _tidy(tmp_path, methods=ZOO)
    with look():
        figure = accuracy_progress(tidy)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(share(tidy.methods("tiny-qwen", "chains")))
    for axes, methods in zip(panels, share(tidy.methods("tiny-qwen", "chains")), strict=True):
        own = [method for method in methods if method not in REFERENCES]
        assert len(axes.collections) == len(own)
        widths = {line.get_color(): line.get_linewidth() for line in _drawn(axes)}
        assert widths[style("rl_zero").color] < widths[style(own[0]).color]


@pytest.mark.parametrize("methods", [ZOO, ABLATION])
def test_every_figure_of_a_large_suite_fits_its_page(tmp_path, methods):
    """Nothing is drawn outside the figure, and no two row names overlap."""
    tidy = _tidy(tmp_path, methods=methods)
    for name, draw in DRAWN.items():
        with look():
            figure = draw(tidy)
            figure.draw_without_rendering()
            box = figure.get_tightbbox()
            width, height = figure.get_size_inches()
        assert box.x0 > -0.02 and box.y0 > -0.02, name
        assert box.x1 < width + 0.02 and box.y1 < height + 0.02, name
        for axes in figure.axes:
            tops = [t.get_window_extent() for t in axes.get_yticklabels() if t.get_text()]
            tops = sorted(tops, key=lambda extent: extent.y0)
            for low, high in pairwise(tops):
                assert low.y1 <= high.y0 + 1, name


def test_the_inside_of_bridge_has_one_panel_per_quantity_and_one_line_per_method(tmp_path):
    tidy = _tidy(tmp_path, methods=("rl_zero", "bridge", "bridge_beta_10"))
    with look():
        figure = bridge_internals(tidy)
    *panels, names = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in panels] == list(QUANTITIES.values())
    shown = [text.get_text() for text in names.get_legend().get_texts()]
    assert shown == [label("bridge"), label("bridge_beta_10")]
    for axes in panels:
        colors = [line.get_color() for line in axes.lines]
        assert colors == [style("bridge").color, style("bridge_beta_10").color]
    rows = tidy.dynamics[tidy.dynamics["method"] == "bridge"].dropna(subset=["adapter_norm"])
    line = panels[-1].lines[0]
    wanted = rows.groupby("step")["adapter_norm"].mean().to_numpy()
    np.testing.assert_allclose(line.get_ydata(), wanted)


def test_sizes_that_stay_far_apart_get_a_logarithmic_axis(tmp_path):
    tables = make_tidy(**SMALL | {"methods": ("bridge", "bridge_beta_200")})
    dynamics = tables["dynamics"]
    dynamics.loc[dynamics["method"] == "bridge", "adapter_norm"] *= 1000
    # As far apart, but with both signs.
    gain = dynamics["step"].map({10: 0.001, 20: 1000.0})
    dynamics["cooperative_gain"] = gain.where(dynamics["method"] == "bridge", -1.0)
    with look():
        figure = bridge_internals(load_tidy(write_tidy(tmp_path, tables)))
    scales = {
        axes.get_title("left"): axes.get_yscale() for axes in figure.axes if axes.get_visible()
    }
    title = QUANTITIES.__getitem__
    assert scales[title("adapter_norm")] == "log"
    assert scales[title("teacher_rl_norm")] == scales[title("cooperative_gain")] == "linear"
    # Ticks are plain numbers: the figures' texts are never read as formulas.
    figure.canvas.draw()
    texts = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
    assert any(texts) and not any("$" in text for text in texts)


def test_a_suite_without_bridge_says_so(tmp_path):
    with look():
        figure = bridge_internals(_tidy(tmp_path, methods=("rl_zero", "mixing")))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no bilevel method in this suite"]


def test_variants_are_named_after_their_method():
    assert label("bridge_beta_50") == "BRIDGE, β × 50"
    assert label("bridge_beta_7") == "BRIDGE, β × 7"
    assert label("mixing_lambda_0.1") == "Mixing, λ = 0.1"
    assert label("bridge_no_gain_twice") == "BRIDGE, no gain, twice"
    assert label("bridgehead") == "bridgehead"


def _brute(wanted, gap, steps):
    """Best places on a grid of `steps`, by looking at all of them."""
    places = np.linspace(0, 1, steps)
    combos = (c for c in combinations(places, len(wanted)) if (np.diff(c) >= gap - 1e-9).all())
    return min(combos, key=lambda c: ((np.array(c) - wanted) ** 2).sum())


@pytest.mark.parametrize(
    "wanted",
    [[0.1, 0.5, 0.9], [0.5, 0.5, 0.5], [0.95, 1.0, 1.0], [0.0, 0.0, 0.85], [0.3, 0.35, 0.4]],
)
def test_names_move_apart_as_little_as_possible(wanted):
    found = spread(wanted, 0.1)
    assert (np.diff(found) >= 0.1 - 1e-9).all() and found.min() >= 0 and found.max() <= 1
    assert found == pytest.approx(np.array(_brute(wanted, 0.1, 41)), abs=0.026)


def test_names_that_have_no_room_share_it_evenly():
    assert spread([0.5] * 6, 0.4) == pytest.approx(np.linspace(0, 1, 6))
    assert spread([], 0.1).size == 0 and spread([1.0], 0.1) == pytest.approx([1.0])


def test_each_curve_has_its_name_at_its_end_and_there_is_no_legend(tmp_path):
    tidy = _tidy(tmp_path, methods=("base", "rl_zero", "mixing", "bridge"))
    with look():
        figure = accuracy_progress(tidy)
        figure.draw_without_rendering()
    (axes,) = figure.axes
    assert not figure.legends
    names = {text.get_text(): text for text in axes.texts}
    assert set(names) == {label(m) for m in ("base", "rl_zero", "mixing", "bridge")}
    ends = {line.get_color(): line.get_ydata()[-1] for line in axes.lines}
    order = sorted(names, key=lambda name: names[name].get_position()[1])
    assert [ends[names[name].get_color()] for name in order] == sorted(
        ends[names[name].get_color()] for name in order
    )
    boxes = sorted((t.get_window_extent() for t in names.values()), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))
