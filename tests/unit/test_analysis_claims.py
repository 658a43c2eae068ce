"""Claims: the schema's refusals, each verdict, and what is said when something is missing."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from bridge.analysis.claims.evidence import Evidence
from bridge.analysis.claims.judging import (
    AFTER_RESULTS,
    _agreed,
    judge_claims,
    judge_suites,
    sentence,
    sign,
)
from bridge.analysis.claims.stating import load_claims
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.paired import Estimate
from bridge.analysis.numbers.uncertainty import Source, Uncertainty
from bridge.analysis.report.building import build_tables
from bridge.jobs import cli
from bridge.store.schema import ConfigError
from tests.fixtures.tidy import make_tidy, sealed, write_tidy

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "claims.yaml"
SMALL = {
    "models": ("tiny-qwen", "tiny-llama"),
    "methods": ("rl_zero", "cold_start", "bridge"),
    "sizes": (60, 40),
    "n_steps": 60,
}
PAPERS = {"p": {"title": "A paper", "address": "https://example.org"}}


def _claim(**changes):
    claim = {
        "id": "c",
        "paper": "p",
        "sentence": "A is better than B.",
        "where": "table 1",
        "read_in": "paper",
        "metric": "accuracy",
        "methods": ["bridge", "rl_zero"],
        "direction": "higher",
    }
    return {key: value for key, value in (claim | changes).items() if value is not None}


def _file(folder, *claims):
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"papers": PAPERS, "claims": list(claims)}))
    return path


def _tidy(folder, change=None, **settings):
    tables = make_tidy(**(SMALL | settings))
    if change:
        change(tables)
    return load_tidy(write_tidy(folder / "tidy", tables))


def _judge(folder, *claims, change=None, **settings):
    tidy = _tidy(folder, change, **settings)
    return judge_claims(tidy, load_claims(_file(folder, *claims)))


def _answers(method, share):
    """Make a method answer the first `share` of the questions, whatever the seed."""

    def change(tables):
        scores = tables["scores"]
        number = scores["question_id"].str[-4:].astype(int)
        size = scores.groupby(["benchmark", "method", "model", "seed"])["question_id"].transform(
            "size"
        )
        own = scores["method"] == method
        scores.loc[own, "greedy_correct"] = (number < share * size).astype(int)[own]

    return change


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"direktion": "higher"}, "claims.0.direktion: unknown key; did you mean 'direction'"),
        ({"metric": "speed"}, "claims.0.metric"),
        ({"read_in": None}, "claims.0.read_in: this key is required"),
        ({"read_in": "rumour"}, "claims.0.read_in: Input should be 'paper', 'summary' or 'note'"),
        ({"direction": None}, "metric 'accuracy' needs 'direction'"),
        ({"margin": 2.0}, "metric 'accuracy' takes no 'margin'"),
        (
            {"metric": "training_time", "benchmark": "rung1"},
            "metric 'training_time' takes no 'benchmark'",
        ),
        ({"methods": ["bridge"]}, "metric 'accuracy' has 1 methods"),
        ({"paper": "q"}, "claim 'c' names the unknown paper 'q'"),
        ({"metric": "equivalence", "direction": None}, "needs 'margin'"),
        ({"metric": "course", "methods": ["bridge"], "direction": None}, "needs 'quantity'"),
    ],
)
def test_a_wrong_claims_file_is_one_line_with_the_key(tmp_path, changes, said):
    with pytest.raises(ConfigError) as error:
        load_claims(_file(tmp_path, _claim(**changes)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_two_claims_of_one_id_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two claims have the id 'c'"):
        load_claims(_file(tmp_path, _claim(), _claim()))


@pytest.mark.parametrize(
    ("share", "direction", "verdict"),
    [
        (1.0, "higher", "supported"),
        (1.0, "lower", "contradicted"),
        (0.0, "higher", "contradicted"),
        (0.0, "lower", "supported"),
    ],
)
def test_large_effects_decide_by_their_direction(tmp_path, share, direction, verdict):
    (found,) = _judge(
        tmp_path, _claim(direction=direction), change=_answers("bridge", share), sizes=(80, 80)
    )
    assert found.verdict == verdict
    assert [finding.verdict for finding in found.findings] == [verdict, verdict]


def test_no_effect_is_undecided_and_says_what_would_decide(tmp_path):
    (found,) = _judge(tmp_path, _claim(methods=["cold_start", "rl_zero"]))
    assert found.verdict == "undecided"
    for finding in found.findings:
        (item,) = finding.evidence
        enough = {
            True: "1,000 seeds would not decide it, it takes more questions",
            False: f"about {item.more_seeds} more seeds a side would decide it",
        }
        assert enough[item.more_seeds is None] in finding.reason
        assert abs(item.numbers["effect"]) < item.numbers["minimum_detectable_effect"]
    assert "seeds" in found.reason


def test_claims_that_did_not_run_count_so_that_a_row_more_changes_nobodys_p(tmp_path):
    """The family is the claims of one paper and kind, as the file states them."""
    claims = [_claim(), _claim(id="d", methods=["bridge", "sasr"])]
    names = (*SMALL["methods"], "sasr")
    without = _judge(tmp_path / "a", *claims)[0]
    beside = _judge(tmp_path / "b", *claims, methods=names)[0]
    crowd = _judge(tmp_path / "c", *claims, *[_claim(id=f"c{i}") for i in range(3)])[0]
    for one, other, more in zip(without.findings, beside.findings, crowd.findings, strict=True):
        (a,), (b,), (c,) = one.evidence, other.evidence, more.evidence
        assert a.level == b.level == pytest.approx(0.05 / 2)
        assert c.level == pytest.approx(0.05 / 5)
        assert a.p_adjusted == pytest.approx(min(1, 2 * a.p_value))
        assert a.estimate.mean == b.estimate.mean and a.p_adjusted < c.p_adjusted


def test_blocks_that_disagree_leave_the_claim_undecided(tmp_path):
    def change(tables):
        _answers("bridge", 1.0)(tables)
        scores = tables["scores"]
        worse = (scores["method"] == "bridge") & (scores["model"] == "tiny-llama")
        scores.loc[worse, "greedy_correct"] = 0

    (found,) = _judge(tmp_path, _claim(), change=change)
    assert [finding.verdict for finding in found.findings] == ["supported", "contradicted"]
    assert found.verdict == "undecided"
    assert found.reason.startswith("supported in 1, contradicted in 1 of 2 blocks")


def test_missing_rows_and_failed_runs_are_not_run_and_say_what_is_missing(tmp_path):
    statuses = {
        (model, "chains", "rl_zero", seed): "failed"
        for model in SMALL["models"]
        for seed in range(3)
    }
    absent, failed = _judge(
        tmp_path, _claim(methods=["bridge", "sasr"]), _claim(id="d"), statuses=statuses
    )
    assert (absent.verdict, absent.reason) == ("not run", "needs the row sasr")
    assert (failed.verdict, failed.reason) == ("not run", "rl_zero: failed 3/3")


def test_a_claim_with_a_missing_seed_says_so_and_counts_the_failure(tmp_path):
    statuses = {("tiny-qwen", "chains", "bridge", 3): "diverged"}
    settings = {"models": ("tiny-qwen",), "methods": ("base", *SMALL["methods"]), "seeds": range(4)}
    (found,) = _judge(tmp_path, _claim(), statuses=statuses, **settings)
    (item,) = found.findings[0].evidence
    assert item.with_failures < item.estimate.mean
    assert "without runs (BRIDGE: diverged 1/4)" in found.reason
    assert f"{100 * item.with_failures:+.1f} with failures counted" in found.findings[0].reason
    still_to_come = dict.fromkeys(statuses, "missing")
    (found,) = _judge(tmp_path / "m", _claim(), statuses=still_to_come, **settings)
    assert "missing 1/4" in found.reason
    assert found.findings[0].evidence[0].with_failures is None


def test_a_claim_may_speak_of_one_benchmark(tmp_path):
    def only_there(tables):
        scores = tables["scores"]
        there = scores["benchmark"] == "rung2"
        right = (scores["method"] == "bridge")[there]
        scores.loc[there, "greedy_correct"] = right.astype(int)
        scores.loc[there, "greedy_verdict"] = np.where(right, "correct", "wrong")

    one = {"models": ("tiny-qwen",), "change": only_there}
    claims = [_claim(id=f"c{i}", benchmark=f"rung{i}") for i in (1, 2)]
    other, there = [f.findings[0].evidence[0] for f in _judge(tmp_path, *claims, **one)]
    assert there.estimate.mean == pytest.approx(1) and "rung2" in there.what
    assert other.estimate.mean < 0.9 and "rung1" in other.what
    (absent,) = _judge(tmp_path / "m", _claim(benchmark="rung9"), **one)
    assert "needs the benchmark rung9" in str(absent)


def test_a_lead_that_failures_take_away_is_undecided():
    item = _evidence(0.09, p_adjusted=0.001, beyond_p_adjusted=0.001)
    assert sign(item) == "supported"
    assert sign(replace(item, with_failures=0.03)) == "supported"
    assert sign(replace(item, with_failures=-0.03)) == "undecided"


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("s", "supported"),
        ("c", "contradicted"),
        ("ssu", "supported"),
        ("ccu", "contradicted"),
        ("eeu", "equivalent"),
        ("suu", "undecided"),
        ("cuu", "undecided"),
        ("su", "undecided"),
        ("ssc", "undecided"),
        ("ccs", "undecided"),
        ("sse", "undecided"),
    ],
)
def test_the_rule_over_blocks_is_the_same_in_both_directions(words, verdict):
    names = {"s": "supported", "c": "contradicted", "e": "equivalent", "u": "undecided"}
    assert _agreed(Counter(names[word] for word in words), len(words)) == verdict


def test_the_same_runs_in_two_suites_count_once(tmp_path):
    change = _answers("bridge", 1.0)
    first = _tidy(tmp_path / "a", change, suite="first")
    second = _tidy(tmp_path / "b", change, suite="second", models=("tiny-llama",))
    for table in (first.runs, second.runs):
        table["spec_hash"] = table["model"] + table["method"] + table["seed"].astype(str)
    claims = load_claims(_file(tmp_path, _claim()))
    (found,) = judge_suites([first, second], claims)
    assert [f.suite for f in found.findings] == ["first", "first", "second"]
    assert found.reason.startswith("supported in 2 of 2 blocks; 1 with the same runs not counted")


def test_the_command_judges_committed_suites_together(tmp_path, capsys, monkeypatch):
    """A suite's own tables come first, its committed ones serve where it was not run."""
    change = _answers("bridge", 1.0)
    tables = make_tidy(**(SMALL | {"suite": "one"}))
    change(tables)
    write_tidy(tmp_path / "one" / "tidy", tables)
    write_tidy(tmp_path / "cached" / "two", make_tidy(**(SMALL | {"suite": "two"})))
    monkeypatch.chdir(ROOT)
    cli.main(["claims", "one", "two", "--results", str(tmp_path)])
    said = capsys.readouterr().out
    assert re.match(r"one and two: \d+ supported, \d+ contradicted, \d+ equivalent, ", said)
    assert "[bridge-above-rl-zero] (tested on 0.41 M parameters, 3 seeds)" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 120


