"""`bridge compare`: two methods, two runs, two suites; what is refused; width and JSON."""

import json

import pytest

from bridge.analysis.numbers.frames import TidyError, load_tidy
from bridge.analysis.numbers.sequential import e_value
from bridge.analysis.report.compare import compare, config_difference, run_compare
from bridge.jobs.cli import main
from bridge.store.records import run_folder
from tests.fixtures.tidy import make_tidy, write_tidy

SMALL = {"models": ("tiny-qwen",), "methods": ("sft", "rl_zero", "bridge"), "sizes": (40, 30)}
RUNS = ("tiny-qwen/chains/sft/seed0", "tiny-qwen/chains/bridge/seed2")


@pytest.fixture
def results(tmp_path):
    for suite in ("one", "two"):
        write_tidy(tmp_path / suite / "tidy", make_tidy(**SMALL, n_steps=5, suite=suite))
    return tmp_path


def _json(results, left, right, suite="one"):
    return json.loads(run_compare(results, left, right, suite, json=True))


def test_methods_are_compared_right_minus_left_with_ratio_and_interval(results):
    scores = make_tidy(**SMALL, n_steps=5)["scores"]
    mean = scores.groupby(["method", "benchmark"])["greedy_correct"].mean()
    (pair,) = _json(results, "rl_zero", "bridge")["pairs"]
    first = pair["accuracy"][0]
    assert first["column"] == "rung1"
    gap = 100 * (mean["bridge", "rung1"] - mean["rl_zero", "rung1"])
    assert first["points"] == pytest.approx(gap)
    assert first["left"] == pytest.approx(100 * mean["rl_zero", "rung1"])
    assert first["low"] < first["points"] < first["high"]
    assert first["questions_won"] + first["questions_lost"] <= 40
    back = _json(results, "bridge", "rl_zero")["pairs"][0]["accuracy"][0]
    assert back["points"] == pytest.approx(-gap)
    cost = {row["quantity"]: row for row in _json(results, "sft", "bridge")["pairs"][0]["costs"]}
    assert cost["seconds_train"]["ratio"] == pytest.approx(60 / 14)
    assert cost["seconds_train"]["low"] < 60 / 14 < cost["seconds_train"]["high"]


def test_after_each_world_there_is_an_interval_that_holds_whenever_one_stops(root):
    """At its ends the e-value, from the tables of answers, is 20."""
    tidy = load_tidy(root / "results" / "cached" / "pair")
    (pair,) = compare(tidy, "mixing", "bridge").pairs
    scores = tidy.scores.merge(tidy.runs[["method", "seed", "world"]], on=["method", "seed"])
    by = ["method", "world", "benchmark", "question_id"]
    answers = scores.astype({"method": str, "benchmark": str}).groupby(by, observed=True)
    means = answers["greedy_correct"].mean().groupby(["method", "world", "benchmark"]).mean()
    rows = 100 * means.groupby(["method", "world"]).mean()
    gaps = (rows["bridge"] - rows["mixing"]).to_numpy()
    assert pair.look.n == 8 and pair.look.decision == "different"
    assert pair.look.mean == pytest.approx(gaps.mean())
    for side in (-1, 1):
        assert e_value(gaps, pair.look.mean + side * pair.look.half_width) == pytest.approx(20)
    assert "Looked at after each of 8: -7.5..-1.1; different" in compare(
        tidy, "mixing", "bridge"
    ).text().replace("\n", " ")


def test_few_seeds_are_no_reason_to_stop_and_single_runs_have_no_looks(results):
    (pair,) = _json(results, "rl_zero", "bridge")["pairs"]
    assert pair["look"]["half_width"] is None and pair["look"]["decision"] == "go on"
    assert _json(results, *RUNS)["pairs"][0]["look"] is None


def test_runs_are_compared_without_an_interval_on_their_cost(results):
    found = _json(results, *RUNS)
    (pair,) = found["pairs"]
    assert found["kind"] == "runs"
    assert pair["accuracy"][0]["interval_covers"] == "questions"
    assert pair["costs"][0]["low"] is None
    assert pair["costs"][0]["ratio"] == pytest.approx(60 * 1.04 / 14)


def test_suites_are_compared_method_by_method_and_differences_in_data_are_said(results):
    tables = make_tidy(**(SMALL | {"sizes": (25, 30)}), n_steps=5, suite="two")
    tables["runs"]["data_hash"] = "cc33"
    write_tidy(results / "two" / "tidy", tables)
    found = _json(results, "one", "two")
    assert [pair["title"] for pair in found["pairs"]] == [
        f"tiny-qwen/chains/{method}" for method in SMALL["methods"]
    ]
    assert found["pairs"][0]["accuracy"][0]["n_questions"] == 25
    assert "the suites have different data for tiny-qwen x chains" in found["cautions"]


