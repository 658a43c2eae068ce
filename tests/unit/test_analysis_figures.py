"""Figures: the same look everywhere, the same bytes each time, and no crash on thin data."""

import colorsys
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bridge.analysis.figures.canvas import look
from bridge.analysis.figures.captions import CAPTIONS
from bridge.analysis.figures.curves import (
    accuracy_progress,
    accuracy_wallclock,
    block_curves,
    demonstration_loss,
    reward_length,
    running_mean,
    window,
    with_status,
)
from bridge.analysis.figures.dots import main_scores
from bridge.analysis.figures.drawing import DRAWN, build_figures
from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.palette import STYLES, benchmark_label, label, ordered_methods, style
from bridge.analysis.numbers.statistics import t_limits
from tests.fixtures.tidy import METHODS, make_tidy, write_tidy

THIN = {"models": ("tiny-qwen",), "methods": ("base", "rl_zero", "bridge"), "sizes": (30, 20)}


def _tidy(folder, tables):
    return load_tidy(write_tidy(folder, tables))


def _texts(figure):
    with look():
        figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


def _texts_of(draw, tidy):
    with look():
        return _texts(draw(tidy))


def _lines(axes, color):
    return [line for line in axes.get_lines() if line.get_color() == color]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    write_tidy(folder / "tidy", make_tidy(**THIN, n_steps=20))
    build_figures(folder / "tidy", folder / "out")
    return folder


def test_each_figure_comes_in_three_formats(built):
    found = {path.name for path in (built / "out").iterdir()}
    assert found == {f"{name}.{kind}" for name in CAPTIONS for kind in ("png", "pdf", "svg")}


def test_every_figure_has_a_caption():
    assert list(DRAWN) == list(CAPTIONS)