def test_one_seed_never_decides(tmp_path):
    (found,) = _judge(tmp_path, _claim(), change=_answers("bridge", 1.0), seeds=(0,))
    assert found.verdict == "undecided"
    assert "fewer than 3 seeds a side decide nothing" in found.findings[0].reason
    assert found.findings[0].evidence[0].p_adjusted is None


def test_two_seeds_never_decide(tmp_path):
    (found,) = _judge(tmp_path, _claim(), change=_answers("bridge", 1.0), seeds=(0, 1))
    assert found.verdict == "undecided"
    assert "fewer than 3 seeds a side decide nothing" in found.reason


def _twin(tables):
    """A row `twin` that answers as `bridge` does but for one question in 200, seed by seed."""
    for name in ("scores", "runs"):
        table = tables[name]
        copy = table[table["method"] == "bridge"].assign(method="twin")
        tables[name] = pd.concat([table, copy], ignore_index=True)
    scores = tables["scores"]
    own = scores["method"] == "twin"
    number = scores["question_id"].str[-4:].astype(int)
    turned = own & (number % 200 == 7 * scores["seed"])
    scores.loc[turned, "greedy_correct"] = 1 - scores.loc[turned, "greedy_correct"]


EQUAL = {"metric": "equivalence", "direction": None, "methods": ["bridge", "twin"]}


