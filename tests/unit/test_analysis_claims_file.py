"""The claims of the repository's own file, and the numbers that they quote."""

import re
from pathlib import Path

import pandas as pd
import pytest

from bridge.analysis.claims.stating import load_claims

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "claims.yaml"


def test_the_file_of_the_repository_states_the_claims_of_its_papers():
    claims = load_claims(CLAIMS)
    papers = {"bridge", "sasr", "coupling", "audit", "luffy", "hpt", "chord", "healing"}
    assert set(claims.papers) == papers
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
        own = claim.paper == "bridge" and claim.published and claim.metric == "accuracy"
        if own and claim.methods[1] in newest.index:
            gap = newest[claim.methods[0]] - newest[claim.methods[1]]
            assert claim.published.effect == pytest.approx(gap), claim.id
    cost = table[(table["version"] == "v1") & (table["benchmark"] == "cost")]
    cost = cost.set_index(["model", "method", "metric"])["value"]
    for claim in load_claims(CLAIMS).claims:
        metric = {"training_time": "wall_clock_h", "peak_memory": "gpu_memory_gb"}.get(claim.metric)
        if metric:
            first, second = (cost[claim.published.model, m, metric] for m in claim.methods)
            assert claim.published.effect == pytest.approx(100 * (first / second - 1), abs=0.6)


def test_effects_of_the_other_methods_agree_with_the_published_numbers():
    table = pd.read_csv(ROOT / "results" / "published" / "published_methods.csv")
    table = table[table["benchmark"] == "average6"]
    values = table.set_index(["paper", "model", "method"])["value"]
    papers = {"audit": "SFT-then-RL audit", "luffy": "LUFFY", "hpt": "HPT"}
    rows = {"cold_start": "sft_then_rl", "rl_zero": "grpo"}
    checked = 0
    for claim in load_claims(CLAIMS).claims:
        if claim.paper in papers and claim.published:
            key = papers[claim.paper], claim.published.model
            first, second = (values[*key, rows.get(m, m)] for m in claim.methods)
            assert claim.published.effect == pytest.approx(first - second), claim.id
            checked += 1
    assert checked == 7