def test_same_tables_same_bytes(built, tmp_path):
    # In other processes, which share the work: no order and no memory of theirs may show.
    build_figures(built / "tidy", tmp_path, processes=2)
    for path in (built / "out").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_files_are_vector_with_embedded_fonts_and_undated(built):
    pdf = (built / "out" / "main_scores.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    svg = (built / "out" / "main_scores.svg").read_text()
    assert "<text" not in svg
    assert "<image" not in svg
    assert "dc:date" not in svg


def test_curves_are_the_mean_over_finished_seeds(tmp_path):
    statuses = {("tiny-qwen", "chains", "bridge", 2): "diverged"}
    tidy = _tidy(tmp_path, make_tidy(**THIN, n_steps=20, statuses=statuses))
    curves = block_curves(with_status(tidy), "progress", "heldout_accuracy", ["bridge", "sft"])
    assert [(curve.method, curve.n_seeds) for curve in curves] == [("bridge", 2)]
    rows = tidy.dynamics[(tidy.dynamics["method"] == "bridge") & (tidy.dynamics["seed"] < 2)]
    expected = rows.groupby("step")["heldout_accuracy"].mean().dropna()
    assert curves[0].y.mean(0) == pytest.approx(expected.to_numpy())
    assert curves[0].x.mean(0) == pytest.approx([0.0, 0.5, 1.0])


def test_points_that_one_seed_lacks_are_left_out(tmp_path):
    tables = make_tidy(**THIN, n_steps=20)
    dynamics = tables["dynamics"]
    lacking = (dynamics["method"] == "bridge") & (dynamics["seed"] == 0) & (dynamics["step"] == 10)
    dynamics.loc[lacking, "heldout_accuracy"] = np.nan
    tidy = _tidy(tmp_path, tables)
    (curve,) = block_curves(with_status(tidy), "progress", "heldout_accuracy", ["bridge"])
    assert curve.x.mean(0) == pytest.approx([0.0, 1.0])


def test_diverged_runs_end_in_a_cross(tmp_path):
    statuses = {("tiny-qwen", "chains", "bridge", 2): "diverged"}
    tidy = _tidy(tmp_path, make_tidy(**THIN, n_steps=20, statuses=statuses))
    with look():
        axes = accuracy_progress(tidy).axes[0]
    crosses = [line for line in _lines(axes, style("bridge").color) if line.get_marker() == "x"]
    assert len(crosses) == 1
    assert crosses[0].get_xdata()[0] == pytest.approx(0.7)


def test_bands_need_three_seeds(tmp_path):
    for n_seeds, n_bands in ((3, 2), (2, 0), (1, 0)):
        tables = make_tidy(**THIN, n_steps=20, seeds=range(n_seeds))
        tidy = _tidy(tmp_path / str(n_seeds), tables)
        with look():
            assert len(accuracy_wallclock(tidy).axes[0].collections) == n_bands


def test_bands_are_t_intervals_over_seeds(tmp_path):
    tidy = _tidy(tmp_path, make_tidy(**(THIN | {"methods": ("bridge",)}), n_steps=20))
    (curve,) = block_curves(with_status(tidy), "progress", "heldout_accuracy", ["bridge"])
    with look():
        (band,) = accuracy_progress(tidy).axes[0].collections
    low, high = t_limits(curve.y)
    drawn = {tuple(np.round(point, 9)) for point in band.get_paths()[0].vertices}
    for edge in (100 * low, 100 * high):
        assert {tuple(np.round(p, 9)) for p in zip(curve.x.mean(0), edge, strict=True)} <= drawn


def test_forgetting_is_drawn_from_the_loss_and_may_exceed_one(tmp_path):
    tables = make_tidy(**(THIN | {"methods": ("base", "bridge")}), n_steps=20)
    tables["dynamics"]["demo_loss_heldout"] = 3.0 + tables["dynamics"]["seed"]
    with look():
        axes = demonstration_loss(_tidy(tmp_path, tables)).axes[0]
    assert "demonstration loss" in axes.get_ylabel()
    (line,) = _lines(axes, style("bridge").color)[-1:]
    assert set(line.get_ydata()) == {4.0}
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(4 + 4.3027 / 3**0.5, abs=1e-3)


def test_wallclock_axis_is_in_a_fitting_unit(tmp_path):
    tables = make_tidy(**THIN, n_steps=20)
    tables["dynamics"]["elapsed_s"] *= 600
    with look():
        axes = accuracy_wallclock(_tidy(tmp_path, tables)).axes[0]
    assert axes.get_xlabel() == "training time (h)"
    assert axes.get_xlim()[1] == pytest.approx(10, rel=0.1)


def test_supervised_steps_are_not_in_the_reward_figure(tmp_path):
    settings = THIN | {"methods": ("cold_start",)}
    tidy = _tidy(tmp_path, make_tidy(**settings, n_steps=60))
    with look():
        upper = reward_length(tidy).axes[0]
    x = _lines(upper, style("cold_start").color)[-1].get_xdata()
    assert (x.min(), x.max()) == (1, tidy.dynamics["rl_step"].max())


@pytest.mark.parametrize(("n_steps", "said"), [(60, "mean over 3 steps"), (20, "RL step")])
def test_smoothing_is_stated_on_the_axis(tmp_path, n_steps, said):
    tidy = _tidy(tmp_path, make_tidy(**THIN, n_steps=n_steps))
    with look():
        label_text = reward_length(tidy).axes[1].get_xlabel()
    assert said in label_text
    assert ("thick" in label_text) == (n_steps == 60)


def test_running_mean_by_hand():
    values = np.array([[1.0, 2.0, 6.0, 4.0]])
    assert running_mean(values, 3)[0] == pytest.approx([1.5, 3.0, 4.0, 5.0])
    assert (running_mean(values, 1) == values).all()
    assert [window(n) for n in (0, 19, 20, 59, 60, 100, 200)] == [1, 1, 1, 3, 3, 5, 11]


def test_words_stand_where_no_run_has_a_number(tmp_path):
    statuses = {("tiny-qwen", "chains", "bridge", seed): "diverged" for seed in range(3)}
    tidy = _tidy(tmp_path, make_tidy(**THIN, n_steps=20, statuses=statuses))
    with look():
        figure = main_scores(build_blocks(tidy))
    assert _texts(figure).count("diverged") == 1
    bridge = style("bridge").color
    assert not [line for axes in figure.axes for line in _lines(axes, bridge)]


@pytest.mark.parametrize("empty", ["dynamics", "scores", "costs"])
def test_thin_data_does_not_crash(tmp_path, empty):
    tables = make_tidy(**(THIN | {"seeds": (0,)}), n_steps=20)
    tables[empty] = tables[empty].iloc[:0]
    tidy = _tidy(tmp_path, tables)
    said = {name: _texts_of(draw, tidy) for name, draw in DRAWN.items()}
    if empty == "dynamics":
        assert "no held-out probes" in said["accuracy_progress"]
        assert "no RL steps" in said["reward_length"]
    if empty == "costs":
        assert "no costs" in said["accuracy_cost"]
        assert "no costs" in said["stage_costs"]


@pytest.mark.parametrize("n_blocks", [2, 4, 5])
def test_many_blocks_share_a_page(tmp_path, n_blocks):
    models = [f"model-{n}" for n in range(n_blocks)]
    settings = THIN | {"models": models, "methods": ("base", "bridge")}
    tidy = _tidy(tmp_path, make_tidy(**settings, n_steps=10))
    with look():
        for figure, panels in ((accuracy_progress(tidy), 1), (reward_length(tidy), 2)):
            shown = [axes for axes in figure.axes if axes.get_visible()]
            assert len(shown) == panels * n_blocks
            assert figure.get_figwidth() == 7.0


def test_dollar_signs_in_names_are_not_formulas(tmp_path):
    settings = THIN | {"models": ("a$b_$c\x07",), "methods": ("base", "x$_$y")}
    folder = write_tidy(tmp_path / "tidy", make_tidy(**settings, n_steps=10))
    build_figures(folder, tmp_path / "out")
    assert (tmp_path / "out" / "main_scores.pdf").stat().st_size > 1000


def test_every_method_has_its_own_colour_and_the_known_ones_their_own_marker():
    colors = [looks.color for looks in STYLES.values()]
    assert len(set(colors)) == len(colors)
    assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in colors)
    assert len({STYLES[method].marker for method in METHODS}) == len(METHODS)
    looks = {(s.marker, s.dashes) for s in STYLES.values()}
    assert len(looks) == len(STYLES)