def test_equality_is_two_one_sided_tests_against_the_margin(tmp_path):
    settings = {"change": _twin, "seeds": range(6), "sizes": (400, 400), "n_steps": 5}
    wide, narrow, claimed = _judge(
        tmp_path,
        _claim(id="wide", margin=20.0, **EQUAL),
        _claim(id="thin", margin=0.01, **EQUAL),
        _claim(id="differs", methods=["bridge", "twin"]),
        **(settings | {"methods": ("bridge",), "models": ("tiny-qwen",)}),
    )
    assert (wide.verdict, narrow.verdict) == ("supported", "undecided")
    # A claimed difference that is shown to be none is neither supported nor merely undecided.
    assert claimed.verdict == "equivalent"
    assert re.search(r"equivalent within [12]\.0 points", claimed.findings[0].reason)
    (far,) = _judge(
        tmp_path / "far",
        _claim(metric="equivalence", direction=None, margin=2.0, methods=["bridge", "rl_zero"]),
        change=_answers("rl_zero", 0.0),
    )
    assert far.verdict == "contradicted"


def test_a_difference_inside_the_margin_but_not_shown_to_be_is_undecided():
    item = _evidence(0.01, margin=0.02, p_adjusted=0.001, beyond_p_adjusted=1.0)
    assert sign(replace(item, equal_p_adjusted={0.02: 0.2})) == "undecided"
    assert sign(replace(item, equal_p_adjusted={0.02: 0.01})) == "supported"
    # Different from zero is not yet outside the margin.
    outside = replace(item, estimate=_estimate(0.03), beyond_p_adjusted=0.4)
    assert sign(outside) == "undecided"
    assert sign(replace(outside, beyond_p_adjusted=0.01)) == "contradicted"


