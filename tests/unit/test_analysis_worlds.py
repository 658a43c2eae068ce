"""Where a difference's spread comes from, and what the tables say of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bridge.analysis.numbers.cells import build_blocks
from bridge.analysis.numbers.frames import load_tidy
from bridge.analysis.numbers.worlds import spread_of_difference, world_and_seed_sd
from bridge.analysis.report.building import build_tables
from tests.fixtures.tidy import make_tidy, write_tidy


def test_the_spread_is_split_into_worlds_and_seeds() -> None:
    rng = np.random.default_rng(1)
    worlds, seeds = rng.normal(0, 4, (3000, 1)), rng.normal(0, 2, (3000, 3))
    assert world_and_seed_sd(worlds + seeds) == pytest.approx((4, 2), rel=0.05)
    assert world_and_seed_sd(seeds) == pytest.approx((0, 2), abs=0.5)
    # By hand: seed variances 2 and 8, world means 1 and 5: 8 - 5 / 2.
    assert world_and_seed_sd([[0, 2], [3, 7]]) == pytest.approx((5.5**0.5, 5**0.5))


def test_differences_say_how_they_spread(tmp_path: Path) -> None:
    tables = make_tidy(
        models=("tiny-qwen",),
        methods=("rl_zero", "bridge"),
        seeds=(100, 101, 200, 201),
        sizes=(25, 30),
    )
    tables["runs"]["world"] = tables["runs"]["seed"] // 100
    (block,) = build_blocks(load_tidy(write_tidy(tmp_path / "tidy", tables)))
    scores = tables["scores"]
    runs = scores.groupby(["method", "seed", "benchmark"])["greedy_correct"].mean()
    means = runs.groupby(["method", "seed"]).mean()
    gaps = (means["bridge"] - means["rl_zero"]).to_numpy().reshape(2, 2)
    assert spread_of_difference(block, "bridge", "rl_zero") == pytest.approx(
        world_and_seed_sd(gaps)
    )
    build_tables(tmp_path / "tidy", tmp_path / "tables")
    text = (tmp_path / "tables" / "differences.md").read_text()
    world, seed = world_and_seed_sd(gaps)
    assert f"bridge {100 * world:.1f} and {100 * seed:.1f}" in text


def test_one_seed_a_world_cannot_be_split(tmp_path: Path) -> None:
    tables = make_tidy(models=("tiny-qwen",), methods=("rl_zero", "bridge"), seeds=(100, 200))
    tables["runs"]["world"] = tables["runs"]["seed"] // 100
    (block,) = build_blocks(load_tidy(write_tidy(tmp_path, tables)))
    assert spread_of_difference(block, "bridge", "rl_zero") is None