# Viénot, Brettel and Mollon (1999): linear RGB as seen without L cones and without M cones.
PROTANOPE = np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.0040, -0.0040, 1]])
DEUTERANOPE = np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]])


@pytest.mark.parametrize("seen", [np.eye(3), PROTANOPE, DEUTERANOPE])
def test_the_main_methods_stay_apart_for_colour_blind_readers(seen):
    """Any two differ by 0.08 in seen RGB; for colour-blind readers, or else in line style."""
    full = np.array_equal(seen, np.eye(3))
    colors = {m: np.clip(seen @ np.power(to_rgb(STYLES[m].color), 2.2), 0, 1) for m in METHODS}
    for first in METHODS:
        for second in METHODS:
            if first < second and (full or STYLES[first].dashes == STYLES[second].dashes):
                gap = np.abs(colors[first] ** (1 / 2.2) - colors[second] ** (1 / 2.2)).max()
                assert gap > 0.08, (first, second)


def test_unknown_methods_look_the_same_each_time_and_not_like_known_ones():
    assert style("my_idea") == style("my_idea")
    assert style("my_idea").label == "my idea"
    known = {looks.color for looks in STYLES.values()}
    for name in ("my_idea", "other", "third"):
        assert style(name).color not in known
        red, green, blue = to_rgb(style(name).color)
        assert colorsys.rgb_to_hls(red, green, blue)[1] < 0.6


def test_names_read_well():
    assert [label(m) for m in ("rl_zero", "bridge_no_gain")] == ["RL-zero", "BRIDGE, no gain"]
    assert benchmark_label("equations_rung2", "equations") == "rung2"
    assert benchmark_label("rung2", "chains") == "rung2"
    assert ordered_methods(["mine", "bridge", "base", "mine"]) == ["base", "bridge", "mine"]


def test_the_workflow_report_says_the_same_as_the_captions(root):
    for name, (_, caption) in CAPTIONS.items():
        text = (root / "report" / f"{name}.rst").read_text(encoding="utf-8")
        assert " ".join(text.split()) == " ".join(caption.split()), name
    for name in ("main", "differences", "claims", "cost", "sampled", "report", "workflow"):
        assert (root / "report" / f"{name}.rst").is_file()