def test_lambda_robust_compares_the_ends_of_its_range():
    (claim,) = [c for c in load_claims(CLAIMS).claims if c.id == "lambda-robust"]
    assert claim.methods == ("bridge_lambda_0.3", "bridge_lambda_0.7")


@pytest.mark.parametrize("size", [412_672, 200_000_000])
def test_costs_of_small_models_get_no_verdict_over_all_blocks(tmp_path, size):
    def slower(tables):
        tables["runs"]["n_parameters"] = size
        costs = tables["costs"]
        costs.loc[costs["method"] == "cold_start", "seconds_train"] *= 2
        costs["seconds_train"] *= 1 + 0.01 * costs["seed"]

    claim = _claim(metric="training_time", methods=["bridge", "cold_start"], direction="lower")
    (time,) = _judge(tmp_path, claim, change=slower)
    assert [finding.verdict for finding in time.findings] == ["supported", "supported"]
    assert time.findings[0].evidence[0].numbers["effect"] == pytest.approx(-50)
    if size < 100_000_000:
        assert time.verdict == "not run"
        assert time.reason.startswith("no verdict on costs of models below 100 M parameters; supp")
        assert time.tested == "0.41 M parameters, 3 seeds"
    else:
        assert (time.verdict, time.tested) == ("supported", "200 M parameters, 3 seeds")


def test_memory_of_the_host_says_nothing_about_a_claim_on_memory(tmp_path):
    (found,) = _judge(tmp_path, _claim(metric="peak_memory"))
    assert (found.verdict, found.reason) == ("not run", "device memory was not measured")


def test_a_theorem_names_the_premise_that_was_not_met(tmp_path):
    claim = _claim(premises_not_met=["RL has reached its optimum"])
    (found,) = _judge(tmp_path, claim, change=_answers("bridge", 1.0))
    assert found.verdict == "supported"
    assert "premise not met: RL has reached its optimum" in found.reason


def test_the_demonstrations_behind_a_verdict_are_counted_where_they_are_known(tmp_path):
    folder = write_tidy(tmp_path / "tidy", make_tidy(**SMALL))
    counts = {"dataset": ["chains"] * 2, "training_set": ["prompts", "demonstrations"]}
    pd.DataFrame(counts | {"n_training": [1024, 128]}).to_parquet(folder / "contamination.parquet")
    sealed(folder)
    (found,) = judge_claims(load_tidy(folder), load_claims(_file(tmp_path, _claim())))
    assert found.tested == "0.41 M parameters, 128 demonstrations, 3 seeds"