def test_too_few_shared_questions_are_refused_with_the_reason(results):
    write_tidy(
        results / "two" / "tidy",
        make_tidy(**(SMALL | {"sizes": (12, 30)}), n_steps=5, suite="two"),
    )
    text = run_compare(results, "one", "two", "one")
    assert "Refused: rung1: only 12 shared questions" in text
    assert "Refused: average: only 12 shared questions" in text


def test_different_graders_are_refused(results):
    tables = make_tidy(**SMALL, n_steps=5, suite="one")
    tables["runs"].loc[tables["runs"]["method"] == "sft", "grader_version"] = "2"
    write_tidy(results / "one" / "tidy", tables)
    text = run_compare(results, "sft", "bridge", "one")
    assert "different graders: 1, 2" in text
    (pair,) = _json(results, "sft", "bridge")["pairs"]
    assert all("points" not in row for row in pair["accuracy"])


def test_text_fits_a_hundred_columns_whatever_the_names(results):
    long = "a_method_with_a_name_that_nobody_would_choose_".ljust(
        64, "x"
    )  # as long as names can be
    tables = make_tidy(**(SMALL | {"methods": ("sft", long)}), n_steps=5, suite="one")
    write_tidy(results / "one" / "tidy", tables)
    text = run_compare(results, "sft", long, "one")
    body = text.splitlines()[1:]
    assert max(map(len, body)) <= 100


def _spec(results, suite, method, seed, spec):
    path = run_folder(results, suite, "tiny-qwen", "chains", method, seed).spec
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(spec))


def test_differences_of_configuration_are_listed_by_key(results):
    _spec(results, "one", "sft", 0, {"training": {"lr": 0.1, "n": 8}, "options": {}})
    _spec(results, "one", "bridge", 2, {"training": {"lr": 0.2, "n": 8}, "options": {"rank": 4}})
    (pair,) = _json(results, *RUNS)["pairs"]
    assert pair["config"] == [
        {"key": "options", "left": "{}", "right": "–"},
        {"key": "options.rank", "left": "–", "right": "4"},
        {"key": "training.lr", "left": "0.1", "right": "0.2"},
    ]
    assert "training.lr" in run_compare(results, *RUNS, "one")


def test_methods_take_the_configuration_of_their_first_seed(results):
    _spec(results, "one", "sft", 0, {"a": 1})
    _spec(results, "one", "bridge", 0, {"a": 2})
    (pair,) = _json(results, "sft", "bridge")["pairs"]
    assert pair["config"] == [{"key": "a", "left": "1", "right": "2"}]


def test_equal_configurations_have_no_difference():
    assert config_difference({"a": {"b": [1]}}, {"a": {"b": [1]}}) == ()


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ("sft", "brdge", "'brdge' is no method of the suite one"),
        ("sft", RUNS[1], "are not both runs"),
        (RUNS[0], "tiny-qwen/chains/bridge/seed9", "is no run of the suite one"),
    ],
)
def test_names_that_mean_nothing_are_one_line(results, left, right, said):
    with pytest.raises(TidyError) as error:
        run_compare(results, left, right, "one")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_without_a_result_is_refused_with_its_status(results):
    statuses = {("tiny-qwen", "chains", "bridge", 2): "timeout"}
    folder = write_tidy(
        results / "one" / "tidy", make_tidy(**SMALL, n_steps=5, statuses=statuses, suite="one")
    )
    with pytest.raises(TidyError, match="its status is timeout"):
        compare(load_tidy(folder), *RUNS)


def test_the_command_compares_methods_runs_and_suites(results, root, monkeypatch, capsys):
    monkeypatch.chdir(root)

    def said(*arguments):
        main(["compare", *arguments, "--results", str(results), "--suite", "one"])
        return capsys.readouterr().out

    text = said("rl_zero", "bridge")
    assert text.startswith("methods: from rl_zero to bridge")
    assert max(map(len, text.splitlines())) <= 100
    found = json.loads(said("rl_zero", "bridge", "--json"))
    assert (found["kind"], found["left"], found["right"]) == ("methods", "rl_zero", "bridge")
    with pytest.raises(SystemExit) as caught:
        said("rl_zero", "no_such_method")
    assert caught.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("bridge: 'no_such_method' is no method of the suite one")
    assert complaint.count("\n") == 1
