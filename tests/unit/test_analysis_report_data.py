"""What the report's scripts read: curves as in the figures, answers as text that cannot run."""

import json

import numpy as np
import pandas as pd
import pytest

from bridge.analysis.numbers.frames import TidyError, load_tidy
from bridge.analysis.numbers.statistics import t_limits
from bridge.analysis.report.data import (
    LONGEST_ANSWER,
    QUESTIONS_PER_BENCHMARK,
    answer_data,
    curve_data,
    embed,
    load_answers,
    readable,
)
from tests.fixtures.answers import HOSTILE, make_answers
from tests.fixtures.tidy import make_tidy, write_tidy

METHODS = ("base", "rl_zero", "cold_start", "bridge")
CLASSES = {method: f"m{index}" for index, method in enumerate(METHODS)}


@pytest.fixture(scope="module")
def tidy(tmp_path_factory):
    tables = make_tidy(models=("tiny-qwen",), methods=METHODS, sizes=(20,), n_steps=20)
    return load_tidy(write_tidy(tmp_path_factory.mktemp("tidy"), tables))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_embedded_text_cannot_end_its_element_and_comes_back_whole(text):
    page = embed([readable(text)])
    assert not set("<>&\u2028\u2029") & set(page)
    assert json.loads(page) == [readable(text)]
    page.encode("utf-8")


def test_unreadable_letters_are_replaced_and_lines_kept():
    assert readable("a\r\nb\tc") == "a\nb\tc"
    assert readable("\ud800\x00\x1b\u202e") == "\ufffd" * 4
    with pytest.raises(ValueError, match="JSON"):
        embed(float("nan"))


def test_curves_are_means_and_t_limits_over_seeds(tidy):
    found = curve_data(tidy, CLASSES)
    curves = {curve["method"]: curve for curve in found["blocks"][0]["curves"]}
    assert list(curves) == ["rl_zero", "cold_start", "bridge"]
    rows = tidy.dynamics[tidy.dynamics["method"] == "bridge"]
    values = rows.pivot(index="seed", columns="step", values="heldout_accuracy").dropna(axis=1)
    probe = curves["bridge"]["y"]["heldout_accuracy"]
    assert probe["at"] == [0, 10, 20]
    assert probe["mean"] == pytest.approx((100 * values.mean()).to_list(), rel=1e-4)
    low, high = t_limits(100 * values.to_numpy())
    assert probe["low"] == pytest.approx(low, rel=1e-4)
    assert probe["high"] == pytest.approx(high, rel=1e-4)
    assert "entropy" not in found["metrics"], "nobody logged it"


def test_supervised_steps_have_no_place_on_the_axis_of_rl_steps(tidy):
    (block,) = curve_data(tidy, CLASSES)["blocks"]
    x = next(c for c in block["curves"] if c["method"] == "cold_start")["x"]
    assert x["rl_step"][:6] == [None] * 6
    assert x["rl_step"][6:] == list(range(1, 16))
    assert x["step"] == list(range(21))


def test_long_curves_are_thinned(tmp_path):
    tables = make_tidy(models=("m",), methods=("rl_zero",), sizes=(20,), n_steps=1000, seeds=(0,))
    (block,) = curve_data(load_tidy(write_tidy(tmp_path, tables)), {"rl_zero": "m0"})["blocks"]
    y = block["curves"][0]["y"]
    assert 300 < len(y["reward_mean"]["mean"]) <= 400
    assert len(y["heldout_accuracy"]["mean"]) == 101, "probes are few and stay"
    assert "low" not in y["reward_mean"], "one seed has no interval"


def test_answers_are_the_greedy_ones_of_the_first_questions_of_one_seed(tidy):
    (block,) = answer_data(tidy, make_answers(tidy.runs), CLASSES)["blocks"]
    assert block["seed"] == 0
    assert [method["id"] for method in block["methods"]] == list(METHODS)
    names = [(q["benchmark"], q["id"]) for q in block["questions"]]
    expected = [
        (rung, f"{rung}-{n:04d}")
        for rung in ("rung1", "rung2")
        for n in range(QUESTIONS_PER_BENCHMARK)
    ]
    assert sorted(names) == expected
    texts = [answer["text"] for q in block["questions"] for answer in q["answers"].values()]
    assert "a sampled answer" not in texts
    assert len(texts) == len(METHODS) * len(expected)


def test_a_long_answer_is_cut_and_its_length_kept(tidy):
    (block,) = answer_data(tidy, make_answers(tidy.runs), CLASSES)["blocks"]
    answers = [a for q in block["questions"] for a in q["answers"].values()]
    (length,) = {a["length"] for a in answers if len(a["text"]) != a["length"]}
    assert length == 1_000_000
    assert max(len(a["text"]) for a in answers) == LONGEST_ANSWER


def test_many_answers_share_what_room_there_is(tidy, monkeypatch):
    monkeypatch.setattr("bridge.analysis.report.data.ALL_ANSWERS", 96 * 300)
    found = answer_data(tidy, make_answers(tidy.runs), CLASSES)
    assert found["most"] == 300


def test_answers_are_optional_and_a_missing_column_is_named(tidy, tmp_path):
    assert load_answers(tmp_path) is None
    answers = make_answers(tidy.runs)[["suite", "model", "dataset", "method", "seed"]]
    answers.to_parquet(tmp_path / "answers.parquet")
    with pytest.raises(TidyError, match=r"answers\.parquet lacks the column benchmark"):
        load_answers(tmp_path)


def test_missing_values_are_empty_text(tidy):
    answers = make_answers(tidy.runs, n_questions=1)
    for gap in (None, np.nan, pd.NA):
        answers.loc[0, "extracted"] = gap
        (block,) = answer_data(tidy, answers, CLASSES)["blocks"]
        assert block["questions"][0]["answers"]["base"]["extracted"] == ""


def test_limits_of_a_share_stay_between_0_and_1_and_those_of_a_length_do_not(tmp_path):
    tables = make_tidy(models=("m",), methods=("rl_zero",), sizes=(20,), n_steps=10)
    rows = tables["dynamics"]
    rows["heldout_accuracy"] = rows["seed"].map({0: 0.9, 1: 1.0, 2: 1.0})
    rows["response_length_mean"] = rows["seed"].map({0: 1.0, 1: 40.0, 2: 41.0})
    (block,) = curve_data(load_tidy(write_tidy(tmp_path, tables)), {"rl_zero": "m0"})["blocks"]
    y = block["curves"][0]["y"]
    assert max(y["heldout_accuracy"]["high"]) == 100.0
    assert 80 < min(y["heldout_accuracy"]["low"]) < 90
    assert min(y["response_length_mean"]["low"]) < 0
