"""Claims: the schema's refusals, each verdict, and what is said when something is missing."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from bridge.analysis.claims.claims import _sentence, judge_claims, load_claims
from bridge.analysis.claims.evidence import Evidence
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.report.building import build_tables
from bridge.store.schema import ConfigError
from tests.fixtures.tidy import make_tidy, write_tidy

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


def test_the_file_of_the_repository_states_the_claims_of_three_papers():
    claims = load_claims(CLAIMS)
    assert set(claims.papers) == {"bridge", "sasr", "coupling"}
    ids = {claim.id for claim in claims.claims}
    assert ids >= {
        "bridge-above-rl-zero",
        "bridge-above-cold-start",
        "bridge-above-alternating",
        "bridge-faster-than-cold-start",
        "bridge-memory-above-cold-start",
        "cold-start-dips-then-rises",
        "lambda-robust",
        "gain-matters",
        "bridge-robust-to-flipped-rewards",
        "sasr-above-sft",
        "sasr-above-grpo",
        "sasr-above-static-hybrid",
        "rl-after-sft-raises-sft-loss",
        "sft-after-rl-lowers-reward",
    }


def test_where_a_claim_was_read_is_said_in_its_own_field_only():
    """Free words could not be shown beside the effect."""
    for claim in load_claims(CLAIMS).claims:
        assert not re.search("read in|summar|note", claim.where), claim.id


def test_published_effects_agree_with_the_published_numbers():
    table = pd.read_csv(ROOT / "results" / "published" / "published.csv")
    main = table[table["note"].str.startswith("table=main") & (table["benchmark"] == "average5")]
    newest = main[main["version"].isin(["v1", "v3"])].groupby("method")["value"].last()
    for claim in load_claims(CLAIMS).claims:
        if claim.published and claim.metric == "accuracy" and claim.methods[1] in newest.index:
            gap = newest[claim.methods[0]] - newest[claim.methods[1]]
            assert claim.published.effect == pytest.approx(gap), claim.id
    cost = table[(table["version"] == "v1") & (table["benchmark"] == "cost")]
    cost = cost.set_index(["model", "method", "metric"])["value"]
    for claim in load_claims(CLAIMS).claims:
        metric = {"training_time": "wall_clock_h", "peak_memory": "gpu_memory_gb"}.get(claim.metric)
        if metric:
            first, second = (cost[claim.published.model, m, metric] for m in claim.methods)
            assert claim.published.effect == pytest.approx(100 * (first / second - 1), abs=0.6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"direktion": "higher"}, "claims.0.direktion: unknown key; did you mean 'direction'"),
        ({"metric": "speed"}, "claims.0.metric"),
        ({"read_in": None}, "claims.0.read_in: this key is required"),
        ({"read_in": "rumour"}, "claims.0.read_in: Input should be 'paper', 'summary' or 'note'"),
        ({"direction": None}, "metric 'accuracy' needs 'direction'"),
        ({"margin": 2.0}, "metric 'accuracy' takes no 'margin'"),
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


def test_no_effect_is_undecided_and_says_what_could_have_been_seen(tmp_path):
    (found,) = _judge(tmp_path, _claim(methods=["cold_start", "rl_zero"]))
    assert found.verdict == "undecided"
    item = found.findings[0].evidence[0]
    assert f"{item.detectable:.1f} points could have been seen" in found.findings[0].reason
    assert "could have seen" in found.reason


def test_holm_runs_over_all_claims_of_a_kind_and_all_blocks(tmp_path):
    alone = _judge(tmp_path / "a", _claim(methods=["bridge", "rl_zero"]))[0]
    others = [_claim(id=f"c{i}", methods=["bridge", "cold_start"]) for i in range(9)]
    crowd = _judge(tmp_path / "b", _claim(), *others)[0]
    for lone, one in zip(alone.findings, crowd.findings, strict=True):
        assert lone.evidence[0].p_value == one.evidence[0].p_value
        assert lone.evidence[0].p_adjusted < one.evidence[0].p_adjusted


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


def test_one_seed_never_decides(tmp_path):
    (found,) = _judge(tmp_path, _claim(), change=_answers("bridge", 1.0), seeds=(0,))
    assert found.verdict == "undecided"
    assert "one seed a side" in found.findings[0].reason
    assert found.findings[0].evidence[0].p_adjusted is None


def test_equivalence_needs_every_interval_inside_the_margin(tmp_path):
    def copies(tables):
        for name in ("scores", "runs"):
            table = tables[name]
            copy = table[table["method"] == "bridge"].assign(method="twin")
            tables[name] = pd.concat([table, copy], ignore_index=True)

    settings = {"change": copies, "seeds": range(6), "sizes": (400, 400), "n_steps": 5}
    wide, narrow = _judge(
        tmp_path,
        _claim(
            id="wide", metric="equivalence", direction=None, margin=20.0, methods=["bridge", "twin"]
        ),
        _claim(
            id="thin", metric="equivalence", direction=None, margin=0.1, methods=["bridge", "twin"]
        ),
        **settings,
    )
    assert wide.verdict == "supported"
    assert narrow.verdict == "undecided"
    (far,) = _judge(
        tmp_path / "far",
        _claim(metric="equivalence", direction=None, margin=2.0, methods=["bridge", "rl_zero"]),
        change=_answers("rl_zero", 0.0),
    )
    assert far.verdict == "contradicted"


def test_time_and_memory_are_ratios_with_a_word_about_small_models(tmp_path):
    def slower(tables):
        costs = tables["costs"]
        own = costs["method"] == "cold_start"
        costs.loc[own, "seconds_train"] *= 2
        costs.loc[own, "memory_host_gib"] *= 1.5

    time, memory = _judge(
        tmp_path,
        _claim(metric="training_time", methods=["bridge", "cold_start"], direction="lower"),
        _claim(id="m", metric="peak_memory", methods=["bridge", "cold_start"]),
        change=slower,
    )
    assert time.verdict == "supported"
    assert time.findings[0].evidence[0].effect == pytest.approx(-50)
    assert memory.verdict == "contradicted"
    assert "device memory was not measured" in memory.reason
    assert "0.4 M parameters" in memory.reason


def test_device_memory_is_preferred_where_it_was_measured(tmp_path):
    def measured(tables):
        costs = tables["costs"]
        bridge = costs["method"] == "bridge"
        costs["memory_device_gib"] = np.where(bridge, 4.0, 3.0) + 0.01 * costs["seed"]

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
    assert set(rows["verdict"]) <= {"supported", "contradicted", "undecided", "not run"}
    for kind in ("csv", "md", "tex", "html"):
        text = (tmp_path / "a" / f"claims.{kind}").read_bytes()
        assert text == (tmp_path / "b" / f"claims.{kind}").read_bytes()
    assert "needs the row sasr" in (tmp_path / "a" / "claims.md").read_text()


def test_a_verdict_that_only_the_adjustment_took_away_says_so():
    """An effect twice the detectable one that is undecided would puzzle a reader otherwise."""
    item = Evidence("A minus B", 9.0, 1.0, 17.0, "points", 0.01, 4.0, 1, p_adjusted=0.2)
    assert _sentence(item) == (
        "A minus B: +9.0 [+1.0, +17.0] points, p = 0.20 (p = 0.010 before the adjustment), 4.0 "
        "points could have been seen"
    )
    assert "before" not in _sentence(replace(item, p_value=0.1))
    assert "before" not in _sentence(replace(item, p_adjusted=0.02))