def test_device_memory_is_judged_where_it_was_measured(tmp_path):
    def measured(tables):
        costs = tables["costs"]
        bridge = costs["method"] == "bridge"
        costs["memory_device_gib"] = np.where(bridge, 4.0, 3.0) + 0.01 * costs["seed"]
        tables["runs"]["n_parameters"] = 200_000_000

    (found,) = _judge(tmp_path, _claim(metric="peak_memory"), change=measured)
    assert found.verdict == "supported"
    assert found.findings[0].evidence[0].what.startswith("peak device memory")


def _course(**changes):
    legs = [
        {"start": "switch", "end": "early", "direction": "lower"},
        {"start": "early", "end": "end", "direction": "higher"},
    ]
    return _claim(
        metric="course", methods=["cold_start"], direction=None, quantity="heldout_accuracy",
        phases=["sft", "rl"], legs=legs, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("early", "end", "verdict"),
    [(0.3, 0.8, "supported"), (0.7, 0.8, "contradicted"), (0.5, 0.8, "undecided")],
)
def test_a_dip_needs_a_fall_and_a_rise(tmp_path, early, end, verdict):
    def drawn(tables):
        log = tables["dynamics"]
        own = (log["method"] == "cold_start") & log["heldout_accuracy"].notna()
        noise = 0.004 * (log["seed"] - 1)
        late = np.where(log["step"] == 60, end, early)
        value = np.where(log["step"] < 20, 0.5, late)
        log.loc[own, "heldout_accuracy"] = (value + noise * (log["step"] >= 20))[own]

    (found,) = _judge(tmp_path, _course(), change=drawn)
    assert found.verdict == verdict


def test_a_course_without_its_phases_or_measurements_is_not_run(tmp_path):
    claims = (
        _course(id="phases") | {"methods": ["bridge"]},
        _course(id="log") | {"quantity": "demo_loss_heldout"},
    )
    phases, log = _judge(tmp_path, *claims)
    assert (phases.verdict, phases.reason) == ("not run", "BRIDGE has no change from sft to rl")
    assert log.reason == "Cold-start has too few measurements of demo_loss_heldout"


def test_the_tables_hold_every_claim_and_block_and_are_the_same_bytes(tmp_path):
    folder = write_tidy(tmp_path / "tidy", make_tidy(**SMALL))
    for out in ("a", "b"):
        build_tables(folder, tmp_path / out, claims_file=CLAIMS)
    rows = pd.read_csv(tmp_path / "a" / "claims.csv")
    claims = load_claims(CLAIMS).claims
    assert set(rows["id"]) == {claim.id for claim in claims}
    assert rows.groupby("id")["model"].nunique().eq(2).all()
    words = {"supported", "contradicted", "equivalent", "undecided", "not run"}
    assert set(rows["verdict"]) <= words
    for kind in ("csv", "md", "tex", "html"):
        text = (tmp_path / "a" / f"claims.{kind}").read_bytes()
        assert text == (tmp_path / "b" / f"claims.{kind}").read_bytes()
    assert "needs the row sasr" in (tmp_path / "a" / "claims.md").read_text()


def _estimate(mean, error=0.03, n_seeds=3):
    return Estimate(mean, Uncertainty((Source(error**2, 28.0),)), n_seeds)


def _evidence(mean, **changes):
    return Evidence("A minus B", _estimate(mean), "points", 1, **changes)


def test_a_verdict_that_only_the_adjustment_took_away_says_so():
    item = _evidence(0.09, p_adjusted=0.2, beyond_p_adjusted=1.0, level=0.05 / 9)
    text = sentence(item)
    assert text.startswith("A minus B: +9.0 [+2.9, +15.1] points, p = 0.20 (p = 0.006 before the")
    assert text.endswith(f"about {item.more_seeds} more seeds a side would decide it")
    assert "before" not in sentence(replace(item, estimate=_estimate(0.01)))
    assert "before" not in sentence(replace(item, p_adjusted=0.02))


@pytest.mark.parametrize("after", [True, False])
def test_a_claim_from_after_the_results_says_so(tmp_path, after):
    found = _judge(tmp_path, _claim(after_results=after))
    assert (AFTER_RESULTS in found[0].reason) == after
